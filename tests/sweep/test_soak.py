"""A sweep that is killed again and again ends as if nothing had been; the long form is tests/helpers/soak.py."""

import pytest
from soak import Kill, soak

SETTINGS = ["seeds=0", "train.updates=160", "prune.updates_between=4", "finetune.updates=80", "quantize.updates=40"]
KILLS = [Kill("all", "process", 3), Kill("worker", "save", 2), Kill("driver", "save", 4)]


@pytest.mark.long
def test_a_sweep_survives_kills(tmp_path):
    said = []
    report = soak(tmp_path, KILLS, workers=2, settings=SETTINGS, say=said.append)
    assert report["kills"] == {"all": 1, "worker": 1, "driver": 1} and report["before the first stage"] == 1, said
    assert report["complete"] == 1 and report["unfinished work at a kill"] and report["contents compared"] > 20, said
