"""The sweep file: what is accepted, what is refused, and where each error points."""

import json
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qprune.precision import PRECISIONS
from qprune.pruning.criteria import CRITERIA
from qprune.registry import Entry, Registry
from qprune.registry.errors import UserError
from qprune.settings.config import SweepConfig, config_as_dict, load_config, write_template
from qprune.settings.sections import Budget
from qprune.settings.yaml_source import MAX_BYTES, override, parse

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"
MINIMAL = "name: a\ndata: digits\nmodel: vgg_tiny\n"


def _check(registry):
    return lambda settings: registry.get(settings["name"])


@pytest.fixture
def registries(monkeypatch):
    """Small registries in place of qprune's own, so that these tests are about the file alone."""
    data, models = (
        Registry(kind, *(Entry(name, "") for name in names))
        for kind, names in (("data set", ("digits", "mnist")), ("model", ("vgg_tiny", "resnet20")))
    )
    criteria = Registry("criterion", *map(CRITERIA.get, ("taylor", "taylor_signed", "random")))
    precisions = Registry("precision", *map(PRECISIONS.get, ("fp32", "fp16", "int8", "int4")))
    fakes = {
        "qprune.data": {"check_data": _check(data)},
        "qprune.networks": {"check_model": _check(models)},
        "qprune.precision": {"PRECISIONS": precisions},
        "qprune.pruning.criteria": {"CRITERIA": criteria, "check_criterion": _check(criteria)},
    }
    for name, contents in fakes.items():
        module = types.ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def load(registries, tmp_path, monkeypatch):
    """Loads a text as the file q.yaml of the current directory."""
    monkeypatch.chdir(tmp_path)

    def load_text(text, *overrides):
        content = text if isinstance(text, bytes) else text.encode()
        Path("q.yaml").write_bytes(content)
        return load_config("q.yaml", overrides)

    return load_text


def error_of(load, text, *overrides):
    with pytest.raises(UserError) as caught:
        load(text, *overrides)
    return str(caught.value)


# Accepted -----------------------------------------------------------------------------------------------------------


def test_quickstart(load):
    config = load(QUICKSTART.read_text())
    assert config.name == "quickstart"
    assert [choice.settings for choice in config.data] == [{"name": "digits"}]
    assert [choice.settings for choice in config.model] == [{"name": "vgg_tiny"}]
    assert config.seeds == (0, 1, 2)
    assert (config.protocol, config.budget.epochs, config.train.epochs, config.train.batch_size) == (
        "early",
        48,
        None,
        64,
    )
    assert (config.train.lr, config.train.momentum, config.train.weight_decay) == (0.05, 0.9, 5e-4)
    assert [choice.settings for choice in config.prune.criterion] == [{"name": "taylor"}]
    assert config.prune.ratios == (0.0, 0.25, 0.5, 0.75, 0.9)
    assert (config.prune.until, config.prune.updates_between, config.quantize.first_last_bits) == (0.9, None, 8)
    assert config.precisions == ("fp32", "fp16", "int8", "int4")
    assert config.keep == "all"


def test_quickstart_is_the_defaults_but_for_its_budget(load):
    expected = config_as_dict(load(QUICKSTART.read_text()))
    defaults = config_as_dict(load(MINIMAL))
    assert defaults == {**expected, "name": "a", "budget": {**expected["budget"], "epochs": 24}}


@pytest.mark.parametrize(
    ("protocol", "prune", "finetune", "quantize"),
    [("early", 0.1, 0.1, 0.01), ("restart", 0.02, 0.1, 0.01), ("classic", 0.02, 0.02, 0.01)],
)
def test_later_learning_rates_follow_train_lr(load, protocol, prune, finetune, quantize):
    config = load(MINIMAL + f"protocol: {protocol}\ntrain: {{lr: 1e-1}}")
    assert (config.prune.lr, config.finetune.lr, config.quantize.lr) == pytest.approx((prune, finetune, quantize))
    assert load(MINIMAL + "train: {lr: 1e-1}\nfinetune: {lr: 3e-3}").finetune.lr == 0.003


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        ("", "early"),
        ("train: {epochs: 3}", "early"),
        ("pretrain: {data: digits, updates: 3}", "restart"),
        ("train: {checkpoint: q.yaml}", "restart"),
        ("train: {checkpoint: q.yaml}\nprotocol: classic\nbudget: {epochs: 1}", "classic"),
    ],
)
def test_protocol_follows_from_what_the_network_has_had(load, text, protocol):
    assert load(MINIMAL + text).protocol == protocol


