"""Processes of a command that runs: which there are, what they compute, and waiting for them."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from qprune.storage.store import Store


def group_is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(condition, seconds: float, process: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def heed_ctrl_c() -> None:
    """Tests that run in the background of a shell inherit an ignored SIGINT, and would hand it on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def running(store: Store) -> dict[int, str]:
    """Process -> the stage that it computes: whose lock it holds, as the system knows."""
    inodes = {}
    for path in (store.folder / ".locks").glob("*"):
        try:
            inodes[path.stat().st_ino] = path.name
        except FileNotFoundError:
            continue
    found = {}
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields[1] and (stage := inodes.get(int(fields[5].rpartition(":")[2]))):
            found[int(fields[4])] = stage
    return found


def members(session: int) -> dict[int, str]:
    """The living processes of a session: id -> command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, own = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def memory_share(pid: int) -> float:
    """MB of a process: its own, and of what it shares with others its share (PSS); 0 where it has ended."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def processes_with(variable: str) -> list[str]:
    """Ids of processes that were started with an environment variable."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append(place.name)
        except OSError:  # it has ended, or isn't ours
            continue
    return found
