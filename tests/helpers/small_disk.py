"""A disk that a test may fill up."""

import subprocess
from pathlib import Path

import pytest


class Disk:
    """A tmpfs of a size that can be changed."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()

    def __enter__(self) -> "Disk":
        return self

    def __exit__(self, *_) -> None:
        subprocess.run(["umount", "--lazy", self.folder], capture_output=True, check=False)

    def mount(self, options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"a tmpfs can't be mounted here: {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)
