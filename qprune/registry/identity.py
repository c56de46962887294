"""What a thing is named by: the plain JSON of a typed, frozen dataclass, and the hash of it.

A name decides whether finished work is found again, so it must stay what it is. A setting that is added later is absent
from it at the value that the code had before the setting existed.
"""

import dataclasses
import hashlib
import json
from typing import Any

from qprune.registry.choice import Choice


def aside(default: Any = dataclasses.MISSING) -> Any:
    """A field that changes no result, and so is no part of the name."""
    return dataclasses.field(default=default, metadata={"aside": True})


def added_later(before: Any, default: Any = dataclasses.MISSING) -> Any:
    """A field that is absent from the name at `before`, the value that the code had before there was the field.

    NOTE `before` is fixed for ever, whatever the default becomes. default: as `before` where none is given.
    """
    default = before if default is dataclasses.MISSING else default
    return dataclasses.field(default=default, metadata={"before": before})


def plain(value: Any) -> Any:
    """A value as plain JSON: of a dataclass its fields, but for those aside and those at the value of before."""
    if isinstance(value, Choice):
        return value.settings
    if dataclasses.is_dataclass(value):
        own = {field.name: (getattr(value, field.name), field.metadata) for field in dataclasses.fields(value)}
        return {
            name: plain(part)
            for name, (part, metadata) in own.items()
            if not metadata.get("aside") and ("before" not in metadata or part != metadata["before"])
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def digest(named_by: Any) -> str:
    """16 hexadecimal digits of plain JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(named_by, sort_keys=True).encode()).hexdigest()[:16]
