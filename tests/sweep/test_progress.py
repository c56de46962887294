"""What a running sweep shows."""

import io
import re
from types import SimpleNamespace

from rich.console import Console

from qprune.executors.base import Event
from qprune.sweep.progress import Progress


def test_times_are_whole_in_a_narrow_terminal():
    """A stage's name is what is cut off."""
    stage = SimpleNamespace(work=1000, label="quantize " + 30 * "long " + "name")
    console = Console(force_terminal=True, width=80, file=io.StringIO())
    with Progress({"one": stage}, console) as progress:
        progress.show(Event("started", "one"))
        progress.show(Event("updates", "one", count=600))
        shown = io.StringIO()
        Console(width=80, file=shown).print(progress.bars.make_tasks_table(progress.bars.tasks))
    lines = shown.getvalue().splitlines()
    assert len(lines) == 2 and all(re.search(r" \d+% \d:\d\d:\d\d [-\d]:[-\d]{2}:[-\d]{2}$", line) for line in lines), (
        lines
    )
    assert "…" in lines[1]
