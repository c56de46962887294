"""Latency of a network that lies in memory, or of an ONNX file, without a sweep."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from qprune.data.arrays import as_split
from qprune.deploy import onnx_file
from qprune.deploy.formats import FORMATS
from qprune.deploy.kit_bench import arithmetic, figures, interleaved, open_session, profile_of
from qprune.deploy.latency import Subject, batch_of, subjects_of
from qprune.deploy.own import own_cell
from qprune.registry.errors import BadInput
from qprune.registry.packages import have

Timed = nn.Module | str | Path


def measure(
    network: Timed,
    images: Tensor,
    *,
    against: Timed | None = None,
    batches: Sequence[int] = (1,),
    threads: int = 1,
    rounds: int = 15,
):
    """Times of a network on this machine: a DataFrame, one row per runtime and batch size.

    network: what qprune.prune and qprune.quantize give, a model that torch.fx can trace, or the path of an ONNX file that takes
    float images in 0..1; against: another one, timed in the same rounds, for the column `speedup` (its time over the
    network's, the median over rounds; quartiles beside). images: uint8 [n, c, h, w] or float in 0..1, repeated where a batch is
    larger. `latency_ms` is the median of one batch over rounds, `_q1` and `_q3` its quartiles. A module is timed in ONNX Runtime
    where that is installed, and in PyTorch where it really multiplies at its precision there.
    Raises BadInput for arguments that can't be what was meant, UserError where a network can't be written as ONNX.
    """
    import pandas as pd

    if not batches or min(batches) < 1 or threads < 1 or rounds < 1:
        raise BadInput(f"batches {tuple(batches)}, threads {threads}, rounds {rounds}: give whole numbers from 1 on")
    given = {"network": network} | ({} if against is None else {"against": against})
    pixels = as_split(images, torch.zeros(len(images), dtype=torch.int64)).images
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows: list[dict] = []
    try:
        with tempfile.TemporaryDirectory(prefix="qprune-bench-") as folder, torch.no_grad():
            subjects = {}
            for name, one in given.items():
                for subject in _subjects(name, one, pixels, Path(folder), threads):
                    subjects[name, subject.runtime] = subject
            for batch in batches:
                some = batch_of(pixels, batch)
                actions = {subject.name: partial(subject.run, some) for subject in subjects.values()}
                seconds = interleaved(actions, rounds)
                rows += [_row(subject, subjects, seconds, batch, threads) for subject in subjects.values()]
    finally:
        torch.set_num_threads(before)
    return pd.DataFrame([row for row in rows if row.pop("of") == "network"])


def _subjects(name: str, given: Timed, pixels: Tensor, folder: Path, threads: int) -> list[Subject]:
    if isinstance(given, nn.Module):
        runtimes = ("torch", *(("onnxruntime",) if have(*FORMATS.get("onnx").packages) else ()))
        found = subjects_of(own_cell(given, pixels, name=name), name, folder, threads, runtimes)
        if not found:
            raise BadInput(
                f"{name}: PyTorch emulates its precision in FP32; install ONNX Runtime: pip install 'qprune[onnx]'"
            )
        return found
    path = Path(given)
    if not path.is_file():
        raise BadInput(f"{name}: there is no file {path}")
    FORMATS.get("onnx").require()
    try:
        profile = profile_of(path, batch_of(pixels, 1).numpy(), threads)
    except Exception as error:  # ONNX Runtime's own, of whatever it doesn't bear
        raise BadInput(
            f"{name}: {path} can't be run on images as given, float in 0..1: {str(error).strip()}"
        ) from error
    run = onnx_file.run_of(open_session(path, threads))
    return [Subject(name, "", "onnxruntime", arithmetic("float", profile), name, run)]


def _row(subject: Subject, subjects: dict, seconds: dict[str, list[float]], batch: int, threads: int) -> dict:
    other = subjects.get(("against", subject.runtime))
    return {
        "of": subject.cell,
        "runtime": subject.runtime,
        "arithmetic": subject.arithmetic,
        "batch": batch,
        "threads": threads,
        **figures(seconds[subject.name], batch, None if other is None else seconds[other.name]),
    }
