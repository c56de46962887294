"""A row says all that made it."""

import pytest
from pydantic import BaseModel
from tiny_sweep import tiny_config

from qprune.settings.config import SweepConfig
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan
from qprune.sweep.records import Records

OTHER = {
    "protocol": "early",
    "budget": "{updates: 90}",
    "baselines": "narrower",
    "baseline_budget": "flops",
    "pretrain": "{data: digits, updates: 3}",
    "train.updates": "41",
    "train.epochs": "{epochs: 3}",
    "train.batch_size": "16",
    "train.lr": "0.2",
    "train.momentum": "0.5",
    "train.weight_decay": "0.1",
    "train.optimizer": "{updates: 40, optimizer: adamw, lr: 0.1}",
    "train.math": "bf16",
    "train.channels_last": "false",
    "train.shuffle": "windowed",
    "train.checkpoint": "{updates: 40, checkpoint: CHECKPOINT}",
    "train.scratch_baseline": "true",
    "prune.criterion": "random",
    "prune.ratios": "[0,0.25,0.5]",
    "prune.of": "params",
    "prune.channels_per_step": "7",
    "prune.updates_between": "3",
    "prune.schedule": "one_shot",
    "prune.normalize": "none",
    "prune.until": "0.6",
    "prune.lr": "0.3",
    "prune.linear": "true",
    "prune.min_channels": "2",
    "prune.max_layer_ratio": "0.7",
    "prune.round_to": "2",
    "prune.ignore": "conv1",
    "finetune.epochs": "2",
    "finetune.updates": "{updates: 3}",
    "finetune.lr": "0.3",
    "quantize.epochs": "{epochs: 2}",
    "quantize.updates": "7",
    "quantize.lr": "0.3",
    "quantize.distill": "true",
    "quantize.method": "ptq",
    "quantize.first_last_bits": "6",
    "order": "quantize_first",
    "precisions": "[fp32,w3a3]",
    "seeds": "[3]",
    "data": "{name: digits, subset: 200}",
    "model": "{name: vgg_tiny, width: 0.25}",
}
FIRST = {  # what the file has to have for a setting to act
    "prune.of": ("prune.until=0.9",),
    "baseline_budget": ("baselines=narrower",),
    "budget": (
        "budget={updates: 80}",
        "train={batch_size: 32}",
        "prune={ratios: [0, 0.5]}",
        "finetune={}",
        "quantize={}",
    ),
}
NO_RESULT = {"name", "keep", "strategy", "rank"}  # where results lie, which of them are made and kept, other results
IN_THE_RECORD = {"data", "model"}  # their options: data_settings, and the network's model


def settings_of_a_sweep_file() -> set[str]:
    found = set()
    for name, field in SweepConfig.model_fields.items():
        section = field.annotation if isinstance(field.annotation, type) else None
        if section and issubclass(section, BaseModel):
            found |= {f"{name}.{key}" for key in section.model_fields} if name not in NO_RESULT else {name}
        else:
            found.add(name)
    return found


def test_every_setting_is_tried():
    assert settings_of_a_sweep_file() == set(OTHER) | NO_RESULT


def rows_of(config, folder) -> dict:
    """Cell -> its planned row, without the ids of its stages."""
    records = Records(folder, make_plan(config), Store(folder / "stages"))
    return {
        cell: {column: value for column, value in row.items() if not column.startswith("stage_")}
        for cell, row in records.rows.items()
    }


@pytest.mark.parametrize("setting", sorted(OTHER.keys() - IN_THE_RECORD))
def test_a_setting_that_changes_a_stage_is_in_the_row(tmp_path, setting):
    """Budgets are in it as soon as they are made: updates_<phase> and total_updates."""
    (tmp_path / "w.pth").write_bytes(b"")
    value = OTHER[setting].replace("CHECKPOINT", str(tmp_path / "w.pth"))
    section = setting.split(".")[0] if value.startswith("{") else setting
    base = ("seeds=0", "precisions=[fp32,int4]", *FIRST.get(setting, ("train.updates=40",)))
    one, other = tiny_config(tmp_path, *base), tiny_config(tmp_path, *base, f"{section}={value}")
    before, after = set(make_plan(one).stages), set(make_plan(other).stages)
    assert before != after
    if setting.rpartition(".")[2] not in ("updates", "epochs", "budget"):
        assert rows_of(one, tmp_path) != rows_of(other, tmp_path)
    else:
        plans = [make_plan(config) for config in (one, other)]
        assert plans[0].updates_by_phase(plans[0].cells[0]) != plans[1].updates_by_phase(plans[1].cells[0])
