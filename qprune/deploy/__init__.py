"""Networks that leave: files that other runtimes execute, each checked against the evaluated network; and latency."""

from importlib import import_module

_PLACES = {"load_torch": "qprune.deploy.torch_file", "read_latency": "qprune.deploy.latency"}
__all__ = list(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module 'qprune.deploy' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
