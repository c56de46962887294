"""Finished work on disk: each stage's files appear whole or not at all, are checked when read, and have one writer."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qprune.registry.errors import UserError
from qprune.storage.durable import remove, remove_drafts, set_aside, sync_folder, write_synced, write_whole, writing
from qprune.storage.seal import Damaged, read_sealed_json, sealed_json


class Store:
    """Stages under one folder: <folder>/<stage id>/{stage.json, tensors.safetensors}.

    Beside them, by stage id: .locks/ held while a stage is computed, .partial/ the unfinished work of a stage,
    .failed/ why it failed, damaged/ what was not what had been written.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    # Reading

    def done(self, stage: str) -> bool:
        """Whether the stage's report is there."""
        return (self.folder / stage / "stage.json").is_file()

    def meta(self, stage: str) -> dict:
        """What the stage reported. Raises UserError for a stage that is missing, Damaged for one that is damaged."""
        path = self.folder / stage / "stage.json"
        try:
            return read_sealed_json(path)
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run the sweep again to compute it") from None
        except Damaged as error:
            raise Damaged(f"{error}; run the sweep again: it is moved aside and computed anew") from None

    def is_of(self, stage: str, source: str) -> bool:
        """Whether a finished stage was computed from the tensors that its input has now. On a GPU, an input that was
        deleted and computed again is another one."""
        return self.meta(stage)["inputs"][source] == self.meta(source)["tensors_sha256"]

    def has_tensors(self, stage: str) -> bool:
        """Whether the stage's tensors were kept."""
        return self.tensors_path(stage).is_file()

    def with_tensors(self, prefix: str) -> list[str]:
        """The finished stages whose ids begin so and whose tensors were kept, sorted."""
        return sorted(path.name for path in self.folder.glob(f"{prefix}*") if self.has_tensors(path.name))

    def tensors(self, stage: str) -> dict:
        """The stage's tensors. Raises UserError where they are missing, Damaged where they are not what was written."""
        from safetensors.torch import load

        return load(self._checked_tensors(stage))

    def tensors_path(self, stage: str) -> Path:
        """Where the stage's tensors lie."""
        return self.folder / stage / "tensors.safetensors"

    def verify(self, stage: str) -> None:
        """Read all that is there of a finished stage; raises Damaged where it is not what was written."""
        self.meta(stage)
        if self.has_tensors(stage):
            self._checked_tensors(stage)

    def _checked_tensors(self, stage: str) -> bytes:
        path = self.tensors_path(stage)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run the sweep again to compute it") from None
        if hashlib.sha256(content).hexdigest() != self.meta(stage).get("tensors_sha256"):
            remedy = "run the sweep again: it is moved aside and computed anew"
            raise Damaged(f"{path} is damaged (wrong checksum); {remedy}")
        return content

    def mend(self, stages: Iterable[str]) -> list[str]:
        """Move aside which of these stages are damaged, so that they are computed anew; returns what to tell of it."""
        told = []
        for stage in stages:
            if self._damage(stage):
                with self.lock(stage) as mine:  # another process may have been putting it in place just now
                    if mine and (damage := self._damage(stage)):
                        place = set_aside(self.folder / stage, self.folder / "damaged")
                        told.append(f"{damage.partition(';')[0]}; moved to {place}, computed again")
        return told

    def _damage(self, stage: str) -> str | None:
        """What is wrong with a stage that is there: damaged, or a folder without a report."""
        try:
            if (self.folder / stage).exists():
                self.verify(stage)
        except UserError as error:
            return str(error)
        return None

    def tidy(self) -> None:
        """Delete what killed processes have left: drafts, and the locks and unfinished work of stages that are done."""
        for folder in (self.folder / ".partial", self.folder / ".failed"):
            remove_drafts(folder)
        for path in [*(self.folder / ".partial").glob("[!.]*"), *(self.folder / ".locks").glob("*")]:
            if self.done(path.name):
                with self.lock(path.name) as mine:  # whose release deletes it
                    if mine and self.has_tensors(path.name):
                        remove(self._partial(path.name))

    # Writing

    @contextmanager
    def lock(self, stage: str) -> Iterator[bool]:
        """Holds the right to write a stage; False where another process has it. The lock of a dead process is free."""
        from filelock import FileLock, Timeout

        path = self.folder / ".locks" / stage
        lock = FileLock(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):  # NOTE an OSError, which writing() would take for a full disk
                lock.acquire(timeout=0)
        if not lock.is_locked:
            yield False
            return
        try:
            yield True
        finally:
            try:
                if self.done(stage):
                    remove(path)  # NOTE whoever waits for this file's lock will see that the stage is done
            finally:
                lock.release()

    def write(self, stage: str, meta: dict, tensors: dict | None) -> None:
        """Put a finished stage in place, all at once; the caller holds its lock. tensors: name -> Tensor, or None.

        Raises StorageError.
        """
        draft = self.folder / f".{stage}.draft"
        with writing(self.folder / stage):
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(draft, ignore_errors=True)
            try:
                draft.mkdir()
                if tensors is not None:
                    content = _as_bytes(tensors)
                    meta = {**meta, "tensors_sha256": hashlib.sha256(content).hexdigest()}
                    write_synced(draft / "tensors.safetensors", content)
                write_synced(draft / "stage.json", sealed_json(meta))
                sync_folder(draft)
                if (self.folder / stage).exists():
                    shutil.rmtree(self.folder / stage)  # its tensors had not been kept
                draft.rename(self.folder / stage)
            except OSError:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            sync_folder(self.folder)
        self.forgive(stage)
        remove(self._partial(stage))

    def drop_tensors(self, stage: str) -> None:
        """Delete the stage's tensors; its report stays."""
        remove(self.tensors_path(stage))

    # Failures

    def fail(self, stage: str, reason: str, log: str = "") -> None:
        """Note that a stage could not be computed, why, and the end of what it had printed."""
        write_whole(self._failure(stage), sealed_json({"reason": reason, "log": log}))

    def failure(self, stage: str) -> dict | None:
        """{"reason", "log"} of a stage that failed; None where it did not, or where the note is damaged."""
        try:
            return read_sealed_json(self._failure(stage))
        except (FileNotFoundError, Damaged):
            return None

    def forgive(self, stage: str) -> None:
        """Forget that a stage failed, so that it is tried again."""
        remove(self._failure(stage))

    def _failure(self, stage: str) -> Path:
        return self.folder / ".failed" / f"{stage}.json"

    # Unfinished work

    def save_partial(self, stage: str, meta: dict, tensors: dict) -> None:
        """Keep the unfinished work of a stage; the caller holds its lock. Raises StorageError."""
        import torch

        note = torch.tensor(list(json.dumps(meta).encode()), dtype=torch.uint8)
        content = _as_bytes({**tensors, "meta": note})
        write_whole(self._partial(stage), hashlib.sha256(content).hexdigest().encode() + content)

    def load_partial(self, stage: str) -> tuple[dict, dict] | None:
        """(meta, tensors) of unfinished work, or None. Raises Damaged, once: what is damaged is moved aside."""
        from safetensors.torch import load

        path = self._partial(stage)
        try:
            checksum, content = (whole := path.read_bytes())[:64], whole[64:]
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest().encode() != checksum:
            place = set_aside(path, self.folder / "damaged")
            raise Damaged(f"{path} is damaged (wrong checksum); moved to {place}, the stage starts over")
        tensors = load(content)
        return json.loads(bytes(tensors.pop("meta").tolist())), tensors

    def _partial(self, stage: str) -> Path:
        return self.folder / ".partial" / stage


def _as_bytes(tensors: dict) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
