"""Sends SIGTERM or Ctrl-C to a command at random moments of its first seconds, its imports most of all: no traceback, ever.

    python tests/helpers/kills.py --times 100

prints how the commands ended, and exits with 1 where one printed a traceback, or left a process behind.
"""

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from processes import group_is_empty, heed_ctrl_c, wait_until
from tiny_sweep import write_tiny

SWEEP = ("sweep", "tiny.yaml", "--set", "train.updates=100000")
PLAN = ("plan", "tiny.yaml")
SECONDS = 5.0  # in which a signal comes


@dataclass(frozen=True)
class Ended:
    """A command that was sent a signal: what, when (seconds after its start), to whom, how it ended, what it printed."""

    command: str
    signal: str
    seconds: float
    whole_group: bool
    code: int
    printed: str

    @property
    def is_clean(self) -> bool:
        """Python itself tells of a Ctrl-C as it starts, before it has read a line of qprune."""
        if self.code == -signal.SIGINT:
            return "qprune/cli" not in self.printed
        return "Traceback" not in self.printed and "Exception ignored" not in self.printed


def kill(arguments: tuple[str, ...], sent: signal.Signals, seconds: float, whole_group: bool, folder: Path) -> Ended:
    """Runs a command in `folder`, a home where nothing is kept, and sends it (or its workers, too) a signal. Raises
    AssertionError where a process stays."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qprune", *arguments], cwd=folder, start_new_session=True, preexec_fn=heed_ctrl_c, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder)},
    )  # fmt: skip
    try:
        time.sleep(seconds)
        if process.poll() is None:
            (os.killpg if whole_group else os.kill)(process.pid, sent)
        printed, _ = process.communicate(timeout=120)
        wait_until(lambda: group_is_empty(process.pid), 60)
    finally:
        if not group_is_empty(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    return Ended(arguments[0], sent.name, round(seconds, 3), whole_group, process.returncode, printed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    ends, dirty = collections.Counter(), []
    for number in range(given.times):
        with tempfile.TemporaryDirectory() as folder:
            write_tiny(Path(folder))
            arguments, sent = (
                random.choice((SWEEP, PLAN)),
                random.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGINT)),
            )
            ended = kill(arguments, sent, random.uniform(0, given.seconds), bool(number % 2), Path(folder))
        ends[ended.command, ended.signal, ended.code] += 1
        if not ended.is_clean:
            dirty.append(ended)
            print(f"{ended}\n{ended.printed}")
    for (command, name, code), count in sorted(ends.items()):
        print(f"{command:<6} {name:<8} exit code {code:>4}: {count}")
    print(f"{given.times} times in the first {given.seconds:g} s: {len(dirty)} with a traceback")
    return 1 if dirty else 0


if __name__ == "__main__":
    sys.exit(main())
