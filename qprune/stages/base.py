"""What a stage is: typed settings, the phases in which it trains, and the function that computes it.

Stages are named without torch: what their computing needs is imported as they are computed (executors/preload.py, once for
all workers).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from qprune.precision import Precision, get_precision
from qprune.recipe import Recipe
from qprune.registry.choice import Choice
from qprune.registry.identity import aside, digest, plain

if TYPE_CHECKING:
    from torch import Tensor

    from qprune.stages.work import Work
    from qprune.storage.store import Store

Result: TypeAlias = "tuple[dict[str, Any], dict[str, Tensor] | None]"


@dataclass(frozen=True)
class Phase:
    """Updates of one kind. All that is reckoned of a stage before it runs follows from its phases.

    name: "dense", "prune", "finetune", "quantize", as in the columns updates_<name>; precision: at which they are made;
    teacher: whether a teacher's forward pass comes on top; scored: whether maps are scored meanwhile; elsewhere: whether
    they were made before qprune had the network; whole: whether the network has all its maps meanwhile (those that are
    masked too), or only those that it ends with.
    """

    name: str
    updates: int
    precision: str = "fp32"
    teacher: bool = False
    scored: bool = False
    elsewhere: bool = False
    whole: bool = False


@dataclass(frozen=True)
class NumberFormat:
    """A precision by its canonical name, and the width of the first and last layer."""

    precision: str
    first_last_bits: int | None

    def get(self) -> Precision:
        return get_precision(self.precision, self.first_last_bits)


@dataclass(frozen=True)
class Cut:
    """What of a network can be cut: hidden units of linear layers too or not, and layers that are left alone."""

    linear: bool
    ignore: tuple[str, ...]


def stage_input(is_aside: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field with the id of a stage (or None, or several ids) whose files this one reads."""
    return dataclasses.field(default=default, metadata={"input": True, "aside": is_aside})


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One piece of work, computed once whoever needs it.

    kind, version: of its code; version is raised when the result of the same settings would be another one. label: for
    people; trust: the sweep's own code (module:function), which may be run. All other fields are its settings, which
    name it together with kind and version.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    networks_kept: ClassVar[float] = 1  # what its tensors take on the disk, in networks; 0: its report is all
    evaluates: ClassVar[bool] = False  # whether it runs all validation and test images
    ends_cell: ClassVar[bool] = False  # whether a cell is done with it

    label: str = aside("")
    trust: tuple[str, ...] = aside(())

    @abstractmethod
    def compute(self, work: Work) -> Result:
        """The stage's report, as plain JSON, and its tensors. Updates and curves of training are added to the report."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The updates that it makes, in their order."""
        return ()

    @property
    def continues(self) -> str | None:
        """The stage whose network it goes on with; None where it begins with one of its own."""
        return None

    @property
    def makes(self) -> str | None:
        """The precision, by its canonical name, in which it builds a network anew; None where it builds none."""
        return None

    # What follows

    @property
    def named_by(self) -> dict[str, Any]:
        """All that the stage is named by, as plain JSON."""
        return {"kind": self.kind, "version": self.version, "settings": plain(self)}

    @cached_property
    def id(self) -> str:
        """The kind and a hash: equal work has one name in all sweeps."""
        return f"{self.kind}-{digest(self.named_by)}"

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Ids of the stages whose files it reads, each once."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self) if field.metadata.get("input")]
        ids = [each for value in values for each in (value if isinstance(value, tuple) else (value,))]
        return tuple(dict.fromkeys(each for each in ids if each is not None))

    @property
    def updates(self) -> int:
        """The updates that it trains."""
        return sum(phase.updates for phase in self.phases if not phase.elsewhere)

    @property
    def work(self) -> int:
        """What it does, reckoned in updates: for the progress shown, and the order of work."""
        return self.updates

    @property
    def keeps_tensors(self) -> bool:
        return self.networks_kept > 0

    def is_there(self, store: Store) -> bool:
        """Whether a store has all that the stage leaves."""
        return store.done(self.id) and (not self.keeps_tensors or store.has_tensors(self.id))


@dataclass(frozen=True, kw_only=True)
class DataStage(Stage):
    """A stage that reads a data set, with a seed of its own. It is named by the data's fingerprint: of options and content,
    not of where the files lie."""

    data: Choice = aside()
    data_fingerprint: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class TrainingStage(DataStage):
    """A stage that trains by a recipe; the data set's augmentation comes to it when it is computed."""

    recipe: Recipe
