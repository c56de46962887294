"""Optional packages: which are there, and the extra that brings them."""

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from qprune.registry.errors import UserError


def have(*packages: str) -> bool:
    """Whether all of them can be imported."""
    return all(find_spec(package) for package in packages)


def versions_of(packages: Iterable[str]) -> str:
    """ "torch=2.14.1 onnx=1.23.2": of those that are installed under this name (not onnxruntime-gpu)."""
    found = []
    for package in packages:
        with suppress(PackageNotFoundError):
            found.append(f"{package}={version(package)}")
    return " ".join(found)


def require(*packages: str, extra: str) -> None:
    """Raises UserError, naming the extra, where a package can't be imported."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(f"this needs {', '.join(missing)}; install it with: pip install 'qprune[{extra}]'")
