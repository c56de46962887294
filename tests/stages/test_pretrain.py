"""Pretraining on another data set: one stage, shared by seeds and sweeps, of which the body is taken and the head is not."""

import pytest
import torch
from tiny_sweep import run_inline, tiny_config

from qprune.networks.weights import head_name
from qprune.ranking.plan import make_rank_plan
from qprune.registry.errors import UserError
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

PRETRAIN = "pretrain={data: {name: digits, subset: 300}, updates: 30, batch_size: 64, lr: 0.2}"
SMALL = ("precisions=fp32", "prune.ratios=[0,0.5]", PRETRAIN)


def dense_stages(config):
    """(the pretraining, the dense stages that begin with it)."""
    dense = [stage for stage in make_plan(config).stages.values() if stage.kind == "dense"]
    (before,) = [stage for stage in dense if not stage.inputs]
    assert all(stage.inputs == (before.id,) for stage in dense if stage is not before)
    return before, [stage for stage in dense if stage is not before]


def test_it_is_the_dense_stage_of_a_sweep_on_its_data(tmp_path):
    before, dense = dense_stages(tiny_config(tmp_path, *SMALL, "train.scratch_baseline=true"))
    assert len(dense) == 4  # two seeds, each also from scratch under one schedule
    own = ("data={name: digits, subset: 300}", "seeds=0", "train={updates: 30, batch_size: 64, lr: 0.2}")
    assert before.id in make_plan(tiny_config(tmp_path, *own)).stages
    assert before.updates == 30 and before.label == "pretrain vgg_tiny on digits"
    ranked = make_rank_plan(tiny_config(tmp_path, *SMALL)).stages
    assert list(ranked).index(before.id) < list(ranked).index(dense[0].id)


def test_networks_begin_with_its_body(tmp_path):
    still = ("train.lr=1e-12", "train.updates=1", "train.momentum=0.0")
    config = tiny_config(tmp_path, *SMALL, *still)
    code, computed, _ = run_inline(config, tmp_path / "results")
    before, (one, other) = dense_stages(config)
    assert code == 0 and computed.count(before.id) == 1
    store = Store(tmp_path / "results/stages")
    pretrained, first, second = (store.tensors(stage.id) for stage in (before, one, other))
    head = head_name(store_network(store, before.id))
    for name in pretrained:
        if name.endswith("weight"):
            at_most = 1e-6 if not name.startswith(head) else -1.0
            gap = (first[name] - pretrained[name]).abs().max().item()
            assert gap <= at_most if at_most > 0 else gap > 1e-3, name
    assert not torch.allclose(first[f"{head}.weight"], second[f"{head}.weight"])  # another seed, another head
    code, computed, _ = run_inline(
        tiny_config(tmp_path, *SMALL, "name=again", "finetune.epochs=2"), tmp_path / "results"
    )
    assert code == 0 and before.id not in computed


def store_network(store, stage):
    from qprune.stages.saved import NetworkSpec

    return NetworkSpec.from_json(store.meta(stage)["network"], (), "").build()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("pretrain={data: digits}",), "key 'updates' is missing; every pretrain needs data, updates"),
        (("pretrain={data: digits, updates: 3, epochs: 2}",), "pretrain.epochs: key 'epochs' belongs under"),
        (("pretrain={data: dogits, updates: 3}",), "unknown data set 'dogits'; did you mean 'digits'"),
        (
            ("pretrain={data: {name: tiny_imagenet, root: nowhere}, updates: 3}",),
            "train not found. Looked in: .*nowhere",
        ),
        (
            ("pretrain={data: digits, updates: 3}", "train={checkpoint: tiny.yaml, updates: 9}"),
            "leaves nothing to pretrain",
        ),
    ],
)
def test_what_is_refused(overrides, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        make_plan(tiny_config(tmp_path, *overrides))


def test_another_shape_is_one_clear_failure(tmp_path, picture_folder):
    overrides = (
        *SMALL[:2],
        f"pretrain={{data: {{name: imagefolder, root: {picture_folder}, image_size: 8}}, updates: 3}}",
    )
    code, _, text = run_inline(tiny_config(tmp_path, *overrides), tmp_path / "results")
    assert code == 1
    assert "weights: pretrain vgg_tiny on pictures doesn't fit the model" in text


@pytest.fixture
def picture_folder(tmp_path):
    import numpy as np
    from PIL import Image

    for name in ("one", "two"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = np.random.RandomState(number).randint(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pictures"
