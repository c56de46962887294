"""A sweep that is killed again and again ends as if nothing had been; the long form is tests/helpers/soak.py."""

import pytest
from soak import soak

SETTINGS = ["seeds=0", "train.updates=1000", "prune.updates_between=20", "finetune.updates=300", "quantize.updates=100"]


@pytest.mark.slow
def test_a_sweep_survives_kills(tmp_path):
    said = []
    report = soak(tmp_path, kills=5, seed=3, workers=2, settings=SETTINGS, say=said.append)
    assert sum(report["kills"].values()) == 5 and set(report["kills"]) == {"driver", "all", "worker"}, said
    assert report["complete"] >= 1 and report["contents compared"] > 20
