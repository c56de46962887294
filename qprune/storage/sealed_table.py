"""CSV tables whose rows know whether they are what was written: a last column `checksum`, checked and dropped on reading.

The checksum of row i of n is the start of the SHA-256 of the columns' names, of "i/n" and of the row's other fields as
text, so that a changed name, a changed field, and lost, added or moved rows are all noticed. A table without the
column, such as one made by hand, is read as it is.
"""

import csv
import hashlib
import io
import re
import sys
from collections.abc import Collection
from pathlib import Path

from qprune.registry.errors import UserError
from qprune.storage.seal import Damaged

COLUMN = "checksum"
DIGITS = 12  # hexadecimal ones of each checksum


def sealed_table(text: str) -> bytes:
    """A CSV table with its header and at least one row, as text -> the same with the column `checksum`, as UTF-8."""
    header, *rows = _fields(text)
    sums = checksums(header, rows)
    return _text([[*header, COLUMN], *([*row, own] for row, own in zip(rows, sums, strict=True))]).encode()


def checksums(header: list[str], rows: list[list[str]]) -> list[str]:
    """The checksum of each row of a table. header, rows: their fields without the checksum."""
    start = hashlib.sha256("\0".join(header).encode())
    sums = []
    for number, row in enumerate(rows, start=1):
        own = start.copy()
        own.update("\0".join(("", f"{number}/{len(rows)}", *row)).encode())
        sums.append(own.hexdigest()[:DIGITS])
    return sums


def read_table(path: Path, remedy: str, texts: Collection[str] = ()):
    """A CSV table as a pandas DataFrame, without the column `checksum`. remedy: what mends it, to end an error's text;
    texts: columns that are text whatever they look like.

    Raises FileNotFoundError, UserError where it is no table, and Damaged where a row is not what was written.
    """
    import pandas as pd

    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        if not (lines := _fields(text)):
            raise UserError(f"{path} is empty; {remedy}")
        header, *rows = lines
        _check_shape(path, header, rows, remedy)
        if _check_rows(path, header, rows, remedy):
            text = _text([line[:-1] for line in lines])  # what was checked is what is read
        table = pd.read_csv(io.StringIO(text), float_precision="round_trip")  # pandas 3.0 would be off by a last bit
        for column in (column for column in texts if column in header):
            table[column] = [row[header.index(column)] for row in rows]  # "5" is no number here, and "NA" not nothing
        return table
    except FileNotFoundError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pandas' parser errors and those of the encoding are ValueErrors
        raise UserError(f"{path} can't be read as a table ({str(error).strip()}); {remedy}") from error


def _check_shape(path: Path, header: list[str], rows: list[list[str]], remedy: str) -> None:
    if not rows:
        raise Damaged(f"{path} has no rows; {remedy}")
    if re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", header[-1]):
        raise Damaged(f"{path} has a row where its header should be: it is damaged; {remedy}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise Damaged(
                f"{path}: row {number} has {len(row)} fields and the header {len(header)}: it is damaged; {remedy}"
            )


def _check_rows(path: Path, header: list[str], rows: list[list[str]], remedy: str) -> bool:
    """Whether the table has checksums; raises Damaged where one is wrong."""
    sums = checksums(header[:-1], [row[:-1] for row in rows])
    wrong = [number for number, (row, own) in enumerate(zip(rows, sums, strict=True), start=1) if row[-1] != own]
    if header[-1] == COLUMN and not wrong:
        return True
    if header[-1] != COLUMN and len(wrong) == len(rows):
        return False
    if header[-1] != COLUMN:
        what = f"the name of its last column, {header[-1]!r}, is"
    elif len(wrong) == len(rows) > 1:
        what = "its rows, their number or the columns' names are"
    else:
        what = f"row {wrong[0]} is"
    raise Damaged(
        f"{path}: {what} not what was written (checksum); {remedy}, "
        f"or remove the column {COLUMN} if you changed it on purpose"
    )


def _fields(text: str) -> list[list[str]]:
    before = csv.field_size_limit(sys.maxsize)  # a failed cell's reason may be long; the default is 128 kB
    try:
        return [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    finally:
        csv.field_size_limit(before)  # which all readers of a process share


def _text(lines: list[list[str]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
