"""Names for the things that a sweep file chooses from; looked up without importing what they stand for."""

import difflib
from importlib import import_module

from qprune.registry.errors import UserError


def nearest(name: str, valid: list[str]) -> str:
    """ "; did you mean 'x'? (valid: ...)" for error messages."""
    close = difflib.get_close_matches(str(name), valid, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (valid: {', '.join(valid)})"


class Registry:
    """Name -> "module:attribute", imported on first use. Registering a name twice raises ValueError."""

    def __init__(self, kind: str):
        self.kind = kind
        self._places: dict[str, str] = {}

    def add(self, name: str, place: str) -> None:
        if name in self._places:
            raise ValueError(f"{self.kind} {name!r} is registered twice: {self._places[name]} and {place}")
        self._places[name] = place

    def names(self) -> list[str]:
        return list(self._places)

    def get(self, name: str):
        """The object behind a name. Raises UserError naming the nearest valid name."""
        if name not in self._places:
            raise UserError(f"unknown {self.kind} {name!r}{nearest(name, self.names())}")
        module, attribute = self._places[name].split(":")
        return getattr(import_module(module), attribute)
