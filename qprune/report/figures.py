"""The page's main charts as SVG and PNG files: drawn by the page itself, in a browser without a window."""

import base64
import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import unquote

from qprune.registry.errors import UserError
from qprune.storage.durable import write_whole

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
SECONDS = 120
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
)


def find_browser() -> str:
    """The browser that QPRUNE_BROWSER names, or the first one on the path. Raises UserError where there is none."""
    named = os.environ.get("QPRUNE_BROWSER")
    for name in [named] if named else BROWSERS:
        if path := shutil.which(name):
            return path
    raise UserError(
        (
            f"QPRUNE_BROWSER={named} is no program"
            if named
            else "--figures needs Chromium or Chrome, and none is on the path"
        )
        + "; install one (apt install chromium), name one (QPRUNE_BROWSER=/path/to/chrome), "
        "or save the charts from the open report with their PNG and SVG buttons"
    )


def write_figures(page: Path, folder: Path) -> list[Path]:
    """Write the charts of a report's page into a folder; returns the files. Raises UserError where that fails."""
    browser = find_browser()
    with tempfile.TemporaryDirectory() as profile:
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium asks root for that
        flags = ["--headless=new", *QUIET, *root, f"--user-data-dir={profile}", "--window-size=1280,1000"]
        wait = f"--virtual-time-budget={SECONDS * 500}"
        command = [browser, *flags, wait, "--dump-dom", f"{page.resolve().as_uri()}#figures=1"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{browser} could not draw the figures ({error}); save them from {page} instead") from error
    found = re.search(r'<pre id="figures">(.*?)</pre>', done.stdout.decode(errors="replace"), re.DOTALL)
    if not found:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"{browser} drew no figures ({''.join(said) or 'it said nothing'}); save them from {page} instead"
        )
    written = []
    for name, url in sorted(json.loads(html.unescape(found[1])).items()):
        head, content = url.split(",", 1)
        path = folder / name
        write_whole(path, base64.b64decode(content) if head.endswith(";base64") else unquote(content).encode())
        written.append(path)
    return written
