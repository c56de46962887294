"""A page's body, data and script -> one self-contained HTML file."""

import base64
import gzip
import hashlib
import html
import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

from qprune.report.bundle import bundle
from qprune.storage.durable import write_whole


def page(title: str, body: str, data: dict, module: str) -> str:
    """The page. Its policy lets no script run but its own, by hash, and nothing be loaded.

    body: HTML; data: plain JSON, which the script has as DATA; module: of the folder page, with all that it imports.
    """
    (plotly, plotly_hash), script = _plotly(), bundle(module)
    hashes = " ".join(f"'sha256-{one}'" for one in (plotly_hash, _sha256(script)))
    filled = {
        "plotly": plotly,
        "script": script,
        "policy": f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:",
        "title": html.escape(title),
        "style": _part("page.css"),
        "body": body,
        "data": packed(data),
    }
    # NOTE one pass: what is filled in is not searched again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], _part("frame.html"))


@cache
def _plotly() -> tuple[str, str]:
    """plotly.js packed, and its hash: a sweep writes its page again and again."""
    from plotly.offline import get_plotlyjs

    plotly = get_plotlyjs()
    return packed_text(plotly), _sha256(plotly)


def _part(name: str) -> str:
    return (files("qprune.report") / "page" / name).read_text()


def packed(data: dict) -> str:
    """JSON as packed_text()."""
    return packed_text(json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False))


def packed_text(text: str) -> str:
    """A text, gzipped, as base64: far smaller, and nothing in it can end the element that it stands in."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_page(path: Path, data: dict) -> None:
    """Write the page of report_data(), whole or not at all."""
    write_whole(path, page("qprune report", _part("report.html"), data, "main").encode())
