"""Results of papers beside a sweep's operating points. They are only shown: no front, knee, pick or volume has them."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qprune.analysis.front import STUDY
from qprune.analysis.studies import best_at_cost
from qprune.registry.errors import UserError

ALIKE = "as qprune"  # begins what is said of a cost that is counted as qprune's column of that name
VERIFIED = {  # what its numbers were read in -> in words; of the first three they count as checked
    "repo": "the authors' repository",
    "paper": "the paper's table",
    "figure": "a figure of the authors'",
    "issue": "contested: a user measured otherwise",
    "no": "not checked",
}
CHECKED = ("repo", "paper", "figure")
REQUIRED = ("method", "model", "data", "accuracy", "counting", "read_in", "verified")
COSTS = ("gbops", "relative_bops", "weight_bytes")  # at least one of them
COLUMNS = (
    "method", "model", "data", "accuracy", "gbops", "relative_bops", "dense_gflops", "weight_bytes", "epochs", "baseline",
    "counting", "read_in", "verified",
)  # fmt: skip
REMEDY = (
    f"a table of published results is a CSV file with the columns {', '.join(REQUIRED)}, at least one of {', '.join(COSTS)}, "
    f"and, where they are known, {', '.join(name for name in COLUMNS if name not in REQUIRED + COSTS)}"
)
GBOPS_PER_BIT_GFLOP = 32 * 32 / 2
ON = 0.01  # of accuracy: two networks at 86%, each on its 10,000 test images, differ by so much by chance (95%)


@dataclass(frozen=True)
class Published:
    """One result as its source reports it.

    accuracy: on the test images, a share of 1; baseline: of the source's dense FP32 network; epochs: of training in all.
    gbops: bit operations / 1e9; relative_bops: as a share of those of the dense FP32 network, which has dense_gflops;
    weight_bytes: of the weights alone, at their widths. None where the source doesn't tell.
    counting: how its cost is counted; begins with ALIKE where that is as qprune does. model and data: as qprune calls them.
    read_in: where the numbers were read; verified: what that is, of VERIFIED.
    """

    method: str
    model: str
    data: str
    accuracy: float
    counting: str
    read_in: str
    verified: str
    gbops: float | None = None
    relative_bops: float | None = None
    dense_gflops: float | None = None
    weight_bytes: float | None = None
    epochs: float | None = None
    baseline: float | None = None

    @property
    def costs(self) -> dict[str, float]:
        """Column of operating points -> what it costs there; the first is the one to compare it by."""
        costs = {}
        if self.gbops is not None:
            costs["bit_gflops"] = self.gbops / GBOPS_PER_BIT_GFLOP
        elif self.relative_bops is not None and self.dense_gflops is not None:
            costs["bit_gflops"] = self.relative_bops * self.dense_gflops
        if self.relative_bops is not None:
            costs["relative_bops"] = self.relative_bops
        if self.weight_bytes is not None:
            costs["weight_bits_bytes"] = self.weight_bytes
        return costs

    @property
    def axis(self) -> str:
        """The column of operating points that its cost is compared by; an absolute one where that is known."""
        return next(iter(self.costs))

    @property
    def cost(self) -> float:
        """What it costs on that axis."""
        return self.costs[self.axis]

    @property
    def is_checked(self) -> bool:
        """Whether its numbers have been read in the source itself, and nobody measured others."""
        return self.verified in CHECKED

    def caveats(self, model: str, data: str) -> list[str]:
        """What keeps it from being compared with this model on this data set; empty where nothing does."""
        return [
            *([] if same_name(self.data, data) else [f"another data set ({self.data})"]),
            *([] if same_name(self.model, model) else [f"another model ({self.model})"]),
            *([] if self.counts_alike else ["counted otherwise"]),
        ]

    @property
    def counts_alike(self) -> bool:
        """Whether its cost is counted as qprune's."""
        return self.counting.startswith(ALIKE)


def standing_words(gap: float) -> str:
    """How a sweep's accuracy stands to a published one, `gap` above it, both shares of 1."""
    words = "on it" if abs(gap) <= ON + 1e-12 else "above it" if gap > 0 else "below it"
    return f"{words}, {100 * gap:+.2f} percentage points"


