"""What a command imports, and the time of the processor that it takes."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HEAVY = ("torch", "torchvision", "brevitas", "sklearn")
CODE = """
import json, resource, sys
from qprune.__main__ import main
sys.argv[0] = "qprune"
code = 0
try:
    main()
except SystemExit as end:
    code = end.code
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, used.ru_utime + used.ru_stime, sorted(sys.modules)]), file=sys.stderr)
"""


@dataclass(frozen=True)
class Started:
    """code: the exit code; seconds: of the processor, in this process; modules: names of all that were imported."""

    code: int
    seconds: float
    modules: tuple[str, ...]

    @property
    def heavy(self) -> list[str]:
        return [name for name in HEAVY if name in self.modules]


def start(*arguments, cwd: Path, package: Path = Path(__file__).parents[2], home: Path | None = None) -> Started:
    """Run a command in a process of its own. package: the folder in which `qprune` lies; home: the user's, where it isn't his
    own: what a command keeps for the next one lies there."""
    ran = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package), **({"HOME": str(home)} if home else {})},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    code, seconds, modules = json.loads(ran.stderr.splitlines()[-1])
    return Started(code, seconds, tuple(modules))