def test_protocol_of_weights_is_restart(tmp_path):
    (tmp_path / "q.yaml").write_text("name: a\ndata: digits\nmodel: {name: torchvision:resnet18, weights: DEFAULT}")
    assert load_config(tmp_path / "q.yaml").protocol == "restart"
    (tmp_path / "q.yaml").write_text(
        "name: a\ndata: digits\nmodel: [vgg_tiny, {name: torchvision:resnet18, weights: DEFAULT}]"
    )
    with pytest.raises(UserError, match=r"3:19: model\[1\]: some of these networks start trained and some at random"):
        load_config(tmp_path / "q.yaml")


def test_classic_is_what_it_was(load):
    """Phases with budgets of their own, l2, no baselines."""
    config = load(MINIMAL + "protocol: classic")
    assert (config.budget, config.baselines, config.prune.normalize.name) == (None, (), "l2")
    assert (config.train.epochs, config.finetune.epochs, config.quantize.epochs) == (15, 4, 2)
    assert (str(config.prune.channels_per_step), config.prune.updates_between) == ("1%", 5)
    assert load(MINIMAL + "finetune: {epochs: 3}").train.epochs == 15  # phases by hand, the others as they were
    assert load(MINIMAL + "finetune: {epochs: 3}").protocol == "early"


def test_a_budget_is_shared_out(load):
    config = load(MINIMAL + "budget: {updates: 100, shares: {dense: 0.3}}")
    assert (config.budget.shares.dense, config.budget.shares.prune, config.budget.shares.quantize) == (0.3, 0.1, 0.08)
    assert load(MINIMAL + "train: {checkpoint: q.yaml}").budget.shares.dense == 0  # what it has had is outside
    assert config.train.epochs is config.train.updates is config.prune.updates_between is None


def test_axes_take_one_value_or_a_list(load):
    config = load(
        "name: a\ndata: [digits, {name: mnist, root: x, sizes: [1, 2]}]\nmodel: [vgg_tiny, resnet20]\nseeds: 7\n"
        "prune: {criterion: [taylor, random], ratios: 0.5, ignore: head}\nprecisions: int8"
    )
    assert [choice.settings for choice in config.data] == [
        {"name": "digits"},
        {"name": "mnist", "root": "x", "sizes": [1, 2]},
    ]
    assert [choice.name for choice in config.model] == ["vgg_tiny", "resnet20"]
    assert (config.seeds, config.precisions) == ((7,), ("int8",))
    assert [choice.name for choice in config.prune.criterion] == ["taylor", "random"]
    assert config.prune.ratios == (0.5,)
    assert (config.prune.until, config.prune.ignore) == (0.5, ("head",))


def test_a_choices_settings_cannot_be_changed_from_outside(load):
    config = load(MINIMAL)
    config.data[0].settings["name"] = "mnist"
    assert config.data[0].settings == {"name": "digits"}


@pytest.mark.parametrize(
    ("typed", "written", "of_50", "of_1000"),
    [
        ("1%", "1%", 1, 10),
        ("2.5 %", "2.5%", 1.25, 25),
        ("100%", "100%", 50, 1000),
        ("8", 8, 8, 8),
        ("0.1%", "0.1%", 1, 1),
    ],
)
def test_channels_per_step(load, typed, written, of_50, of_1000):
    config = load(MINIMAL + f"prune: {{channels_per_step: {typed}}}")
    assert config.prune.channels_per_step.channels(50) == of_50
    assert config.prune.channels_per_step.channels(1000) == of_1000
    assert config_as_dict(config)["prune"]["channels_per_step"] == written


def test_dict_is_json_and_makes_an_equal_config(load):
    for text in (MINIMAL, MINIMAL + "train: {optimizer: adamw, lr: 0.001, updates: 9}\nprune: {channels_per_step: 3}"):
        config = load(text)
        plain = json.loads(json.dumps(config_as_dict(config)))
        assert plain == config_as_dict(config)
        assert SweepConfig.model_validate(plain) == config


def test_equality_ignores_where_a_config_came_from(load):
    one, other = load(MINIMAL), load("# a comment\n" + MINIMAL, "prune.until=0.9")
    assert one == other and hash(one) == hash(other)
    assert one != load(MINIMAL, "seeds=5")
    assert other.source.path == "q.yaml"
    assert other.source.text == "# a comment\n" + MINIMAL
    assert other.source.overrides == ("prune.until=0.9",)


def test_config_goes_to_workers_whole(load):
    config = load(MINIMAL)
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config and copy.source == config.source


def test_config_is_frozen(load):
    config = load(MINIMAL)
    for settings_, key in ((config, "seeds"), (config.prune, "until"), (config.data[0], "name")):
        with pytest.raises(Exception, match="frozen|cannot assign"):
            setattr(settings_, key, None)


def test_negative_zero_ratio_is_zero(load):
    assert str(load(MINIMAL + "prune: {ratios: [-0.0]}").prune.ratios) == "(0.0,)"


