"""The page's data and parts -> one self-contained HTML file."""

import base64
import gzip
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

from qprune.storage.durable import write_whole

SCRIPTS = (
    "data",
    "choose",
    "state",
    "published",
    "plot",
    "limits",
    "studies",
    "budget",
    "lambda",
    "cell",
    "table",
    "main",
)  # in the order of use


def page(data: dict) -> str:
    """The page. Its policy lets no script run but its own, by hash, and nothing be loaded."""
    from plotly.offline import get_plotlyjs

    parts = files("qprune.report") / "page"
    code = "\n".join((parts / f"{name}.js").read_text() for name in SCRIPTS)
    scripts = {"plotly": get_plotlyjs(), "script": f'"use strict";\n(async () => {{\n{code}\n}})();'}
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts.values())
    filled = {
        **scripts,
        "policy": f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:",
        "style": (parts / "page.css").read_text(),
        "data": packed(data),
    }
    # NOTE one pass: what is filled in is not searched again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], (parts / "page.html").read_text())


def packed(data: dict) -> str:
    """JSON, gzipped, as base64: a fifth of the size, and no name in it can end the element that it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_page(path: Path, data: dict) -> None:
    """Write the page, whole or not at all."""
    write_whole(path, page(data).encode())
