"""The command, forked from a process that has imported what it needs: the same code without seconds of imports each time.

What a start imports, and being told to stop meanwhile, is tested on real starts (started.py, kills.py).
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path


def serve() -> None:
    """Fork for each line of the standard input. Returns in the forked ones, which have become what was asked for."""
    from qprune import cli  # noqa: F401
    from qprune.executors import preload  # noqa: F401

    while line := sys.stdin.readline():
        asked = json.loads(line)
        child = os.fork()
        if not child:
            become(**asked)
            return
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)


def become(arguments: list[str], cwd: str, environment: dict[str, str], outputs: list[str]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[:1] = ["qprune", *arguments], []  # without this file's folder
    for number, name in enumerate((os.devnull, *outputs)):
        opened = os.open(name, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)


@cache
def server() -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def run_forked(
    arguments: list[str], cwd: Path, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess:
    """As subprocess.run of `qprune` with these arguments would return it."""
    process, command = server(), ["qprune", *arguments]
    assert process.stdin and process.stdout
    with tempfile.NamedTemporaryFile("r") as stdout, tempfile.NamedTemporaryFile("r") as stderr:
        outputs = [stdout.name, stderr.name]
        asked = {"arguments": arguments, "cwd": str(cwd), "environment": environment, "outputs": outputs}
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        late = threading.Timer(timeout, os.killpg, (child, signal.SIGKILL))
        late.start()
        code = int(process.stdout.readline())
        late.cancel()
        if code == -signal.SIGKILL:
            raise subprocess.TimeoutExpired(command, timeout, stdout.read(), stderr.read())
        return subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())


if __name__ == "__main__":
    serve()
    from qprune.__main__ import main

    main()
