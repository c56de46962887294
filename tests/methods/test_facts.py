"""Facts that are kept make the same plan, and are used where nothing that they follow from has changed."""

import json

import pytest
from data_files import write_class_folders
from tiny_sweep import tiny_config

from qprune.methods import facts as module
from qprune.stages import fingerprints
from qprune.storage import kept
from qprune.sweep import data_lines
from qprune.sweep.plan import make_plan

SETTINGS = ("prune.of=macs", "prune.until=0.9", "baselines=[narrower]", "baseline_budget=[updates,flops]")


@pytest.fixture
def looked(monkeypatch):
    """The data sets that have been read, since the latest another_command()."""
    read = []
    real = module.load_data
    for user in (module, data_lines):
        monkeypatch.setattr(user, "load_data", lambda settings: read.append(settings["name"]) or real(settings))
    another_command(read)
    return read


def another_command(looked) -> None:
    """Forget what this process knows."""
    module.gather_facts.cache_clear()
    module._check_readable.cache_clear()
    fingerprints.data_fingerprint_of.cache_clear()
    fingerprints.model_fingerprint_of.cache_clear()
    looked.clear()


@pytest.mark.parametrize("settings", [(), SETTINGS, ("prune.ignore=[conv2]", "protocol=early")])
def test_the_plan_is_the_same_and_nothing_is_read_or_built(tmp_path, looked, monkeypatch, settings):
    config = tiny_config(tmp_path, *settings)
    plan, lines = make_plan(config), list(data_lines.data_lines(config))
    macs = plan.facts["vgg_tiny", "digits"].dense_macs
    assert looked
    another_command(looked)
    monkeypatch.setattr("qprune.stages.saved.build_model", lambda *arguments: pytest.fail("a network is built"))
    again = make_plan(config)
    assert again.stages == plan.stages and again.cells == plan.cells and again.spending == plan.spending
    assert list(data_lines.data_lines(config)) == lines and list(again.left_out_lines()) == list(plan.left_out_lines())
    kept_facts, found = again.facts["vgg_tiny", "digits"], plan.facts["vgg_tiny", "digits"]
    assert kept_facts == found and kept_facts.dense_macs == macs
    assert json.dumps(kept_facts.spec.to_json()) == json.dumps(found.spec.to_json())
    assert not looked


@pytest.mark.parametrize("change", ["model.width=0.25", "data.subset=128", "prune.ignore=[conv2]"])
def test_other_settings_have_facts_of_their_own(tmp_path, looked, change):
    first = make_plan(tiny_config(tmp_path)).facts["vgg_tiny", "digits"]
    another_command(looked)
    other = make_plan(tiny_config(tmp_path, change)).facts["vgg_tiny", "digits"]
    assert looked and (other.maps, other.images) != (first.maps, first.images)


@pytest.mark.parametrize("what", ["qprune", "torch"])
def test_other_code_asks_anew(tmp_path, looked, monkeypatch, what):
    make_plan(tiny_config(tmp_path))
    another_command(looked)
    code = kept.code()
    monkeypatch.setattr(kept, "code", lambda: code | {what: "other"})
    make_plan(tiny_config(tmp_path))
    assert looked == ["digits"] * 2


def test_another_version_of_a_model_asks_anew(tmp_path, looked, monkeypatch):
    make_plan(tiny_config(tmp_path))
    another_command(looked)
    monkeypatch.setattr(module, "model_fingerprint_of", lambda model: "another")
    make_plan(tiny_config(tmp_path))
    assert looked


def test_a_changed_file_asks_anew(tmp_path, looked):
    """One picture more in a folder of images, and one in which a pixel is another."""
    root = tmp_path / "birds"
    for part in ("train", "val", "test"):
        write_class_folders(root / part, 20)
    config = tiny_config(tmp_path, f"data={{name: imagefolder, root: {root}, image_size: 16}}")
    images = {}
    for step in ("new", "same", "more", "other"):
        if step == "more":
            source = next((root / "train").rglob("*.png"))
            source.with_name("another.png").write_bytes(source.read_bytes())
        if step == "other":
            one, two = list(next((root / "train").iterdir()).glob("*.png"))[:2]
            one.write_bytes(two.read_bytes())
        another_command(looked)
        (facts,) = make_plan(config).facts.values()
        images[step] = facts.images
        assert bool(looked) == (step != "same"), step
    assert images["same"] == images["new"] < images["more"] == images["other"]


def test_of_the_users_own_code_nothing_is_kept(tmp_path, looked, monkeypatch):
    """It may import what its fingerprint doesn't follow."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
        "def data():\n"
        "    import torch\n"
        "    x, y = torch.zeros(60, 1, 8, 8, dtype=torch.uint8), torch.arange(60) % 3\n"
        "    return {'train': (x, y), 'val': (x, y), 'test': (x, y)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for change in (f"model={name}:build", f"data={name}:data"):
        config = tiny_config(tmp_path, change)
        for _ in range(2):
            another_command(looked)
            (facts,) = make_plan(config).facts.values()
            assert looked and facts.follows_from is None
    module_facts = [file.read_text() for file in kept.PLACE.glob("*.json")]
    assert not [text for text in module_facts if name in text]


def test_what_torchvision_says_of_a_name_is_kept(tmp_path, monkeypatch):
    from qprune import networks
    from qprune.networks import torchvision_door
    from qprune.registry.errors import UserError

    asked = []
    real = torchvision_door.check
    monkeypatch.setattr(
        torchvision_door, "check", lambda *args, **options: asked.append(args) or real(*args, **options)
    )
    settings = {"name": "torchvision:resnet18", "weights": "DEFAULT"}
    first = networks.model_fingerprint(settings)
    networks.check_model(settings)
    assert len(asked) == 1 and networks.model_fingerprint(settings) == first
    assert networks.model_fingerprint(settings | {"weights": "IMAGENET1K_V1"}) == first
    assert networks.model_fingerprint(settings | {"weights": None}) != first
    for _ in range(2):
        with pytest.raises(UserError, match="resnet19"):
            networks.check_model({"name": "torchvision:resnet19"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DEFAULT").write_text("")  # now it is a file
    asked.clear()
    networks.check_model(settings)
    networks.check_model(settings)
    assert len(asked) == 2
