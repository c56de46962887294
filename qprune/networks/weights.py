"""Weights from files: state dicts of torch.save (read without unpickling code) and safetensors."""

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qprune.networks.graph import Normalize
from qprune.networks.plain_weights import plain_tensors
from qprune.registry.errors import UserError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The state dict in a file: names of tensors -> tensors, on the CPU.

    A dict under the key "state_dict" or "model" is taken out of a training checkpoint, and the prefix "module."
    of DataParallel is removed. Raises UserError where the file is missing or damaged, or holds anything but tensors.
    """
    path = as_path(file)
    if not path.is_file():
        raise UserError(f"weights: there is no file {file} (looked for at {path.resolve()}).")
    remedy = "A state dict is wanted: torch.save(model.state_dict(), file), or safetensors."
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers let through whatever a damaged file makes them stumble on
        raise UserError(
            f"weights: {path} is damaged, or holds pickled objects, which aren't loaded because they can run code "
            f"({first_line(error)}). {remedy}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"weights: {path} holds {type(content).__name__}, not names and tensors. {remedy}")
    if all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return content


def first_line(error: Exception) -> str:
    """The first line of an error's text, at most 200 characters; the type of one without a text."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()  # PyTorch prints some words bold
    return text.splitlines()[0][:200] if text else type(error).__name__


def as_path(file: str | Path) -> Path:
    """The path of a file, "~" expanded, whether it exists or not; UserError where it can't be one."""
    try:
        path = Path(file).expanduser()
        path.is_file()
        path.resolve()
        return path
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, links in a circle, a name that is too long
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"weights: {str(file)[:200]!r} can't be the path of a file: {reason}.") from error


def fill(model: nn.Module, tensors: dict[str, Tensor], file: str | Path, optional: tuple[str, ...] = ()) -> None:
    """Loads the tensors into the model; UserError naming the first that don't fit.

    optional: prefixes of tensors that the file may lack, or have beyond the model's.
    """
    wanted = model.state_dict()
    lacking = [name for name in wanted if name not in tensors and not name.startswith(optional)]
    surplus = [name for name in tensors if name not in wanted and not name.startswith(optional)]
    # NOTE BN's counter of batches isn't in files written before PyTorch 0.4.1, and nothing here reads it
    lacking = [name for name in lacking if not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name} is {list(tensors[name].shape)} there and {list(wanted[name].shape)} in the model"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    faults = shapes or [f"it lacks {name}" for name in lacking] or [f"it has {name}, unknown here" for name in surplus]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"weights: {file} doesn't fit the model: {faults[0]}{more}.")
    wanted.update({name: tensors[name] for name in wanted if name in tensors})  # keeps the metadata of versions
    model.load_state_dict(wanted)


def head_name(model: nn.Module) -> str:
    """The last linear layer, else the last convolution. UserError where there is neither."""
    for kind in (nn.Linear, nn.Conv2d):
        names = [name for name, module in model.named_modules() if isinstance(module, kind)]
        if names:
            return names[-1]
    raise UserError(f"{type(model).__name__} has neither a linear layer nor a convolution for a head.")


def normalization_name(network: nn.Module) -> str:
    """What the input normalisation is called that qprune has put in front of the network, or would be."""
    return next((name for name, module in network.named_modules() if isinstance(module, Normalize)), "normalize")


def load_pretrained(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Loads all tensors but the head's and the input normalisation's, in place; UserError naming what doesn't fit."""
    others = (f"{head_name(network)}.", f"{normalization_name(network)}.")
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith(others)}
    try:
        fill(network, body, source, optional=others)
    except UserError as error:
        raise UserError(f"{error} Pretrain on images of the same size and number of channels.") from None


def load_checkpoint(network: nn.Module, file: str | Path) -> None:
    """Loads the tensors of a file into a whole network (its head included), in place.

    The file needn't have the input normalisation's (`normalize.` as a rule), which are then those of the data.
    A weight_norm's length and direction in the file become the weight that they give.
    Raises UserError as `read_weights` and `fill` do.
    """
    fill(network, plain_tensors(read_weights(file)), file, optional=(f"{normalization_name(network)}.",))


def file_hash(file: str | Path) -> str:
    """SHA-256 of a file's content; UserError where there is none."""
    path = as_path(file)
    try:
        status = path.stat()
        return _hash_content(str(path.resolve()), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"weights: {file} can't be read: {error.strerror} (looked for at {path.resolve()}).") from error


@functools.lru_cache(maxsize=256)
def _hash_content(path: str, size: int, modified_ns: int) -> str:
    """SHA-256 of one file; size and time are only there so that a changed file is read again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
