"""The predicted classes of test images that the page carries: of cells that are handed over, the fronts' first."""

from qprune.analysis.front import STUDY, is_on_front
from qprune.report.shared import Shared
from qprune.storage.correctness import classes_of, pack_classes

CELLS = 100  # at most
CHARACTERS = 800_000  # of all their predictions together; so many bytes of the page
FRONTS = ("bit_gflops", "weight_bytes")  # costs whose fronts come first


def class_tables(detailed, points, records: list[dict | None]) -> dict:
    """The test images' labels and the classes that cells predicted, as far as the page has room.

    detailed: the rows of the records' cells; points: the operating points. Cells without classes are left out.
    sets: {"labels": packed, "images": n, "names": [...]}, each of a data set's test split; rows: places in detailed;
    of: each one's set; differences: packed (predicted - label) modulo the number of classes, which takes little space.
    """
    place_of = {(row.sweep, row.cell): place for place, row in enumerate(detailed.itertuples())}
    sets = Shared()
    found: dict[str, list] = {"rows": [], "of": [], "differences": []}
    room = CHARACTERS
    for row in points.loc[handed_over_first(points)].itertuples():
        place = place_of.get((row.sweep, row.cell))
        record = None if place is None else records[place]
        classes = classes_of(record["test"]) if record and "test" in record else None
        if record is None or classes is None:
            continue
        labels, predicted = classes
        names = class_names(record, int(max(labels.max(), predicted.max())) + 1)
        differences = pack_classes((predicted - labels) % len(names))
        room -= len(differences)
        if room < 0 or len(found["rows"]) == CELLS:
            break
        found["rows"].append(place)
        found["of"].append(sets.put({"labels": pack_classes(labels), "images": len(labels), "names": names}))
        found["differences"].append(differences)
    return {"sets": sets.values} | found


def class_names(record: dict, least: int) -> list[str]:
    """The names of a record's classes; their numbers where it has none, or fewer than there are."""
    names = record.get("class_names", [])
    count = max(least, record.get("network", {}).get("num_classes", 0))
    return names if len(names) >= count else [str(number) for number in range(count)]


def handed_over_first(points) -> list:
    """Labels of the operating points, the unpruned FP32 ones and those on the fronts of each precision first."""
    on_front = ((points.precision == "fp32") & (points.pruning_ratio == 0)).to_numpy(copy=True)
    for cost in (cost for cost in FRONTS if cost in points):
        for _, some in points.groupby([*STUDY, "precision"]):
            front = is_on_front(some[cost].to_numpy(float), some.val_accuracy.to_numpy(float))
            on_front[points.index.get_indexer(some.index[front])] = True
    return [*points.index[on_front], *points.index[~on_front]]
