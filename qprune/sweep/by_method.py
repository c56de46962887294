"""What each method of a sweep costs: what pruning has to beat is trained too, and is not free."""

from dataclasses import dataclass

from rich.table import Table

from qprune.registry.duration import duration_text
from qprune.stages import Stage
from qprune.sweep.plan import Plan


@dataclass(frozen=True)
class MethodCost:
    """Of a method (with what is equal, as tables name it): its cells; what is missing for them, but for what methods before
    it need too: stages, updates and seconds of computing; the least and most updates of a cell; cells whose updates the
    cap on equal training FLOPs has made fewer."""

    method: str
    cells: int
    stages: int
    updates: int
    seconds: float
    least: int
    most: int
    capped: int


def costs_by_method(plan: Plan, todo: dict[str, Stage], seconds: dict[str, float]) -> list[MethodCost]:
    """Of every method, in the order of the plan; together they are all that is to do. seconds: of each stage of todo."""
    claimed: set[str] = set()
    costs = []
    for method in dict.fromkeys(cell.variant for cell in plan.cells):
        cells = [cell for cell in plan.cells if cell.variant == method]
        needed = plan.needed_by(name for cell in cells for name in (*cell.stages.values(), cell.baseline))
        own = [name for name in todo if name in needed and name not in claimed]
        claimed.update(own)
        updates = [plan.total_updates(cell) for cell in cells]
        costs.append(
            MethodCost(
                method,
                len(cells),
                len(own),
                plan.updates_of(own),
                sum(seconds[name] for name in own),
                min(updates),
                max(updates),
                sum(cell.cap is not None for cell in cells),
            )
        )
    return costs


def method_table(costs: list[MethodCost]) -> Table:
    """The costs for people."""
    table = Table(title="methods: what each adds to those above it")
    table.add_column("method", no_wrap=True)
    for column in ("cells", "updates of each", "stages to do", "updates to do", "computing"):
        table.add_column(column, justify="right")
    for one in costs:
        each = f"{one.least:,}" if one.least == one.most else f"{one.least:,} to {one.most:,}"
        capped = f" ({one.capped} capped)" if one.capped else ""
        numbers = (f"{one.stages:,}", f"{one.updates:,}", duration_text(one.seconds))
        table.add_row(one.method, f"{one.cells:,}", each + capped, *numbers)
    return table
