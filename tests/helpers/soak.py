"""Kills a running sweep (kill -9) at random moments, again and again, and goes on each time with the same command.

python tests/helpers/soak.py [--kills 50] [--seed 0] [--workers 2] [--set KEY=VALUE ...] [--folder DIR]

Killed are the driver alone, the driver and its workers, or one worker. A sweep that is complete is compared with an
undisturbed one, and if kills are left, the next begins in a fresh folder. Problems are raised as AssertionError.
"""

import argparse
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
from pathlib import Path

from processes import members, running
from same import check_complete, contents, leftovers
from tiny_sweep import COMMAND, environment

from qprune.settings.config import load_config
from qprune.storage.results import read_cells, read_record
from qprune.storage.store import Store
from qprune.sweep.plan import make_plan

SWEEP = """\
name: soak
data: {name: digits, subset: 256}
model: {name: vgg_tiny, width: 0.5}
seeds: [0, 1]
train: {updates: 1500, batch_size: 32, lr: 0.05}
prune: {ratios: [0, 0.5], channels_per_step: 4, updates_between: 40}
finetune: {updates: 600}
quantize: {updates: 400}
precisions: [fp32, int4]
"""  # stages of some seconds, so that unfinished work is saved
ORPHAN_SECONDS = 5  # within which the workers of a killed driver have to be gone
STARTING_SHARE = 0.25  # of the kills, before the first stage is begun
SPAN_SHARE = 0.25  # of an undisturbed sweep's time is the longest that a killed one works
WATCH_SECONDS = 0.05
QUIET = re.compile(r"^note .*: the worker process died: killed by signal 9.*; trying once more$")


class Watch(threading.Thread):
    """Looks at a store's folder all the time: a finished stage must stay as it is, unfinished work may only grow."""

    def __init__(self, store: Store):
        super().__init__(daemon=True)
        self.store, self.stopped = store, threading.Event()
        self.finished: dict[str, tuple[int, int]] = {}  # stage -> (inode, time) of its report
        self.saved: dict[str, tuple[int, int]] = {}  # stage -> (inode, updates) of its unfinished work
        self.went_on = Counter()  # stage -> later savings
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
            if self.finished.setdefault(file.parent.name, found) != found:
                self.problems.append(f"{file} was written twice")
                self.finished[file.parent.name] = found
        for file in (self.store.folder / ".partial").glob("[!.]*"):
            try:
                inode = file.stat().st_ino
            except FileNotFoundError:
                continue
            before = self.saved.get(file.name, (0, 0))
            if inode != before[0] and (partial := self.store.load_partial(file.name)):
                meta = partial[0]
                updates = meta.get("done", 0) + sum(each["updates"] for each in meta["counters"].values())
                if updates < before[1]:
                    self.problems.append(f"{file}: {updates} updates after {before[1]}: the stage started over")
                self.went_on[file.name] += 1
                self.saved[file.name] = (inode, updates)

    def stop(self) -> None:
        self.stopped.set()
        self.join()
        self.look()
        assert not self.problems, self.problems


