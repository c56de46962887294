"""Kills a running sweep (kill -9) at counted events, again and again, and goes on each time with the same command.

python tests/helpers/soak.py [--kills 50] [--seed 0] [--workers 2] [--set KEY=VALUE ...] [--folder DIR]

Killed are the driver alone, the driver and its workers, or one worker. A sweep that is complete is compared with an
undisturbed one, and if kills are left, the next begins in a fresh folder. Problems are raised as AssertionError.
"""

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import members, running
from same import check_complete, contents, leftovers
from tiny_sweep import COMMAND, environment, run_inline

from qprune.settings.config import load_config
from qprune.storage.results import read_cells, read_record
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

SWEEP = """\
name: soak
data: {name: digits, subset: 256}
model: saving:build
seeds: [0, 1]
train: {updates: 400, batch_size: 32, lr: 0.05}
prune: {ratios: [0, 0.5], channels_per_step: 4, updates_between: 12}
finetune: {updates: 200}
quantize: {updates: 120}
precisions: [fp32, int4]
protocol: classic
"""
EVENTS = {"process": 4, "start": 4, "save": 8, "finish": 4}  # what is counted -> at most so many before a kill
ORPHAN_EVENTS = 3  # that are seen of each worker that computes a stage, at most, after its driver has been killed
HANG_SECONDS = 120
WATCH_SECONDS = 0.02
QUIET = re.compile(r"^note .*: the worker process died: killed by signal 9.*; trying once more$")


@dataclass(frozen=True)
class Kill:
    """Whom to kill (driver, all, worker), as soon as there have been so many events since the last kill in this run.

    events: living processes of the run ("process": before the first stage), stages that were begun ("start"), savings
    of unfinished work ("save"), finished stages ("finish").
    """

    whom: str
    event: str
    count: int


def drawn(seed: int) -> Iterator[Kill]:
    """Kills without end. No two of workers in a row: a stage whose worker dies twice in one run is given up, rightly."""
    draw, whom = random.Random(seed), ""
    while True:
        again = whom == "worker"
        whom = draw.choice(["driver", "all"] if again else ["driver", "all", "worker"])
        event = draw.choice([event for event in EVENTS if not (again and event == "process")])
        yield Kill(whom, event, draw.randint(1, EVENTS[event]))


class Watch(threading.Thread):
    """Looks at a store's folder all the time: a finished stage must stay as it is, unfinished work may only grow."""

    def __init__(self, store: Store):
        super().__init__(daemon=True)
        self.store, self.stopped = store, threading.Event()
        self.finished: dict[str, tuple[int, int]] = {}  # stage -> (inode, time) of its report
        self.saved: dict[str, tuple[tuple[int, int], int]] = {}  # stage -> (inode and time, updates) of what was saved
        self.begun: set[tuple[int, str]] = set()  # (process, stage)
        self.events = Counter()  # how many were seen
        self.problems: list[str] = []

    def run(self) -> None:
        while not self.stopped.wait(WATCH_SECONDS):
            try:
                self.look()
            except Exception as error:
                self.problems.append(repr(error))

    def look(self) -> None:
        for file in self.store.folder.glob("[!.]*/stage.json"):
            try:
                status = file.stat()
            except FileNotFoundError:
                continue
            found = (status.st_ino, status.st_mtime_ns)
            self.events["finish"] += file.parent.name not in self.finished
            if self.finished.setdefault(file.parent.name, found) != found:
                self.problems.append(f"{file} was written twice")
                self.finished[file.parent.name] = found
        for file in (self.store.folder / ".partial").glob("[!.]*"):
            try:
                status = file.stat()
            except FileNotFoundError:
                continue
            found, before = (status.st_ino, status.st_mtime_ns), self.saved.get(file.name, (None, 0))
            if found != before[0] and (partial := self.store.load_partial(file.name)):
                meta = partial[0]
                updates = meta.get("done", 0) + sum(each["updates"] for each in meta["counters"].values())
                if updates < before[1]:
                    self.problems.append(f"{file}: {updates} updates after {before[1]}: the stage started over")
                self.events["save"] += 1
                self.saved[file.name] = (found, updates)
        begun = set(running(self.store).items())
        self.events["start"] += len(begun - self.begun)
        self.begun |= begun

    def stop(self) -> None:
        self.stopped.set()
        self.join()
        self.look()
        assert not self.problems, self.problems


