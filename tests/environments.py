"""Runs the README's quickstart sweep and the tests in a fresh virtual environment of the lowest or newest dependencies.

python tests/environments.py lowest|newest [--out FOLDER] [--keep]

lowest: of everything that pyproject.toml names for qprune[test], the lowest version that its bound allows (of what comes
along with that, the newest that fits); newest: the newest of all. Needs uv (pip install uv), which asks the index that
its own variables name (UV_DEFAULT_INDEX ...), and some 6 GB in the temporary folder, removed at the end unless --keep.
Variables such as PYTEST_ADDOPTS=-n2 reach the tests.

Writes FOLDER/lowest.txt or newest.txt (default: results/environments): how the sweep and the tests ended, which tests
failed, and the packages. Exit code 0 where all went well, else 1.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}


def run(*command: str | Path, environment: dict[str, str]) -> tuple[int, list[str]]:
    """Exit code and lines of what a command prints, which is printed here too as it comes."""
    print("+", *command, flush=True)
    process = subprocess.Popen(
        command, cwd=HERE, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    return process.wait(), lines


def tried(which: str, uv: str, folder: Path) -> tuple[bool, str]:
    """Whether all went well in an environment that is made in the folder, and the text to be written."""
    place = folder / "environment"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "VIRTUAL_ENV": str(place),
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "160",
    }

    def made(*command: str | Path) -> list[str]:
        code, lines = run(*command, environment=variables)
        if code:
            sys.exit(f"{which}: the environment couldn't be made")
        return lines

    made(uv, "venv", "--python", sys.executable, place)
    made(uv, "pip", "install", "--resolution", RESOLUTIONS[which], "-e", ".[test]")
    packages = [line for line in made(uv, "pip", "list", "--format", "freeze") if re.match(r"[\w.-]+==", line)]
    swept, sweep = run("qprune", "sweep", "sweeps/quickstart.yaml", "--out", folder / "results", environment=variables)
    tested, tests = run("pytest", environment=variables)
    ends = [line for line in sweep if re.search(r"\d+ of \d+ cells done", line)] or ["no result"]
    failed = [line.partition(" - ")[0] for line in tests if line.startswith(("FAILED ", "ERROR "))]
    text = [
        f"{which} versions, Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{time.strftime('%Y-%m-%d')}",
        f"qprune sweep sweeps/quickstart.yaml: exit code {swept}; {ends[-1].strip()}",
        f"pytest: exit code {tested}; {tests[-1].strip('= ')}",
        *failed,
        "",
        *packages,
    ]
    return not (swept or tested), "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("which", choices=RESOLUTIONS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "environments", metavar="FOLDER")
    parser.add_argument("--keep", action="store_true", help="leave the environment where it is")
    options = parser.parse_args()
    uv = shutil.which("uv")
    if not uv:
        sys.exit("uv isn't there: pip install uv")
    folder = Path(tempfile.mkdtemp(prefix="qprune-environment-"))
    try:
        well, text = tried(options.which, uv, folder)
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.which}.txt").write_text(text)
    print(text)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
