"""What workers need and that takes long to import: once, by the process that they are forked from.

Nothing is computed here, no CUDA device is touched, and no code of the user's is imported.
"""

from contextlib import suppress

import qprune.pruning.path
import qprune.pruning.quantized
import qprune.pruning.scoring
import qprune.pruning.sizes
import qprune.pruning.uniform  # noqa: F401 -- stages import all of these as they are computed
from qprune.executors import attempt  # noqa: F401
from qprune.registry.errors import UserError
from qprune.stages import KINDS

for kind in KINDS.entries():
    with suppress(UserError):  # of a package that isn't there: the stage that needs it says so
        kind.load()
with suppress(ImportError):
    import filelock  # noqa: F401 -- of the store
    import torch._dynamo  # noqa: F401 -- the first optimizer imports it, a second in each worker
