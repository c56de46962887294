"""A folder of before stages had their present names: read, or refused in a sentence; never computed again unasked."""

import json
import re

import pytest
from tiny_sweep import command, run_inline, tiny_config

from qprune.deploy.cells import load_network, open_cell
from qprune.ranking.run import run_rank
from qprune.registry.errors import UserError
from qprune.storage.results import record_file
from qprune.storage.seal import read_sealed_json, sealed_json


@pytest.fixture
def old(resumable):
    """A finished sweep as an older qprune left it: no layout in sweep.json, no data settings in records."""
    folder = resumable / "results/tiny"
    settings = read_sealed_json(folder / "sweep.json")
    (folder / "sweep.json").write_bytes(sealed_json({k: v for k, v in settings.items() if k != "layout"}))
    for path in (folder / "cells").glob("*.json"):
        record = read_sealed_json(path)
        path.write_bytes(
            sealed_json({key: value for key, value in record.items() if key not in ("data_settings", "model_settings")})
        )
    return resumable


def test_it_is_not_gone_on_with(old):
    before = sorted(path for path in (old / "results").rglob("*"))
    for run in (lambda config: run_inline(config, old / "results"), lambda c: run_rank(c, old / "results", None, None)):
        with pytest.raises(UserError, match=r"tiny was made by .*layout 1, here 2.*--out, or another `name`") as caught:
            run(tiny_config(old))
        assert "\n" not in str(caught.value)
    assert sorted(path for path in (old / "results").rglob("*")) == before


def test_nor_where_its_sweep_file_is_damaged(old):
    """Its records tell, and are kept."""
    folder = old / "results/tiny"
    (folder / "sweep.json").write_bytes(b"")
    before = sorted((folder / "cells").iterdir())
    with pytest.raises(UserError, match="layout 1, here 2"):
        run_inline(tiny_config(old), old / "results")
    assert sorted((folder / "cells").iterdir()) == before


def test_it_is_still_read(old):
    folder = old / "results/tiny"
    for arguments in (("status", folder), ("pick", folder, "--json"), ("report", folder)):
        done = command(*arguments, cwd=old)
        assert done.returncode == 0, done.stderr
    cell = json.loads(command("pick", folder, "--json", cwd=old).stdout)["pick"]["cell"]
    assert load_network(folder, cell) is not None
    with pytest.raises(UserError, match=re.escape(f"{record_file(folder, cell)} is of an older qprune")):
        open_cell(folder, cell)


def test_under_another_name_a_sweep_begins_beside_it(old):
    code, computed, _ = run_inline(tiny_config(old, "name=new", "seeds=0", "precisions=fp32"), old / "results")
    assert code == 0 and computed == []  # the stages of the folder are of this layout, in this test