def test_checkpoint(load, tmp_path):
    (tmp_path / "net.pt").write_bytes(b"")
    train = load(MINIMAL + "train: {checkpoint: net.pt, updates: 100}").train
    assert (train.checkpoint, train.updates, train.epochs) == ("net.pt", 100, None)


def test_byte_order_mark_and_aliases_are_fine(load):
    config = load(b"\xef\xbb\xbf" + MINIMAL.encode() + b"finetune: &f {updates: 0}\nquantize: *f")
    assert config.finetune.updates == config.quantize.updates == 0
    assert "q.yaml:1:1: nome: unknown key 'nome'; did you mean 'name'?" in error_of(load, b"\xef\xbb\xbfnome: a")


def test_template_holds_every_key_at_its_default(load, tmp_path):
    write_template("t.yaml")
    assert config_as_dict(load_config("t.yaml")) == {**config_as_dict(load(MINIMAL)), "name": "t"}
    tree = parse(Path("t.yaml").read_text(), "t.yaml").value
    assert list(tree) == list(SweepConfig.model_fields)
    for section in ("train", "prune", "finetune", "quantize"):
        keys = set(SweepConfig.model_fields[section].annotation.model_fields)
        assert keys - set(tree[section]) == (set() if section == "prune" else {"updates"})
    assert set(tree["budget"]) == set(Budget.model_fields)


def test_template_never_overwrites(load, tmp_path):
    Path("t.yaml").write_text("mine")
    with pytest.raises(UserError, match="t.yaml: exists already"):
        write_template("t.yaml")
    assert Path("t.yaml").read_text() == "mine"
    with pytest.raises(UserError, match="no/t.yaml: can't be written"):
        write_template("no/t.yaml")


# Refused ------------------------------------------------------------------------------------------------------------

