"""Which cells can't be made, as qprune.sweep.trial finds it before anything trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qprune.sweep.plan import Cell, Plan

EXPORTED = ("onnx",)  # the formats that are tried unasked
Faults = Mapping[tuple[str, str, str], str]  # (model, data, precision), as the plan calls them -> why it can't be made
NONE: Faults = MappingProxyType({})


@dataclass(frozen=True)
class Trial:
    """faults: what can't be finished; unwritten: a line for each network, precision and format that can't be exported."""

    faults: dict[tuple[str, str, str], str] = field(default_factory=dict)
    unwritten: list[str] = field(default_factory=list)


def able_cells(plan: Plan, faults: Faults) -> list[Cell]:
    """The cells that have no fault."""
    return [cell for cell in plan.cells if (cell.model, cell.data, cell.precision) not in faults]
