"""Names for the things that a sweep file chooses from; looked up without importing what they stand for.

    STAGES = Registry("stage", Entry("dense", "qprune.stages.dense:Dense"), ...)
    STAGES.get("dense").place, STAGES.load("dense"), STAGES.names()

What others ask of a kind is an attribute of its entry: a frozen dataclass that extends Entry.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, TypeVar

from qprune.registry.errors import UserError
from qprune.registry.options import Option
from qprune.registry.show import nearest, show

__all__ = ["Entry", "Registry", "nearest"]


@dataclass(frozen=True)
class Entry:
    """One thing that can be chosen by its name.

    place: "module:attribute", or a "module" whose functions are what is chosen
    version: of a data set or a model, whose fingerprint has it; raised when the same settings would give another one
    options: what may be set beside the name
    aliases: other names for it
    """

    name: str
    place: str
    version: int = field(default=1, kw_only=True)
    options: Mapping[str, Option] = field(default_factory=dict, kw_only=True)
    aliases: tuple[str, ...] = field(default=(), kw_only=True)

    def load(self) -> Any:
        """The object behind the name, imported on first use."""
        module, _, attribute = self.place.partition(":")
        return getattr(import_module(module), attribute) if attribute else import_module(module)


AnyEntry = TypeVar("AnyEntry", bound=Entry)


class Registry(Generic[AnyEntry]):
    """The entries of one kind, by name or alias, in the order in which they were added."""

    def __init__(self, kind: str, *entries: AnyEntry):
        self.kind = kind
        self._entries: dict[str, AnyEntry] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: AnyEntry) -> None:
        """Raises ValueError where the name is there already."""
        for name in (entry.name, *entry.aliases):
            if name in self:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {self.get(name).place} and {entry.place}")
        self._entries |= dict.fromkeys((entry.name, *entry.aliases), entry)

    @contextmanager
    def temporarily(self, *entries: AnyEntry) -> Iterator[None]:
        """The entries are there for as long as this lasts: for tests."""
        before = dict(self._entries)
        try:
            for entry in entries:
                self.add(entry)
            yield
        finally:
            self._entries = before

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def entries(self) -> list[AnyEntry]:
        return [self._entries[name] for name in self.names()]

    def names(self) -> list[str]:
        """Without aliases."""
        return [name for name, entry in self._entries.items() if name == entry.name]

    def get(self, name: str) -> AnyEntry:
        """Raises UserError naming the nearest valid name."""
        if name not in self:
            raise UserError(f"unknown {self.kind} {show(name)}{self.hint(name)}")
        return self._entries[name]

    def hint(self, name: str) -> str:
        """What an unknown name may have meant, from "; " on."""
        return nearest(name, list(self._entries))

    def load(self, name: str) -> Any:
        """The object behind a name; UserError as in `get`."""
        return self.get(name).load()