def same_name(one: str, other: str) -> bool:
    """Whether two names have the same letters and digits: CIFAR-10 is cifar10."""
    letters = ["".join(letter for letter in name if letter.isalnum()).casefold() for name in (one, other)]
    return letters[0] == letters[1]


def read_published(paths: list[Path]) -> list[Published]:
    """The rows of such tables, one after the other; other columns than COLUMNS are left alone.

    Raises UserError, with the file and the line, where a table is missing, is none, is empty, or a field is not as Published
    has it.
    """
    paths = [Path(path) for path in paths]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise UserError(f"{twice} is named twice; name each table of published results once")
    return [row for path in paths for row in _read(path)]


def _read(path: Path) -> list[Published]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {REMEDY}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            head = [name.strip() for name in next(lines, [])]
            if not head:
                raise UserError(f"{path} is empty; {REMEDY}")
            for name in COLUMNS:
                if head.count(name) > 1 or (name in REQUIRED and name not in head):
                    raise UserError(
                        f"{path}:1: {'two columns are' if name in head else 'no column is'} called {name}; {REMEDY}"
                    )
            rows = [_row(f"{path}:{lines.line_num}", head, fields) for fields in lines if any(map(str.strip, fields))]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read as a table ({error}); {REMEDY}") from error
    if not rows:
        raise UserError(f"{path} has no row under its header; {REMEDY}")
    return rows


def _row(place: str, head: list[str], fields: list[str]) -> Published:
    """One row. place: its file and line, to begin an error with."""
    if len(fields) != len(head):
        raise UserError(
            f"{place}: {len(fields)} fields under {len(head)} columns; put a text with a comma in double quotes"
        )
    row = {name: text.strip() for name, text in zip(head, fields, strict=True)}
    if missing := next((name for name in REQUIRED if not row[name]), None):
        raise UserError(f"{place}: {missing} is empty")
    if row["verified"] not in VERIFIED:
        raise UserError(f"{place}: verified is {row['verified']!r}; write one of {', '.join(VERIFIED)}")
    if not any(row.get(name) for name in COSTS):
        raise UserError(f"{place}: no cost; give one of {', '.join(COSTS)}")
    texts: dict[str, Any] = {name: row[name] for name in REQUIRED if name != "accuracy"}
    numbers = {name: read(place, name, row[name]) for name, read in NUMBERS.items() if row.get(name)}
    return Published(**texts | numbers)


def _positive(place: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(
            f"{place}: {name} is {text!r}, not a number above 0; leave it empty where the source doesn't tell"
        )
    return value


def _share(place: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{place}: {name} is {text!r}, not a number; write a share of 1, 93.23% as 0.9323") from None
    if not 0 <= value <= 1 or (name == "relative_bops" and value == 0):  # nan is none, and a cost axis may be log
        least = "above 0" if name == "relative_bops" else "from 0"
        raise UserError(f"{place}: {name} is {text}, not a share {least} to 1; write 93.23% as 0.9323")
    return value


NUMBERS = {
    "accuracy": _share, "baseline": _share, "relative_bops": _share, "gbops": _positive, "dense_gflops": _positive,
    "weight_bytes": _positive, "epochs": _positive,
}  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """What a sweep has for a published result's cost, of one model on one data set.

    point: row of the points, or None where none is that cheap; counted: whether its table has that cost at all. caveats: see
    Published.caveats.
    """

    sweep: str
    model: str
    data: str
    point: int | None
    counted: bool
    caveats: list[str]


def standings(points, published: Published) -> list[Standing]:
    """For each sweep, model and data set of operating_points(): the best point at no more than the published cost.

    A step function: the best by mean validation accuracy, of equal ones the cheapest; nothing is extrapolated.
    """
    found = []
    for (sweep, model, data), own in points.groupby(["sweep", *STUDY], sort=False):
        best, counted = None, published.axis in own and bool(own[published.axis].notna().any())
        if counted:
            costs, accuracies = own[published.axis].to_numpy(float), own.val_accuracy.to_numpy(float)
            best = best_at_cost(costs, accuracies, published.cost)
        row = None if best is None else int(own.index[best])
        found.append(Standing(sweep, model, data, row, counted, published.caveats(model, data)))
    return found
