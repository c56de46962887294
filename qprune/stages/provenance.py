"""Where a result was made: versions, commit, machine."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def provenance(device: torch.device) -> dict:
    """Versions and machine, as every record carries them."""
    import torch

    packages = ("qprune", "torch", "torchvision", "brevitas", "numpy")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    versions = {package: version(package) for package in packages} | {"python": platform.python_version()}
    versions["qprune"] += f"+{_commit()}" if _commit() else ""
    return {
        "versions": versions,
        "device": f"{device.type} ({name})",
        "host": platform.node(),
        "threads": torch.get_num_threads(),
    }


@cache
def _commit() -> str | None:
    """The commit of the checkout that this code runs from, with "-dirty" where it is changed; None where it is none."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=9", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def processor_name() -> str:
    """The CPU's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
