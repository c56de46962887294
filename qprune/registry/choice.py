"""What a sweep file chooses from a registry: a name and its options."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A data set, network or criterion: its name and options, e.g. {name: imagefolder, root: path, image_size: 64}."""

    name: str
    canonical: str  # JSON of name and options with sorted keys: one text for one choice, hashable, safe to share

    @property
    def settings(self) -> dict[str, Any]:
        """{"name": ..., **options}, a new dict at each call."""
        return json.loads(self.canonical)
