"""Files that know whether they are what was written: JSON with a checksum of itself in front."""

import hashlib
import json
from pathlib import Path

from qprune.registry.errors import UserError

HEAD = b'{"sha256": "%s",'  # the checksum is of all that follows it
HEAD_LENGTH = len(HEAD) - 2 + 64


class Damaged(UserError):
    """A file is not what was written: changed, cut off, or empty."""


def sealed_json(values: dict) -> bytes:
    """A mapping, not empty, as JSON text whose first key is its checksum."""
    body = json.dumps(values, indent=1).encode()[1:]
    return HEAD % hashlib.sha256(body).hexdigest().encode() + body


def read_sealed_json(path: Path) -> dict:
    """What sealed_json wrote into a file. Raises FileNotFoundError, and Damaged where it isn't what was written."""
    content = Path(path).read_bytes()
    head, body = content[:HEAD_LENGTH], content[HEAD_LENGTH:]
    if head != HEAD % hashlib.sha256(body).hexdigest().encode():
        raise Damaged(f"{path} is damaged (wrong checksum)")
    return json.loads(b"{" + body)