REFUSED = [  # text after MINIMAL (lines 1 to 3), what the error says
    (
        "epoch: 3",
        "q.yaml:4:1: epoch: unknown key 'epoch'; did you mean 'epochs', under 'budget' or under 'train' or under 'fine",
    ),
    ("precision: int8", "q.yaml:4:1: precision: unknown key 'precision'; did you mean 'precisions'? (valid: name, "),
    ("ratios: 0.5", "q.yaml:4:1: ratios: key 'ratios' belongs under 'prune'"),
    ("prune:\n  seeds: 3", "q.yaml:5:3: prune.seeds: key 'seeds' belongs at the top level"),
    ("lr: 1", "q.yaml:4:1: lr: key 'lr' belongs under 'pretrain' or under 'train' or under 'prune' or under 'fi"),
    ("xyz: 1", "q.yaml:4:1: xyz: unknown key 'xyz' (valid: name, data"),
    ("train: {epohcs: 3}", "q.yaml:4:9: train.epohcs: unknown key 'epohcs'; did you mean 'epochs'? (valid: epochs, "),
    ("train: 5", "q.yaml:4:1: train: 5 is not a section with keys (epochs, updates, "),
    ("train:", "q.yaml:4:1: train: null is not a section with keys|leave the section out for its defaults"),
    ("train: {epochs: ten}", "q.yaml:4:9: train.epochs: 'ten' is not a whole number from 1 to"),
    ("train: {epochs: 15.0}", "q.yaml:4:9: train.epochs: 15.0 is not a whole number"),
    ("train: {epochs: '15'}", "q.yaml:4:9: train.epochs: '15' is not a whole number"),
    ("train: {epochs: true}", "q.yaml:4:9: train.epochs: true is not a whole number"),
    ("train: {epochs: 0}", "q.yaml:4:9: train.epochs: 0 is not a whole number from 1"),
    ("train: {epochs: 9999999999}", "q.yaml:4:9: train.epochs: 9999999999 is not a whole number from 1 to 1000000000"),
    ("train: {epochs: 1, updates: 2}", "q.yaml:4:20: train.updates: epochs (1) and updates (2) are both given"),
    ("finetune: {epochs: 1, updates: 2}", "q.yaml:4:23: finetune.updates: epochs (1) and updates (2) are both given"),
    ("quantize: {updates: -1}", "q.yaml:4:12: quantize.updates: -1 is not a whole number from 0"),
    ("train: {lr: 0}", "q.yaml:4:9: train.lr: 0 is not a number above 0"),
    ("train: {lr: .nan}", "q.yaml:4:9: train.lr: nan is not a number above 0"),
    ("train: {lr: .inf}", "q.yaml:4:9: train.lr: inf is not a number above 0"),
    ("train: {lr: 1e999}", "q.yaml:4:9: train.lr: inf is not a number above 0"),
    ("train: {lr: '1e-3'}", "q.yaml:4:9: train.lr: '1e-3' is not a number above 0"),
    ("train: {lr: false}", "q.yaml:4:9: train.lr: false is not a number above 0"),
    ("train: {momentum: 1}", "q.yaml:4:9: train.momentum: 1 is not a number from 0 to below 1"),
    ("train: {weight_decay: -1e-4}", "q.yaml:4:9: train.weight_decay: -0.0001 is not a number of at least 0"),
    ("train: {batch_size: 0}", "q.yaml:4:9: train.batch_size: 0 is not a whole number from 1"),
    ("train: {optimizer: adam}", "q.yaml:4:9: train.optimizer: unknown value 'adam'; did you mean 'adamw'?"),
    ("train: {optimizer: adamw}", "q.yaml:4:9: train.optimizer: adamw needs an lr of its own"),
    ("train: {optimizer: adamw, lr: 1e-3, momentum: 0.5}", "q.yaml:4:37: train.momentum: adamw has no momentum"),
    (
        "finetune: {epochs: 1}\ntrain: {checkpoint: q.yaml}",
        "q.yaml:5:9: train.checkpoint: checkpoint needs `updates: N`",
    ),
    (
        "budget: {epochs: 3}\ntrain: {epochs: 3}",
        "q.yaml:5:9: train.epochs: budget gives all updates of a cell; leave train",
    ),
    ("budget: {epochs: 3}\nprune: {updates_between: 3}", "q.yaml:5:9: prune.updates_between: budget gives all updates"),
    ("budget: {epochs: 3, updates: 4}", "q.yaml:4:21: budget.updates: epochs (3) and updates (4) are both given"),
    (
        "budget: {shares: {dense: 0.6, prune: 0.5}}",
        "q.yaml:4:19: budget.shares.dense: the shares leave nothing for fine",
    ),
    ("protocol: erly", "q.yaml:4:1: protocol: unknown protocol 'erly'; did you mean 'early'?"),
    ("order: narrower", "q.yaml:4:1: order: narrower is a baseline; name it under `baselines`"),
    ("baselines: prune_first", "q.yaml:4:1: baselines: unknown baseline 'prune_first' (valid: narrower, same_shape)"),
    ("train: {checkpoint: q.yaml, epochs: 3}", "q.yaml:4:29: train.epochs: epochs can't go with checkpoint"),
    ("train: {checkpoint: no.pt, updates: 3}", "q.yaml:4:9: train.checkpoint: no such file 'no.pt'"),
    ("prune:\n  criterion: tailor", "q.yaml:5:3: prune.criterion: unknown criterion 'tailor'; did you mean 'taylor'?"),
    (
        "prune: {criterion: [taylor, 5]}",
        "q.yaml:4:29: prune.criterion[1]: 5 is not the name of a criterion, nor {name: ..., option: value}",
    ),
    ("prune: {ratios: [0, 1.0]}", "q.yaml:4:21: prune.ratios[1]: 1.0 is not a share from 0 to below 1"),
    ("prune: {ratios: 50}", "q.yaml:4:9: prune.ratios: 50 is not a share from 0 to below 1 (0.5 removes half"),
    ("prune: {ratios: [-0.1]}", "q.yaml:4:18: prune.ratios[0]: -0.1 is not a share"),
    ("prune: {ratios: []}", "q.yaml:4:9: prune.ratios: the list is empty"),
    ("prune: {ratios: [0.5, 0.25, 0.50]}", "q.yaml:4:29: prune.ratios[2]: 0.5 is given twice"),
    ("prune: {ratios: [[0.5]]}", "q.yaml:4:18: prune.ratios[0]: [0.5] is not a share"),
    ("prune: {ratios: [0, 0.5, 0.9], until: 0.7}", "q.yaml:4:26: prune.ratios[2]: 0.9 is above prune.until, 0.7"),
    ("prune: {until: 0.7}", "q.yaml:4:1: prune: |0.9 is above prune.until, 0.7; raise until or leave the ratio out"),
    ("prune: {channels_per_step: 0.01}", "q.yaml:4:9: prune.channels_per_step: 0.01 is not a percentage of all maps"),
    ("prune: {channels_per_step: 0%}", "q.yaml:4:9: prune.channels_per_step: '0%' is not a percentage"),
    ("prune: {channels_per_step: 101%}", "q.yaml:4:9: prune.channels_per_step: '101%' is not a percentage"),
    ("prune: {channels_per_step: 0}", "q.yaml:4:9: prune.channels_per_step: 0 is not a percentage"),
    ("prune: {channels_per_step: true}", "q.yaml:4:9: prune.channels_per_step: true is not a percentage"),
    ("prune: {of: mac}", "q.yaml:4:9: prune.of: unknown value 'mac'; did you mean 'macs'?"),
    (
        "prune: {of: macs, schedule: one_shot}",
        "q.yaml:4:19: prune.schedule: one_shot removes a share of the maps; leave of",
    ),
    ("prune: {of: macs, until: 0}", "q.yaml:4:19: prune.until: a path that ends at 0 removes nothing"),
    ("prune: {normalize: flop}", "q.yaml:4:9: prune.normalize: unknown normalization 'flop'; did you mean 'flops'?"),
    (
        "prune: {normalize: {name: flops, power: 0}}",
        "q.yaml:4:9: prune.normalize: |power is 0; it must be a number above",
    ),
    ("prune: {max_layer_ratio: 1}", "q.yaml:4:9: prune.max_layer_ratio: 1 is not a share above 0 and below 1"),
    ("prune: {linear: yes}", "q.yaml:4:9: prune.linear: 'yes' is not true or false"),
    ("prune: {linear: 1}", "q.yaml:4:9: prune.linear: 1 is not true or false"),
    ("prune: {ignore: [a, 3]}", "q.yaml:4:21: prune.ignore[1]: 3 is not a name"),
    ("quantize: {first_last_bits: 9}", "q.yaml:4:12: quantize.first_last_bits: 9 is not a whole number from 2 to 8"),
    ("seeds: -1", "q.yaml:4:1: seeds: -1 is not a whole number from 0"),
    ("seeds: [1, 2, 1]", "q.yaml:4:15: seeds[2]: 1 is given twice"),
    ("seeds:", "q.yaml:4:1: seeds: null is not a whole number"),
    ("seeds: {a: 1}", "q.yaml:4:1: seeds: {a: 1} is not a whole number"),
    ("precisions: [fp32, fp61]", "q.yaml:4:20: precisions[1]: unknown precision 'fp61'; did you mean 'fp16'?"),
    ("precisions: [int4, fp32, w4a4]", "q.yaml:4:26: precisions[2]: 'w4a4' is the same as 'int4'"),
    ("keep: some", "q.yaml:4:1: keep: unknown value 'some' (valid: all, front, none)"),
    ("keep: [all]", "q.yaml:4:1: keep: unknown value ['all']"),
    ("seeds: 1\nseeds: 2", "q.yaml:5:1: key 'seeds' is given twice (first in line 4, column 1)"),
    ("train: {lr: 1, lr: 2}", "q.yaml:4:16: key 'lr' is given twice (first in line 4, column 9)"),
    ("1: 2", "q.yaml:4:1: a key must be text, not '1'"),
    ("[a]: 2", "q.yaml:4:1: a key must be text, not a list"),
    ("seeds: !!python/name:os.system x", "q.yaml:4:8: tag 'tag:yaml.org,2002:python/name:os.system' is not supported"),
    ("seeds: !!int x", "q.yaml:4:8: 'x' does not fit its tag"),
    ("seeds: !!set {a}", "q.yaml:4:8: tag 'tag:yaml.org,2002:set' is not supported"),
    (f"seeds: {'9' * 5000}", "q.yaml:4:8: number '999999"),
    ('seeds: "\\0"', "q.yaml:4:8: '\\x00' has a character that no name"),
    ('seeds: "\\ud800"', "q.yaml:4:8: '\\ud800' has a character that no name"),
    ('seeds: "\\UFFFFFFFF"', "q.yaml:4:11: not valid YAML"),
    ("seeds: \x07", "q.yaml:4:8: character U+0007 is not allowed"),
    ("train:\n\tlr: 1", "q.yaml:5:1: not valid YAML: found character '\\t'|indent with spaces, not with tabs"),
    ("seeds: [1, 2", "q.yaml:4:13: not valid YAML|in line 4"),
    ("seeds: *x", "q.yaml:4:8: not valid YAML: found undefined alias 'x'"),
    ("---\na: 1", "q.yaml:4:1: not valid YAML: but found another document"),
    ("seeds: &a [*a]", "q.yaml:4:8: |without end"),
    ("seeds: " + "[" * 5000, "q.yaml:4:27: not valid YAML: nested more than 20 levels deep"),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=[text[:40] for text, _ in REFUSED])
