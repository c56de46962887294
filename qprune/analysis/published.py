"""Results of papers beside a sweep's operating points. They are only shown: no front, knee, pick or volume has them."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qprune.analysis.front import STUDY
from qprune.analysis.studies import best_at_cost
from qprune.registry.errors import UserError

CONVENTION = "multiply-only BOPs, first and last layer counted, relative to dense FP32"  # that of relative_bops
COLUMNS = ("method", "model", "data", "accuracy", "relative_bops", "dense_gflops", "convention", "source", "verified")
REMEDY = f"a table of published results is a CSV file with the columns {', '.join(COLUMNS)}"


@dataclass(frozen=True)
class Published:
    """One result as its paper reports it.

    accuracy: on the test images; relative_bops: what it costs; both are shares of 1. dense_gflops: of the dense FP32
    network that the cost is relative to, None where that isn't known; with it, networks of any width can be compared.
    convention: how the paper counts, CONVENTION where that is as qprune's relative_bops. model and data: as qprune calls
    them. verified: whether the numbers have been read in the source itself.
    """

    method: str
    model: str
    data: str
    accuracy: float
    relative_bops: float
    dense_gflops: float | None
    convention: str
    source: str
    verified: bool

    @property
    def axis(self) -> str:
        """The column of operating points that its cost is compared with; the absolute one where that is known."""
        return "relative_bops" if self.dense_gflops is None else "bit_gflops"

    @property
    def cost(self) -> float:
        """What it costs on that axis."""
        return self.relative_bops * (1 if self.dense_gflops is None else self.dense_gflops)

    def caveats(self, model: str, data: str) -> list[str]:
        """What keeps it from being compared with this model on this data set; empty where nothing does."""
        return [
            *([] if same_name(self.data, data) else [f"another data set ({self.data})"]),
            *([] if same_name(self.model, model) else [f"another model ({self.model})"]),
            *([] if self.counts_alike else [f"counted otherwise ({self.convention})"]),
        ]

    @property
    def counts_alike(self) -> bool:
        """Whether its cost is counted as qprune's relative_bops."""
        return self.convention == CONVENTION


def same_name(one: str, other: str) -> bool:
    """Whether two names have the same letters and digits: CIFAR-10 is cifar10."""
    letters = ["".join(letter for letter in name if letter.isalnum()).casefold() for name in (one, other)]
    return letters[0] == letters[1]


def read_published(paths: list[Path]) -> list[Published]:
    """The rows of such tables, one after the other; other columns than COLUMNS are left alone.

    Raises UserError, with the file and the line, where a table is missing, is none, is empty, or a field is not as above.
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
                if head.count(name) != 1:
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
    for name in COLUMNS:
        if not row[name] and name != "dense_gflops":
            raise UserError(f"{place}: {name} is empty")
    if row["verified"] not in ("yes", "no"):
        raise UserError(f"{place}: verified is {row['verified']!r}; write yes or no")
    parsed: dict[str, Any] = {name: row[name] for name in COLUMNS}
    parsed |= {name: _share(place, name, row[name]) for name in ("accuracy", "relative_bops")}
    parsed["dense_gflops"] = _gflops(place, row["dense_gflops"]) if row["dense_gflops"] else None
    return Published(**parsed | {"verified": row["verified"] == "yes"})


def _gflops(place: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(
            f"{place}: dense_gflops is {text!r}, not a number above 0; leave it empty where the paper doesn't tell it"
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


@dataclass(frozen=True)
class Standing:
    """What a sweep has for a published result's cost, of one model on one data set.

    point: row of the points, or None where none is that cheap. caveats: see Published.caveats.
    """

    sweep: str
    model: str
    data: str
    point: int | None
    caveats: list[str]


def standings(points, published: Published) -> list[Standing]:
    """For each sweep, model and data set of operating_points(): the best point at no more than the published cost.

    A step function: the best by mean validation accuracy, of equal ones the cheapest; nothing is extrapolated.
    """
    found = []
    for (sweep, model, data), own in points.groupby(["sweep", *STUDY], sort=False):
        costs, accuracies = own[published.axis].to_numpy(float), own.val_accuracy.to_numpy(float)
        best = best_at_cost(costs, accuracies, published.cost)
        found.append(
            Standing(sweep, model, data, None if best is None else int(own.index[best]), published.caveats(model, data))
        )
    return found