class Run:
    """The command, running in a session of its own, so that all its processes can be found."""

    def __init__(self, folder: Path, workers: int, settings: list[str], watch: Watch):
        self.folder, self.watch = folder, watch
        self.text = tempfile.TemporaryFile("w+")  # noqa: SIM115
        (folder / "tmp").mkdir(exist_ok=True)
        sets = [word for setting in settings for word in ("--set", setting)]
        variables = environment() | {"TMPDIR": str(folder / "tmp")}
        variables["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)  # for the module saving
        self.process = subprocess.Popen(
            [*COMMAND, "sweep", "soak.yaml", "--workers", str(workers), *sets], cwd=folder, start_new_session=True,
            env=variables, stdout=self.text, stderr=self.text,
        )  # fmt: skip

    def wait(self, kill: Kill) -> bool:
        """Until it is time for the kill (True), or the command has ended (False)."""
        before = self.watch.events[kill.event]
        while self.process.poll() is None:
            seen = len(members(self.process.pid)) if kill.event == "process" else self.watch.events[kill.event] - before
            if seen >= kill.count:
                return True
            time.sleep(0.005)
        return False

    def kill(self, whom: str) -> str | None:
        """Kill what is meant; returns what was being done then, or None where there was nothing to kill."""
        busy = running(self.watch.store)
        doing = " + ".join(sorted(stage.split("-")[0] for stage in busy.values())) or "starting or idle"
        if whom == "worker":
            workers = [
                pid for pid, line in members(self.process.pid).items() if "forkserver" in line or "spawn_main" in line
            ]
            if not workers:
                return None
            victim = max(workers, key=lambda pid: (pid in busy, pid))
            doing = busy.get(victim, "starting or idle").split("-")[0]
            os.kill(victim, signal.SIGKILL)
        elif self.process.poll() is not None:
            return None
        elif whom == "driver":
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        return doing

    def gone(self) -> None:
        """Until no process of a killed command is left; none may have gone on with its work."""
        before, busy = sum(self.watch.events.values()), len(running(self.watch.store))
        self.process.wait()
        end = time.monotonic() + HANG_SECONDS
        while left := members(self.process.pid):
            assert time.monotonic() < end, f"left after {HANG_SECONDS} s: {left}"
            time.sleep(0.005)
        after = sum(self.watch.events.values()) - before
        assert after <= ORPHAN_EVENTS * max(busy, 1), f"{after} events after the driver's end"

    def printed(self) -> str:
        self.text.seek(0)
        return self.text.read()

    def check_printed(self) -> None:
        """A kill must not look like damage, nor like a failure."""
        text = self.printed()
        assert not re.search("mended:|damaged|Traceback|failed|error:", text), text
        strange = [line for line in text.splitlines() if line.startswith("note ") and not QUIET.match(line)]
        assert not strange, strange


def check_whole(folder: Path) -> None:
    """Whatever is in place after a kill is whole and readable."""
    store, sweep = Store(folder / "results/stages"), folder / "results/soak"
    for stage in store.folder.glob("[!.]*"):
        store.verify(stage.name)
    for file in (sweep / "cells").glob("[!.]*.json"):
        read_record(sweep, file.stem)
    if (sweep / "cells.csv").exists():
        read_cells(sweep)


def begin(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "soak.yaml").write_text(SWEEP)
    return folder


def soak(folder: Path, kills: Iterable[Kill], workers: int = 2, settings: Sequence[str] = (), say=print) -> dict:
    """The whole soak in a folder; returns what its summary says. Raises AssertionError."""
    base = begin(folder / "undisturbed")
    config = load_config(base / "soak.yaml", list(settings))
    plan = make_plan(config)
    assert run_inline(config, base / "results")[0] == 0
    say(f"undisturbed: {len(plan.cells)} cells, {len(plan.stages)} stages")

    kills, made, doings, found = iter(kills), Counter(), Counter(), Counter()
    kill = next(kills, None)
    while kill or not found["complete"]:
        found["rounds"] += 1
        place = begin(folder / f"killed-{found['rounds']}")
        watch = Watch(Store(place / "results/stages"))
        watch.start()
        complete = False
        while not complete:
            finished_before = set(watch.finished)
            run, in_run = Run(place, workers, settings, watch), Counter()
            found["runs"] += 1
            while kill and not in_run["driver"] + in_run["all"] and not (in_run["worker"] and kill.whom == "worker"):
                if not run.wait(kill):
                    break
                doing = run.kill(kill.whom)
                if doing is not None:
                    in_run[kill.whom] += 1
                    made[kill.whom] += 1
                    doings[doing] += 1
                    found["before the first stage"] += not watch.begun
                    say(f"{sum(made.values()):3d} {kill} during {doing}; {len(watch.finished)} stages done")
                kill = next(kills, None)
            if in_run["driver"] + in_run["all"]:
                run.gone()
                watch.look()
                check_whole(place)
                kept = {p.name for p in (watch.store.folder / ".partial").glob("[!.]*")} - set(watch.finished)
                found["unfinished work at a kill"] += len(kept)
                found["drafts at a kill"] += len(
                    [name for name in leftovers(place / "results") if ".partial/" not in name and ".locks" not in name]
                )
            else:
                assert run.process.wait() == 0, run.printed()
                complete = True
                run.gone()
            run.check_printed()
            assert not watch.problems, watch.problems
        watch.stop()
        missing = len(plan.stages) - len(finished_before)
        computed = int(re.search(r"(\d+) stages computed", run.printed())[1])
        assert missing - in_run["worker"] <= computed <= missing, (missing, computed, in_run)
        assert set(watch.finished) == set(plan.stages)
        check_complete(place, base, "soak")
        found["complete"] += 1
        found["savings of unfinished work"] += watch.events["save"]
        found["logs left in TMPDIR"] += len(list((place / "tmp").glob("qprune-log-*")))
        say(f"round {found['rounds']} complete and identical")
        shutil.rmtree(place)
        if not sum(in_run.values()) and kill and found["runs"] > 1:
            kill = next(kills, None)  # its event never came
    return {
        "kills": dict(made),
        "while": dict(doings.most_common()),
        **found,
        "contents compared": len(contents(base / "results")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report = soak(
            Path(folder),
            itertools.islice(drawn(options.seed), options.kills),
            options.workers,
            options.set,
            lambda text: print(text, flush=True),
        )
    print(json.dumps(report, indent=1))
    print(f"{sum(report['kills'].values())} kills in {time.monotonic() - started:.0f} s: nothing lost, nothing left")


if __name__ == "__main__":
    main()
