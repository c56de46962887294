"""The pieces of work that a cell is made of. One kind is one file, and one line here.

A stage is computed once for all cells and sweeps that need it; its id is the hash of all that it is named by.
"""

from qprune.registry import Entry, Registry
from qprune.stages.base import Cut, NumberFormat, Phase, Stage

__all__ = ["KINDS", "Cut", "NumberFormat", "Phase", "Stage"]

KINDS = Registry(
    "stage",
    Entry("dense", "qprune.stages.dense:Dense"),
    Entry("prune", "qprune.stages.prune:Prune"),
    Entry("narrow", "qprune.stages.narrow:Narrow"),
    Entry("finetune", "qprune.stages.finetune:Finetune"),
    Entry("quantize", "qprune.stages.quantize:Quantize"),
    Entry("quantize_dense", "qprune.stages.quantize_dense:QuantizeDense"),
    Entry("evaluate", "qprune.stages.evaluate:Evaluate"),
    Entry("fold", "qprune.stages.fold:Fold"),
    Entry("lambda", "qprune.stages.choose_lambda:ChooseLambda"),
    Entry("score", "qprune.stages.score:Score"),
    Entry("oracle", "qprune.stages.oracle:Oracle"),
    Entry("removal", "qprune.stages.removal:Removal"),
)
