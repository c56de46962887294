"""What a trial has to try: each network, cut and precision of a sweep that hasn't passed before. Imports no torch."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from qprune.deploy.formats import FORMATS, Format
from qprune.methods.facts import Facts
from qprune.registry.choice import Choice
from qprune.registry.identity import digest
from qprune.registry.packages import have
from qprune.settings.config import SweepConfig
from qprune.stages.fingerprints import model_fingerprint_of
from qprune.stages.saved import NetworkSpec
from qprune.storage.kept import source_hash
from qprune.sweep.faults import Trial
from qprune.sweep.plan import Plan, short_names
from qprune.sweep.progress import TRYING, doing

PASSED = Path("~/.cache/qprune/trials")  # one small file for each network, cut, precision and format that passed


@dataclass(frozen=True)
class Rehearsal:
    """What is tried: a network, how far it is cut, and at which precisions (as typed)."""

    spec: NetworkSpec
    code: str  # fingerprint of the model's
    until: float  # share of the maps
    linear: bool
    ignore: tuple[str, ...]
    min_channels: int
    round_to: int
    max_layer_ratio: float | None
    first_last_bits: int | None

    def name(self, precision: str, form: Format | None = None) -> str:
        """Of one precision's result, or of that of its file in a format."""
        named_by = {key: value for key, value in vars(self).items() if key != "spec"}
        exported = [] if form is None else [form.name, *map(version, form.packages)]
        return digest([named_by, self.spec.to_json(), precision, *exported, *_versions()])

    def unwritten(self, precision: str, formats: Sequence[Format]) -> list[Format]:
        """The formats that bear the precision, and that no file of it has passed in."""
        return [form for form in formats if form.can_hold(precision) and not _passed(self.name(precision, form))]

    def has_passed(self, precision: str, formats: Sequence[Format]) -> bool:
        """Whether the precision and its files in these formats have."""
        return _passed(self.name(precision)) and not self.unwritten(precision, formats)


@cache
def _versions() -> tuple[str, ...]:
    """Of all that runs a network: this package's source and the libraries."""
    return source_hash(), *map(version, ("torch", "torchvision", "brevitas"))


def rehearse(plan: Plan, formats: Sequence[str], console: Console) -> Trial:
    """qprune.sweep.trial.try_all, where there is anything to try."""
    if plan.config.train.checkpoint is None and _all_passed(plan, tried_formats(formats)):
        return Trial()
    from qprune.sweep.trial import try_all

    doing(console, TRYING)
    return try_all(plan, formats)


def tried_formats(names: Sequence[str]) -> list[Format]:
    """The formats of these names whose packages are installed."""
    return [form for form in map(FORMATS.get, names) if have(*form.packages)]


def _all_passed(plan: Plan, formats: Sequence[Format]) -> bool:
    config, names = plan.config, short_names(plan.config)
    return all(
        rehearsal_of(config, model, plan.facts[names[model], names[data]]).has_passed(precision, formats)
        for model in config.model
        for data in config.data
        for precision in config.precisions
    )


def rehearsal_of(config: SweepConfig, model: Choice, facts: Facts) -> Rehearsal:
    """Of one of a sweep's networks."""
    prune = config.prune
    return Rehearsal(
        facts.spec, model_fingerprint_of(model), prune.until, prune.linear, prune.ignore,
        prune.min_channels, prune.round_to, prune.max_layer_ratio, config.quantize.first_last_bits,
    )  # fmt: skip


def _passed(name: str) -> bool:
    return (PASSED.expanduser() / name).exists()


def note_passed(name: str) -> None:
    """So that it isn't tried again."""
    noted = PASSED.expanduser() / name
    with suppress(OSError):  # a home that can't be written to: it is tried again next time
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.touch()