def test_refused_with_place_value_and_remedy(load, text, expected):
    message = error_of(load, MINIMAL + text)
    for part in expected.split("|"):
        assert part in message
    assert "\n" not in message


NAMES = ["../../x", "a/b", "a\\b", ".hidden", "..", "''", "a b", "'a\n\n  b'", "ä", "3", "null", "x" * 101, "[a]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_folder_is_refused(load, name):
    assert "q.yaml:3:1: name: " in error_of(load, f"data: digits\nmodel: vgg_tiny\nname: {name}")


CHOICES = [
    ("digitz", "q.yaml:3:1: data: unknown data set 'digitz'; did you mean 'digits'? (valid: digits, mnist)"),
    ("[mnist, {name: digitz}]", "q.yaml:3:15: data[1]: unknown data set 'digitz'"),
    ("5", "q.yaml:3:1: data: 5 is not the name of a data set, nor {name: ..., option: value}"),
    ("{root: x}", "q.yaml:3:1: data: {root: 'x'} has no name"),
    ("{name: 5}", "q.yaml:3:1: data: {name: 5} has no name"),
    ("{name: mnist, size: .nan}", "q.yaml:3:1: data: {name: 'mnist', size: nan}: options must be"),
    ("[mnist, {name: mnist}]", "q.yaml:3:15: data[1]: {name: 'mnist'} is given twice"),
    ("", "q.yaml:3:1: data: null is not the name of a data set"),
    ("''", "q.yaml:3:1: data: '' has no name; write {name: ..., option: value}"),
]


@pytest.mark.parametrize(("typed", "expected"), CHOICES)
def test_a_wrong_choice_is_refused(load, typed, expected):
    assert error_of(load, f"name: a\nmodel: vgg_tiny\ndata: {typed}").startswith(expected)


def test_one_checkpoint_for_two_models_is_refused(load):
    text = "name: a\ndata: digits\nmodel: [vgg_tiny, resnet20]\ntrain: {checkpoint: q.yaml, updates: 3}"
    assert error_of(load, text) == "q.yaml:4:9: train.checkpoint: one checkpoint can't start 2 models"


def test_missing_keys(load):
    message = error_of(load, "seeds: 1")
    for key in ("name", "data", "model"):
        assert f"q.yaml:1:1: key '{key}' is missing; every sweep needs name, data, model" in message


def test_all_problems_in_one_message_in_the_order_of_the_file(load):
    text = "name: a\nmodel: vgg_tinny\ndata: digits\nprune: {lr: x, criterion: y}\nseeds: z"
    message = error_of(load, text, "keep=q")
    starts = ["q.yaml:2:1: model:", "q.yaml:4:9: prune.lr:", "q.yaml:4:16: prune.criterion:"]
    lines = message.split("\n")
    assert len(lines) == 5
    for line, start in zip(lines, [*starts, "q.yaml:5:1: seeds:", "--set keep=q: keep:"], strict=True):
        assert line.startswith(start)


def test_hundreds_of_problems_are_cut_short(load):
    lines = error_of(load, MINIMAL + f"seeds: {['x'] * 300}").split("\n")
    assert len(lines) == 21 and lines[-1] == "... and 280 more problems"


BOMB = "b: &b [x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{chr(ord(c) - 1)}'] * 9)}]\n" for c in "cdefghijklm")

