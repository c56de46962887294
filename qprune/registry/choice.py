"""What a sweep file chooses from a registry: a name and its options."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A data set, network or criterion: its name and options, e.g. {name: imagefolder, root: path, image_size: 64}."""

    name: str
    canonical: str  # JSON of name and options with sorted keys: one text for one choice, hashable, safe to share

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Choice":
        """The choice of settings {"name": ..., **options}, which are plain JSON."""
        return cls(settings["name"], json.dumps(settings, sort_keys=True, allow_nan=False))

    @property
    def settings(self) -> dict[str, Any]:
        """{"name": ..., **options}, a new dict at each call."""
        return json.loads(self.canonical)
