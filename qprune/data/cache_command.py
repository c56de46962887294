"""`qprune cache`: which decoded pictures this machine keeps, whether they are whole, and away with them."""

from __future__ import annotations

from qprune.data.decoded import Kept, clear, is_whole, kept
from qprune.data.places import cache_folder


def cache_command(check: bool, clear_all: bool) -> int:
    """List them, after deleting all (clear_all) or the damaged ones (check). Returns 1 where some were damaged."""
    damaged = False
    for entry in kept() if check or clear_all else ():
        if clear_all:
            _clear(entry, "cleared")
        elif entry.finished and not (entry.seal and is_whole(entry.folder, entry.seal)):
            damaged = True
            _clear(entry, "damaged, deleted (the next sweep decodes them anew)")
    if clear_all:
        (cache_folder() / "files.sqlite").unlink(missing_ok=True)
    left = kept()
    total = sum(entry.bytes for entry in left)
    print(f"{cache_folder()}: {len(left)} set{'s' * (len(left) != 1)} of decoded pictures, {total / 1e6:,.0f} MB")
    for entry in left:
        print(f"  {_said(entry)}")
    return int(damaged)


def _clear(entry: Kept, word: str) -> None:
    print(f"{word}: {_said(entry)}" if clear(entry) else f"in use, so left: {_said(entry)}")


def _said(entry: Kept) -> str:
    size = f"{entry.bytes / 1e6:,.0f} MB"
    if not entry.finished:
        return f"{entry.folder.name}: unfinished, {size}; the next sweep of these pictures goes on from there"
    if entry.seal is None:
        return f"{entry.folder.name}: damaged, {size}"
    shapes = {name: part["shape"] for name, part in entry.seal["parts"].items()}
    count, side = sum(shape[0] for name, shape in shapes.items() if name != "stored"), shapes["train"][-1]
    larger = f", and {shapes['stored'][-1]}x{shapes['stored'][-1]} for crops" if "stored" in shapes else ""
    what = f"{count:,} pictures of {side}x{side}{larger}, {size}, from {entry.seal['pictures_in']}"
    return f"{entry.folder.name}: {what}, {entry.seal['made'].partition('T')[0]}"