FILES = {
    "empty": (b"", "q.yaml:1:1: the file is empty; `qprune init`"),
    "comment": (b"# nothing\n", "q.yaml:1:1: the file is empty"),
    "list": (b"- a", "q.yaml:1:1: ['a'] is not a mapping of keys (name, data"),
    "word": (b"hello", "q.yaml:1:1: 'hello' is not a mapping"),
    "latin-1": (b"name: a\nda\xe4ta: 1", "q.yaml:2:3: byte 0xe4 is not UTF-8"),
    "utf-16": (MINIMAL.encode("utf-16"), "q.yaml:1:1: byte 0xff is not UTF-8"),
    "binary": (bytes(range(256)), "q.yaml:2:118: byte 0x80 is not UTF-8"),
    "large": (b"#" * (MAX_BYTES + 1), "q.yaml: has more than 200,000 bytes"),
    "bomb": (BOMB.encode(), "q.yaml:1:8: more than 50,000 values with all aliases (*name) expanded"),
    "nested": (b"a: " + b"[{a: " * 20000, "q.yaml:1:50: not valid YAML: nested more than 20 levels deep"),
}


@pytest.mark.parametrize("kind", FILES)
def test_hostile_files_are_one_clear_error(load, kind):
    content, expected = FILES[kind]
    message = error_of(load, content)
    assert expected in message and "\n" not in message


def test_paths_that_are_no_file(load):
    load(MINIMAL)
    Path("d.yaml").mkdir()
    for path, expected in [
        ("d.yaml", "d.yaml: is a directory, not a sweep file"),
        ("p.yaml", "p.yaml: no such file; did you mean 'q.yaml'?"),
        ("no/p.yaml", "no/p.yaml: no such file; `qprune init`"),
        ("/dev/zero", "/dev/zero: is not a regular file"),
        ("x" * 5000, "can't be read: File name too long"),
        ("a\0b", "no such file"),
    ]:
        with pytest.raises(UserError) as caught:
            load_config(path)
        assert expected in str(caught.value)


