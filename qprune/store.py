"""Results on disk: each stage's files appear whole or not at all."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from qprune.errors import UserError


class Store:
    """Stages under one folder: <folder>/<stage id>/{stage.json, tensors.safetensors}."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def done(self, stage: str) -> bool:
        """Whether the stage's files are there."""
        return (self.folder / stage / "stage.json").is_file()

    def meta(self, stage: str) -> dict:
        """What the stage reported. Raises UserError for a stage that is missing or damaged."""
        path = self.folder / stage / "stage.json"
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run the sweep again to compute it") from None
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete {path.parent} and run the sweep again") from None

    def has_tensors(self, stage: str) -> bool:
        """Whether the stage's tensors were kept."""
        return (self.folder / stage / "tensors.safetensors").is_file()

    def tensors(self, stage: str) -> dict:
        """The stage's tensors, checked against their checksum. Raises UserError when missing or damaged."""
        from safetensors.torch import load

        path = self.folder / stage / "tensors.safetensors"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path} is missing; delete {path.parent} and run the sweep again") from None
        if hashlib.sha256(content).hexdigest() != self.meta(stage)["tensors_sha256"]:
            raise UserError(f"{path} is damaged (wrong checksum); delete {path.parent} and run the sweep again")
        return load(content)

    def tensors_path(self, stage: str) -> Path:
        """Where the stage's tensors lie."""
        return self.folder / stage / "tensors.safetensors"

    def drop_tensors(self, stage: str) -> None:
        """Delete the stage's tensors; its report stays."""
        self.tensors_path(stage).unlink(missing_ok=True)

    def write(self, stage: str, meta: dict, tensors: dict | None) -> None:
        """Put a finished stage in place, all at once. tensors: name -> Tensor, or None."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{stage}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        if tensors is not None:
            from safetensors.torch import save

            content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
            meta = {**meta, "tensors_sha256": hashlib.sha256(content).hexdigest()}
            _write_synced(draft / "tensors.safetensors", content)
        _write_synced(draft / "stage.json", json.dumps(meta, indent=1).encode())
        if self.done(stage) and not self.has_tensors(stage):
            shutil.rmtree(self.folder / stage)  # its tensors had not been kept
        try:
            draft.rename(self.folder / stage)
        except OSError:
            if not self.done(stage):
                raise
            shutil.rmtree(draft)  # another process was first, with the same result


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    _write_synced(draft, content)
    draft.replace(path)


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
