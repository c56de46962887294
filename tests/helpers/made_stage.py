"""A stage that computes nothing but what a test tells it to."""

from collections.abc import Callable
from dataclasses import dataclass

from qprune.registry.identity import aside
from qprune.stages import Phase, Stage
from qprune.stages.base import Result, stage_input
from qprune.stages.work import Work


@dataclass(frozen=True, kw_only=True)
class MadeStage(Stage):
    """Named as it is told; says nothing, or what `does` returns. ends_cell as an evaluation's."""

    kind = "made"
    version = 1

    name: str
    needs: tuple[str, ...] = stage_input(default=())
    made: int = 1
    does: Callable[[Work], Result] | None = aside(None)
    ends_cell: bool = aside(False)

    @property
    def id(self) -> str:
        return self.name

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("dense", self.made),)

    def compute(self, work: Work) -> Result:
        return self.does(work) if self.does else ({}, {})
