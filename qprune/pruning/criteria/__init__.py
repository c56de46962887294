"""What each feature map is worth. One file per criterion and one line here."""

from qprune.registry import Registry

_CRITERIA = Registry("criterion")
_CRITERIA.add("taylor", "qprune.pruning.criteria.taylor:Taylor")
_CRITERIA.add("taylor_signed", "qprune.pruning.criteria.taylor_signed:TaylorSigned")
_CRITERIA.add("taylor_element", "qprune.pruning.criteria.taylor_element:TaylorElement")
_CRITERIA.add("activation", "qprune.pruning.criteria.activation:Activation")
_CRITERIA.add("weight_norm", "qprune.pruning.criteria.weight_norm:WeightNorm")
_CRITERIA.add("random", "qprune.pruning.criteria.random:Random")


def criterion_names() -> list[str]:
    """The criteria that a sweep file may name."""
    return _CRITERIA.names()


def get_criterion(name: str):
    """A fresh criterion object. Raises UserError for an unknown name."""
    return _CRITERIA.get(name)()
