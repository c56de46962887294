"""Which folders are splits, by the names that data sets commonly use: train/ test/ val/, Training/ Testing/ valid/,
seg_train/ seg_test/, training_set/ test_set/ ... in any case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qprune.registry.errors import UserError
from qprune.registry.show import printable

SPLITS = ("train", "val", "test")
UNCLEAR = "unclear"
WORDS = {
    "training": "train", "train": "train", "trn": "train",
    "validation": "val", "validate": "val", "valid": "val", "val": "val", "dev": "val",
    "testing": "test", "test": "test", "tst": "test",
    "evaluation": UNCLEAR, "eval": UNCLEAR, "holdout": UNCLEAR,
}  # fmt: skip
_NAME = re.compile(rf"(.*[-_ .])?({'|'.join(WORDS)})((?:set|data|images?)?|[-_ .\d].*)")


def split_of(name: str) -> tuple[str, str] | None:
    """(split, the rest of the name) of a folder that is called like one: "Train" -> ("train", ""), "seg_test" -> ("test",
    "seg"). None where it isn't; eval and holdout, which can be val or test, are UNCLEAR."""
    found = _NAME.fullmatch(name.casefold())
    if found is None:
        return None
    before, word, after = found.groups()
    return WORDS[word], re.sub("[-_ .]", "", f"{before or ''}{after}")


@dataclass(frozen=True)
class SplitFolders:
    """The folders of the splits that are there, train and test among them; others: the folders beside them."""

    folders: dict[str, Path]
    others: tuple[Path, ...]


def find_splits(root: Path, folders: Sequence[Path]) -> SplitFolders | None:
    """Which of the folders in root are splits; None where all are class folders.

    They are splits where one is called train or test, in whatever word and case, or where two names differ in such a
    word alone (seg_train and seg_test; not train_station and test_tube). Raises UserError where train or test is missing,
    two folders could be the same split, or a name could be val as well as test.
    """
    called: dict[str, dict[str, list[Path]]] = {}  # the rest of the name -> split -> folders
    for folder in folders:
        if (found := split_of(folder.name)) is not None:
            called.setdefault(found[1], {}).setdefault(found[0], []).append(folder)
    plain = called.get("", {})
    families = (
        [""] if "train" in plain or "test" in plain else [rest for rest, has in called.items() if _is_family(has)]
    )
    if not families:
        return None
    if len(families) > 1:
        raise UserError(
            f"data imagefolder: {root} holds {names_of(folders)}, and several of them could be the training pictures. "
            "Set root to a folder with one train/ and one test/."
        )
    chosen = called[families[0]]
    for split in SPLITS:
        alike = chosen.get(split, [])
        if not alike:  # it may be there under a name that is less clear
            alike = [f for has in called.values() for f in (has.get(split, []) if split == "val" else [])]
            alike += chosen.get(UNCLEAR, []) if split != "train" else []
            if alike:
                raise UserError(
                    f"data imagefolder: in {root}, {names_of(alike)} could be the pictures of {split}. "
                    "Rename it to val/ or test/, or move it elsewhere."
                )
        if len(alike) > 1:
            raise UserError(
                f"data imagefolder: in {root}, {names_of(alike)} could all be the pictures of {split}. Keep one of them."
            )
        if not alike and split != "val":
            raise UserError(
                f"data imagefolder: {root} holds {names_of(folders)} but no {split}/. Needed are train/ and test/ (a missing "
                "val/ is drawn from train/), or only class folders (none of them called like a split)."
            )
    own = {split: chosen[split][0] for split in SPLITS if split in chosen}
    others = tuple(folder for folder in folders if folder not in own.values())
    return SplitFolders(own, others)


def _is_family(has: dict[str, list[Path]]) -> bool:
    return "train" in has and ("test" in has or "val" in has)


def check_no_splits(folder: Path, inner: Sequence[Path]) -> None:
    """UserError where a class folder holds folders of several splits, which would all become one."""
    named = {found[0]: path for path in inner if (found := split_of(path.name)) is not None and not found[1]}
    if len(named) > 1:
        raise UserError(
            f"data imagefolder: {folder} holds {names_of(list(named.values()))}, so it is no class folder. Set root to it, "
            "or put the classes into the splits: train/<class>/, test/<class>/."
        )


def names_of(folders: Sequence[Path], most: int = 8) -> str:
    """ "a/, b/ and c/", at most so many."""
    names = [f"{printable(folder.name)}/" for folder in folders[:most]]
    if len(folders) > most:
        names.append(f"{len(folders) - most:,} more")
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
