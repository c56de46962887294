"""What a running sweep shows: an overall bar with ETA and the running stages, or plain lines without a terminal."""

import time

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from qprune.executors.base import Event
from qprune.stages import Stage

PLAIN_SECONDS = 10  # between two plain lines
STAGE_WORK = 20  # updates that a stage's start, files and evaluation are reckoned as

READING = "reading data, building networks"  # what takes a while before anything is computed
TRYING = "trying each network at each precision"


def doing(console: Console, what: str) -> None:
    """Say to someone who waits at a terminal what it is for; in a file nobody waits."""
    if console.is_terminal:
        console.print(f"{what} ...", style="dim", highlight=False)


class Progress:
    """Shows events of an executor; use as a context manager."""

    def __init__(self, todo: dict[str, Stage], console: Console):
        self.todo, self.console = todo, console
        self.work = sum(stage.work + STAGE_WORK for stage in todo.values())
        self.worked = 0
        self.ended = 0
        self.made: dict[str, int] = {}
        self.running: dict[str, TaskID] = {}
        self.started = time.monotonic()
        self.last_line = 0.0
        self.reasons: set[str] = set()  # of failures; each is told once
        self.bars = None
        if console.is_terminal:
            # what is cut off where the terminal is narrow; the numbers stay whole
            cut_off = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            columns = (
                TextColumn("{task.description}", table_column=cut_off),
                BarColumn(bar_width=12),
                TextColumn("{task.percentage:3.0f}%", table_column=Column(no_wrap=True)),
                TimeElapsedColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(elapsed_when_finished=False, table_column=Column(no_wrap=True)),
            )
            self.bars = Bars(*columns, console=console, transient=True, expand=True)
            self.overall = self.bars.add_task(f"[bold]{self._counts()}", total=self.work)

    def __enter__(self) -> "Progress":
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_) -> None:
        if self.bars:
            self.bars.stop()

    def _counts(self) -> str:
        return f"{self.ended}/{len(self.todo)} stages"

    def show(self, event: Event) -> None:
        """Take in one event."""
        stage = self.todo[event.stage]
        if event.kind == "note":
            self.console.print(f"note {stage.label}: {event.reason}", markup=False, highlight=False, soft_wrap=True)
            return
        if event.kind == "started":
            if self.bars and event.stage not in self.running:
                self.running[event.stage] = self.bars.add_task(stage.label, total=max(stage.work, 1))
            return
        made = self.made.get(event.stage, 0)
        ended = event.kind in ("done", "failed")
        new = stage.work - made + STAGE_WORK if ended else event.count
        self.made[event.stage] = made + event.count
        self.worked += new
        self.ended += ended
        if event.kind == "failed" and event.reason not in self.reasons:
            self.reasons.add(event.reason)
            self.console.print("failed", style="red", end=" ")
            self.console.print(f"{stage.label}: {event.reason}", markup=False, highlight=False, soft_wrap=True)
        if self.bars:
            self._update_bars(self.bars, event, new, ended)
        else:
            self._line(stage.label, ended)

    def _update_bars(self, bars: Bars, event: Event, new: int, ended: bool) -> None:
        bars.update(self.overall, advance=new, description=f"[bold]{self._counts()}")
        if ended and event.stage in self.running:
            bars.remove_task(self.running.pop(event.stage))
        elif event.stage in self.running:
            bars.update(self.running[event.stage], advance=event.count)

    def _line(self, label: str, ended: bool) -> None:
        now = time.monotonic()
        if now - self.last_line < PLAIN_SECONDS and not (ended and self.ended == len(self.todo)):
            return
        self.last_line = now
        elapsed = now - self.started
        share = self.worked / max(self.work, 1)
        left = f", about {elapsed / share - elapsed:.0f} s left" if share > 0.02 else ""
        line = f"{100 * share:3.0f}%  {self._counts()}  {elapsed:.0f} s{left}  {label}"
        self.console.print(line, highlight=False, soft_wrap=True)