# Overrides ----------------------------------------------------------------------------------------------------------


def test_overrides_replace_what_the_file_says(load):
    config = load(
        QUICKSTART.read_text(),
        "prune.ratios=[0,0.5]",
        "budget=null",
        "train.epochs=null",
        "train.updates=7",
        "data.root=x",
        "data.size=8",
        "prune.lr=1e-3",
        "model={name: resnet20, width: 8}",
        "name=b",
        "name=c",
    )
    assert (config.name, config.prune.ratios, config.prune.until) == ("c", (0.0, 0.5), 0.5)
    assert (config.train.epochs, config.train.updates, config.prune.lr) == (None, 7, 0.001)
    assert config.data[0].settings == {"name": "digits", "root": "x", "size": 8}
    assert config.model[0].settings == {"name": "resnet20", "width": 8}
    assert config.prune.updates_between == 5 and config.train.batch_size == 64


OVERRIDES = [
    ("prune.ratios=[0,1.5]", "--set prune.ratios=[0,1.5]: prune.ratios[1]: 1.5 is not a share"),
    ("prune.ratio=0", "--set prune.ratio=0: prune.ratio: unknown key 'ratio'; did you mean 'ratios'?"),
    ("prun.ratios=0", "--set prun.ratios=0: prun: unknown key 'prun'; did you mean 'prune'?"),
    (
        "train.updates=5",
        "--set train.updates=5: train.updates: budget gives all updates of a cell; leave train.updates out",
    ),
    ("seeds.x=1", "--set seeds.x=1: seeds is [0, 1, 2], which has no key 'x'; set seeds as a whole"),
    ("train.lr=[", "--set train.lr=[: not valid YAML"),
    ("data={a: 1, a: 2}", "--set data={a: 1, a: 2}: key 'a' is given twice; keep one of them"),
    ("seeds=", "--set seeds=: seeds: null is not a whole number"),
    ("seeds", "--set seeds: write it as key=value, with dots between nested keys"),
    ("=3", "--set =3: write it as key=value"),
    ("train..lr=3", "--set train..lr=3: write it as key=value"),
    ("prune.until=0.5", "q.yaml:9:34: prune.ratios[4]: 0.9 is above prune.until, 0.5"),
]


@pytest.mark.parametrize(("text", "expected"), OVERRIDES)
def test_a_wrong_override_is_quoted(load, text, expected):
    message = error_of(load, QUICKSTART.read_text(), text)
    assert message.startswith(expected)
    assert "\n" not in message


def test_override_leaves_the_tree_it_is_given_alone():
    tree = parse("a: {b: 1}\nc: x", "q")
    changed = override(override(tree, "a.b=2"), "c.d=3", named=("c",))
    assert changed.value == {"a": {"b": 2}, "c": {"name": "x", "d": 3}}
    assert tree.value == {"a": {"b": 1}, "c": "x"}


# YAML ---------------------------------------------------------------------------------------------------------------


def test_scalars_are_yaml_1_2():
    typed = {
        "1e-3": 1e-3, "5E2": 500.0, "1.": 1.0, ".5": 0.5, "-3": -3, "010": 10, "true": True, "~": None, "": None,
        "yes": "yes", "off": "off", "1:30": "1:30", "2024-01-01": "2024-01-01", "1%": "1%", "'1'": "1",
        "1_000": "1_000", "0x1f": "0x1f",
    }  # fmt: skip
    for text, value in typed.items():
        got = parse(f"a: {text}", "q").value["a"]
        assert got == value and type(got) is type(value), text


def test_every_value_has_its_place():
    tree = parse("a: 1\nb:\n  - c: {d: 2}\n  - 3", "q")
    places = {path: (place.line, place.column) for path, place in tree.places.items()}
    assert places == {
        (): (1, 1), ("a",): (1, 1), ("b",): (2, 1), ("b", 0): (3, 5), ("b", 0, "c"): (3, 5), ("b", 0, "c", "d"): (3, 9),
        ("b", 1): (4, 5),
    }  # fmt: skip
    assert tree.known_path(("b", 1, 0)) == ("b", 1)


# Any file is a configuration or one error ---------------------------------------------------------------------------

TOKENS = [
    "", "0", "-1", "1e-3", "1e999", ".nan", "true", "null", "~", "''", "x", "[", "]", "{", "}", "[]", "{}", "[0, 0.5]",
    "{name: digits}", "{name: x, name: y}", ":", "- ", "\t", "\n", "  ", "#", "&a", "*a", "<<: *a", "!!float", "!x",
    "%", "|", ">", "?", "'", '"', "---", "...", "\\", "\0", "\ud7ff", "é", "99999999999999999999", "taylor", "prune",
    "train: {optimizer: adamw}", "ratios: 0.99", "until: 0.1", "epochs", "updates: 3", "9" * 5000,
]  # fmt: skip


