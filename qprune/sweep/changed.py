"""Which finished cells a sweep file no longer asks for, since their settings have been changed: what is different."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qprune.stages import Stage
from qprune.storage.results import record_file
from qprune.storage.seal import Damaged, read_sealed_json
from qprune.storage.store import Store
from qprune.sweep.plan import Cell, Plan

MOST_SHOWN = 4  # differences


def changed_lines(plan: Plan, store: Store, folder: Path) -> Iterator[str]:
    """One line, where cells of these names are done that were made otherwise: how many, what differs, what will become of
    them. None where all that is done is gone on with."""
    ways: Counter[str] = Counter()
    cells = 0
    for cell in plan.cells:
        if store.done(cell.stages["evaluate"]):
            continue
        try:
            made = read_sealed_json(record_file(folder, cell.id))["stages"]
        except (OSError, Damaged):  # what can't be read can't be told of
            continue
        if {kind: stage["id"] for kind, stage in made.items()} != cell.stages:
            cells += 1
            ways.update(_differences(plan, cell, made))
    if cells:
        told = [way for way, _ in ways.most_common(MOST_SHOWN)] + (["..."] if len(ways) > MOST_SHOWN else [])
        yield (
            f"{cells:,} done under other settings: {', '.join(told)}; they stay in {store.folder}, and the settings of before "
            f"bring them back; the table and records in {folder} will be those of the new ones"
        )


def _differences(plan: Plan, cell: Cell, made: dict[str, Any]) -> set[str]:
    """What the first of the cell's stages that differs was, and will be: "lr 0.05 -> 0.1". made: the record's stages."""
    if list(made) != list(cell.stages):
        return {f"stages {', '.join(made)} -> {', '.join(cell.stages)}"}
    for kind, name in cell.stages.items():
        stage = plan.stages[name]
        if made[kind]["id"] == name:
            continue
        before, after = (_flat(settings) for settings in (made[kind]["settings"], stage.named_by["settings"]))
        keys = [key for key in {**before, **after} if key.split(".")[0] not in _inputs(stage)]
        changed = {_said(key, before, after) for key in keys if before.get(key) != after.get(key)}
        if changed:
            return changed
    return {"another version of qprune's stages"}


def _inputs(stage: Stage) -> set[str]:
    return {field.name for field in dataclasses.fields(stage) if field.metadata.get("input")}


def _flat(settings: Any, before: str = "") -> dict[str, Any]:
    """{"recipe": {"lr": 1}} -> {"recipe.lr": 1}."""
    if not isinstance(settings, dict):
        return {before: settings}
    return {
        key: value
        for name, part in settings.items()
        for key, value in _flat(part, f"{before}.{name}" if before else name).items()
    }


def _said(key: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    if key.endswith(("fingerprint", "sha256")):
        return f"another {key.split('_')[0]}"
    return f"{key.removeprefix('recipe.')} {_shown(before, key)} -> {_shown(after, key)}"


def _shown(settings: dict[str, Any], key: str) -> str:
    return f"{settings[key]}" if key in settings else "(default)"