class Run:
    """The command, running in a session of its own, so that all its processes can be found."""

    def __init__(self, folder: Path, workers: int, settings: list[str]):
        self.folder, self.store = folder, Store(folder / "results/stages")
        self.started = time.monotonic()
        self.text = tempfile.TemporaryFile("w+")  # noqa: SIM115
        (folder / "tmp").mkdir(exist_ok=True)
        sets = [word for setting in settings for word in ("--set", setting)]
        self.process = subprocess.Popen(
            [*COMMAND, "sweep", "soak.yaml", "--workers", str(workers), *sets], cwd=folder, start_new_session=True,
            env={**environment(), "TMPDIR": str(folder / "tmp")}, stdout=self.text, stderr=self.text,
        )  # fmt: skip

    def wait(self, condition, seconds: float = 1e9) -> bool:
        """Until the condition holds (True), or the command has ended or the seconds are over (False)."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if condition():
                return True
            time.sleep(0.005)
        return False

    def kill(self, kind: str, draw: random.Random) -> str | None:
        """Kill what is meant; returns what was being done then, or None where there was nothing to kill."""
        busy = running(self.store)
        doing = " + ".join(sorted(stage.split("-")[0] for stage in busy.values())) or "starting or idle"
        if kind == "worker":
            workers = [pid for pid, line in members(self.process.pid).items() if "spawn_main" in line]
            if not workers:
                return None
            victim = draw.choice(workers)
            doing = busy.get(victim, "starting or idle").split("-")[0]
            os.kill(victim, signal.SIGKILL)
        elif self.process.poll() is not None:
            return None
        elif kind == "driver":
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        return doing

    def gone(self) -> float:
        """Seconds until no process of a killed command was left."""
        start = time.monotonic()
        self.process.wait()
        while left := members(self.process.pid):
            assert time.monotonic() - start < ORPHAN_SECONDS, f"left after {ORPHAN_SECONDS} s: {left}"
            time.sleep(0.02)
        return time.monotonic() - start

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


def soak(folder: Path, kills: int, seed: int = 0, workers: int = 2, settings: list[str] = (), say=print) -> dict:
    """The whole soak in a folder; returns what its summary says. Raises AssertionError."""
    draw = random.Random(seed)
    base = begin(folder / "undisturbed")
    config = load_config(base / "soak.yaml", list(settings))
    plan = make_plan(config)
    run = Run(base, workers, settings)
    assert run.wait(lambda: running(run.store)), run.printed()
    starting = time.monotonic() - run.started
    assert run.process.wait() == 0, run.printed()
    undisturbed = time.monotonic() - run.started
    run.check_printed()
    say(
        f"undisturbed: {len(plan.cells)} cells, {len(plan.stages)} stages, {undisturbed:.0f} s, {starting:.0f} s of it to start"
    )

    by_kind, by_moment, found = Counter(), Counter(), Counter()
    slowest = 0.0
    while sum(by_kind.values()) < kills or not found["complete"]:
        found["rounds"] += 1
        place = begin(folder / f"killed-{found['rounds']}")
        watch = Watch(Store(place / "results/stages"))
        watch.start()
        complete = False
        while not complete:
            finished_before = set(watch.finished)
            run, in_run = Run(place, workers, settings), Counter()
            found["runs"] += 1
            while sum(by_kind.values()) < kills and not in_run["driver"] + in_run["all"]:
                # a stage whose worker dies twice in one run is given up, and rightly so
                kind = draw.choice(["driver", "all"] if in_run["worker"] else ["driver", "all", "worker"])
                if draw.random() < STARTING_SHARE and not in_run["worker"]:
                    moment = run.started + draw.uniform(0, starting)
                else:
                    begun = draw.uniform(0, SPAN_SHARE * (undisturbed - starting))
                    if not run.wait(lambda: running(run.store)):
                        break
                    moment = time.monotonic() + begun
                if run.wait(lambda: False, max(moment - time.monotonic(), 0)) or run.process.poll() is not None:
                    break
                if (doing := run.kill(kind, draw)) is None:
                    continue
                in_run[kind] += 1
                by_kind[kind] += 1
                by_moment[doing] += 1
            if in_run["driver"] + in_run["all"]:
                slowest = max(slowest, run.gone())
                watch.look()
                check_whole(place)
                kept = {p.name for p in (run.store.folder / ".partial").glob("[!.]*")} - set(watch.finished)
                found["unfinished work at a kill"] += len(kept)
                found["drafts at a kill"] += len(
                    [name for name in leftovers(place / "results") if ".partial/" not in name and ".locks" not in name]
                )
                say(
                    f"{sum(by_kind.values()):3d} {kind:6s} during {doing}; {len(watch.finished)} stages done, unfinished: {sorted(kept)}"
                )
            else:
                assert run.process.wait() == 0, run.printed()
                complete = True
                slowest = max(slowest, run.gone())
            run.check_printed()
            assert not watch.problems, watch.problems
        watch.stop()
        missing = len(plan.stages) - len(finished_before)
        computed = int(re.search(r"(\d+) stages computed", run.printed())[1])
        assert missing - in_run["worker"] <= computed <= missing, (missing, computed, in_run)
        assert set(watch.finished) == set(plan.stages)
        check_complete(place, base, "soak")
        found["complete"] += 1
        found["savings of unfinished work"] += sum(watch.went_on.values())
        found["logs left in TMPDIR"] += len(list((place / "tmp").glob("qprune-log-*")))
        say(f"round {found['rounds']} complete and identical")
        shutil.rmtree(place)
    return {
        "kills": dict(by_kind),
        "while": dict(by_moment.most_common()),
        **found,
        "slowest end, s": round(slowest, 2),
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
            options.kills,
            options.seed,
            options.workers,
            options.set,
            lambda text: print(text, flush=True),
        )
    print(json.dumps(report, indent=1))
    print(f"{sum(report['kills'].values())} kills in {time.monotonic() - started:.0f} s: nothing lost, nothing left")


if __name__ == "__main__":
    main()