@st.composite
def mutated(draw):
    """The quickstart file after a few deletions, repetitions and replacements of lines and tokens."""
    lines = QUICKSTART.read_text().splitlines()
    for _ in range(draw(st.integers(1, 4))):
        if not lines:
            break
        at = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["delete", "repeat", "move", "token", "token", "token", "insert", "indent"]))
        if change == "delete":
            del lines[at]
        elif change == "repeat":
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif change == "move":
            lines.append(lines.pop(at))
        elif change == "insert":
            lines.insert(at, draw(st.sampled_from(TOKENS) | st.text(max_size=8)))
        elif change == "indent":
            lines[at] = draw(st.sampled_from([" ", "   ", "\t"])) + lines[at].lstrip()
        else:
            parts = re.split(r"(\W+)", lines[at])
            parts[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from(TOKENS))
            lines[at] = "".join(parts)
    return "\n".join(lines)


FUZZ = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def is_config_or_one_error(load, content, *overrides, named="q.yaml"):
    """True for a configuration, which must be stable under a round trip; False for a UserError that names the place."""
    try:
        config = load(content, *overrides)
    except UserError as error:
        message = str(error)
        assert named in message and len(message) < 10_000
        message.encode()  # can be printed
        return False
    assert SweepConfig.model_validate(json.loads(json.dumps(config_as_dict(config)))) == config
    return True


@FUZZ
@given(mutated())
def test_a_mutated_file_is_a_config_or_one_error(load, text):
    is_config_or_one_error(load, text.encode("utf-8", "surrogatepass"))


@FUZZ
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_config_or_one_error(load, content):
    assert not is_config_or_one_error(load, content)
    is_config_or_one_error(load, MINIMAL.encode() + content)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["taylor", "all"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    *(name for name in SweepConfig.model_fields),
    *(f"train.{key}" for key in SweepConfig.model_fields["train"].annotation.model_fields),
    *(f"prune.{key}" for key in SweepConfig.model_fields["prune"].annotation.model_fields),
]


@FUZZ
@given(st.sampled_from(KEYS) | st.text(max_size=6), PLAIN.map(json.dumps) | st.sampled_from(TOKENS))
def test_any_override_is_a_config_or_one_error(load, key, value):
    is_config_or_one_error(load, MINIMAL, f"{key}={value}", named="")


# With qprune's own registries ---------------------------------------------------------------------------------------


def test_shipped_sweeps_load():
    paths = sorted((ROOT / "sweeps").glob("*.yaml"))
    assert QUICKSTART in paths
    absent = r"there is no folder|there is no weights file|not found\. Looked in"
    assert [parse(path.read_text(), str(path)).value["name"] for path in paths] == [path.stem for path in paths]
    for path in paths:
        try:
            assert load_config(path).name == path.stem
        except UserError as error:  # images and weights that a fresh machine lacks, and nothing else
            assert all(re.search(absent, line) for line in str(error).splitlines()), error


@pytest.mark.parametrize(
    ("setting", "near"),
    [
        ("data=digitz", "digits"),
        ("model=vgg_tinny", "vgg_tiny"),
        ("precisions=in4", "int4"),
        ("prune.criterion=tailor", "taylor"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(setting, near):
    with pytest.raises(UserError) as caught:
        load_config(QUICKSTART, [setting])
    message = str(caught.value)
    assert message.startswith(f"--set {setting}: {setting.split('=')[0]}: ")
    assert repr(setting.split("=")[1]) in message and repr(near) in message


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        ([], False),
        (["data={name: cifar10, download: true}", "prune.criterion=[obd_lecun, random]", "precisions=mixed3"], False),
        (["data=digitz"], True),
        (["model={name: vgg7, width: -1}"], True),
        (["precisions=w4a9"], True),
        (["prune.criterion={name: obd_gate, samples: 0}"], True),
        (["prune.criterion=obd_lecun", "order=quantize_first"], True),
    ],
)
def test_loading_and_refusing_imports_nothing_heavy(overrides, refused):
    """A wrong file must be refused at once, so neither the package nor the registries may import these."""
    code = (
        "import sys; from qprune.registry.errors import UserError; from qprune.settings.config import load_config\n"
        "try: load_config(sys.argv[1], sys.argv[2:])\n"
        "except UserError: print('refused')\n"
        "print(*({'torch', 'torchvision', 'sklearn', 'brevitas', 'pandas'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(QUICKSTART), *overrides]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["refused"] * refused
