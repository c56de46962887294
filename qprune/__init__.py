"""How much can a CNN be pruned when it also runs in low precision?"""

import logging
from importlib import import_module

__version__ = "0.1.0"

# Brevitas looks for a CUDA compiler as it is imported; nothing here needs one, so its absence is no news
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

_PLACES = {
    "count_cost": "qprune.cost",
    "export": "qprune.deploy.own",
    "get_precision": "qprune.precision",
    "load": "qprune.report.notebook",
    "load_network": "qprune.deploy.cells",
    "measure": "qprune.deploy.own_latency",
    "prune": "qprune.library",
    "quantize": "qprune.library",
    "register_operation": "qprune.networks.operations",
    "score": "qprune.library",
}
__all__ = list(_PLACES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module 'qprune' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
