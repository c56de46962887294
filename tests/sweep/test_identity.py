"""The names of stages: finished nights are found by them, so a change of one is a deliberate act.

Where an id has moved on purpose, the version of its kind has been raised, and this file is made anew by
    python tests/sweep/test_identity.py
"""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import pytest

from qprune.methods import facts, maker
from qprune.networks import MODELS
from qprune.pruning.maps import Layer, Maps
from qprune.ranking import plan as ranking_plan
from qprune.registry.identity import added_later, aside, digest, plain
from qprune.settings.config import load_config
from qprune.stages import KINDS, Stage
from qprune.stages.saved import NetworkSpec
from qprune.sweep.plan import make_plan

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
PINNED = Path(__file__).with_name("stage_ids.json")
IMAGES, MAPS = 20_000, 1_000  # of data and networks that aren't here


def stand_in(monkeypatch) -> None:
    """Fixed facts and fingerprints for data sets that have to be fetched, and for torchvision's networks."""
    real = maker.facts_of
    fingerprints = {name: getattr(maker, name) for name in ("data_fingerprint_of", "model_fingerprint_of")}

    answers = {json.dumps(["values_per_weight"]): 1.0}
    fixed = facts.Facts(NetworkSpec({}, 3, 64, 10, (), ()), None, IMAGES, answers=answers)

    def facts_of(config, model, data):
        if data.name == "digits" and model.name in MODELS:
            return real(config, model, data)
        return dataclasses.replace(fixed, layout=Maps((Layer("all", 0, MAPS),)))

    monkeypatch.setattr("qprune.data.check_data", lambda settings: None)
    monkeypatch.setattr("qprune.networks.check_model", lambda settings: None)
    monkeypatch.setattr(maker, "check_data", lambda settings: None)
    monkeypatch.setattr(maker, "facts_of", facts_of)
    monkeypatch.setattr(maker, "gather_facts", lambda *asked, prunes: fixed)  # of pretraining
    for name, fingerprint in fingerprints.items():
        known = MODELS if name.startswith("model") else ("digits",)
        monkeypatch.setattr(
            maker,
            name,
            lambda choice, known=known, real=fingerprint: real(choice) if choice.name in known else "0" * 16,
        )


def ids_of(path: Path) -> dict[str, dict]:
    """Kind -> how many stages of it a sweep has, a digest of their ids, and all that the first one is named by."""
    config = load_config(path)
    stages = dict(make_plan(config).stages)
    if config.name == "quickstart":
        stages |= ranking_plan.make_rank_plan(config).stages
    found = {}
    for kind in KINDS.names():
        own = [stage for stage in stages.values() if stage.kind == kind]
        if own:
            ids = "\n".join(sorted(stage.id for stage in own))
            found[kind] = {
                "stages": len(own),
                "digest": hashlib.sha256(ids.encode()).hexdigest()[:16],
                "first": own[0].id,
                "named_by": own[0].named_by,
            }
    return found


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_no_id_has_moved(path, monkeypatch):
    stand_in(monkeypatch)
    pinned = json.loads(PINNED.read_text())[path.stem]
    assert json.loads(json.dumps(ids_of(path))) == pinned, "finished work would not be found again: see the docstring"


def test_every_kind_is_pinned():
    pinned = json.loads(PINNED.read_text())
    assert set(pinned) == {path.stem for path in SWEEPS}
    assert set().union(*pinned.values()) == set(KINDS.names()), "a sweep of sweeps/ should have each"


# What a name is made of ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Small:
    a: int
    label: str = aside("")
    math: str = added_later("fp32")
    later: int = added_later(0, default=5)


def test_a_setting_that_came_later_is_absent_at_the_value_of_before():
    assert plain(Small(1)) == {"a": 1, "later": 5}  # its default is another one by now
    assert plain(Small(1, later=0, label="x")) == {"a": 1}
    assert plain(Small(1, math="bf16", later=0)) == {"a": 1, "math": "bf16"}


def test_the_digest_is_pinned():
    assert digest({"b": [1, None], "a": "x"}) == digest({"a": "x", "b": [1, None]}) == "8ea2c0f31b799f04"


@pytest.mark.parametrize("kind", KINDS.names())
def test_a_kind_is_what_it_is_registered_as(kind):
    stage = KINDS.load(kind)
    assert issubclass(stage, Stage) and stage.kind == kind and isinstance(stage.version, int)
    assert dataclasses.is_dataclass(stage) and stage.__dataclass_params__.frozen
    assert stage.__module__.startswith("qprune.stages.")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    patch = pytest.MonkeyPatch()
    stand_in(patch)
    PINNED.write_text(json.dumps({path.stem: ids_of(path) for path in SWEEPS}, indent=1, sort_keys=True) + "\n")
