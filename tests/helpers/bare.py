"""A place in which only some packages are installed, with what they need and nothing else: links, so it takes no time."""

import os
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]


def needed(*names: str) -> dict[str, Distribution]:
    """The distributions of these names, without extras, and all that they require here."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        known = f"{requirement.name.lower()}[{','.join(sorted(requirement.extras))}]"
        if known in found:
            continue
        found[known] = one = distribution(requirement.name)
        extras = requirement.extras or {""}
        required = [Requirement(text) for text in one.requires or ()]
        waiting += [r for r in required if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in extras)]
    return found


def link(folder: Path, *names: str) -> Path:
    """Makes `folder`, which has what these packages need, as a folder of Python's path."""
    folder.mkdir()
    for one in needed(*names).values():
        entries = {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}
        for entry in entries:
            place = folder / entry
            if not place.exists() and not entry.endswith(".pth"):
                place.symlink_to(Path(str(one.locate_file(entry))))
    return folder


def run_bare(packages: Path, *arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """Python with these packages alone, and qprune's source where its metadata are among them."""
    own = [str(REPOSITORY)] if list(packages.glob("qprune-*.dist-info")) else []
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    variables |= {"PYTHONPATH": os.pathsep.join([str(packages), *own]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout, check=False)
