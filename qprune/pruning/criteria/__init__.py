"""What each feature map is worth. One file per criterion and one line here.

A criterion is chosen by its name, or by {name: ..., option: value}. Every one takes `flops_lambda` (default 0):
Molchanov et al. (ICLR 2017), Eq. 9. Nothing here imports torch before a criterion is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qprune.pruning.criteria.options import COMMON, CURVATURE, LAMBDA, Option, as_text, fill
from qprune.registry import Entry, Registry, nearest
from qprune.registry.errors import UserError
from qprune.registry.show import show

__all__ = ["check_criterion", "criterion_label", "criterion_names", "get_criterion"]

_CRITERIA = Registry("criterion")
_OPTIONS: dict[str, dict[str, Option]] = {}


def _add(name: str, attribute: str, module: str | None = None, options: Mapping[str, Option] | None = None) -> None:
    _CRITERIA.add(Entry(name, f"qprune.pruning.criteria.{module or name}:{attribute}"))
    _OPTIONS[name] = {**(options or {}), **COMMON}


_add("taylor", "Taylor")
_add("taylor_signed", "TaylorSigned")
_add("taylor_element", "TaylorElement")
_add("taylor_activation", "TaylorActivation", options={"lambda": LAMBDA})
_add("taylor_2019", "Taylor2019")
_add("activation", "Activation")
_add("activation_std", "ActivationStd")
_add("apoz", "Apoz")
_add("gradient_variance", "GradientVariance")
_add("low_variance_low_activation", "LowVarianceLowActivation")
_add("obd_gate", "ObdGate", "obd", CURVATURE)
_add("obd_element", "ObdElement", "obd", CURVATURE)
_add("obd_lecun", "ObdLecun")
_add("bn_gamma", "BnGamma")
_add("weight_norm", "WeightNorm")
_add("random", "Random")


def criterion_names() -> list[str]:
    """The criteria that a sweep file may name."""
    return _CRITERIA.names()


def check_criterion(settings: Mapping[str, Any]) -> None:
    """Checks settings {"name": ..., option: value}. Raises UserError naming the nearest valid name or option."""
    _filled(settings)


def criterion_label(settings: Mapping[str, Any]) -> str:
    """A short name for tables and files: the criterion's, and the options that differ from their defaults.

    Letters, digits, '.' and '_' alone, as in "taylor_activation.lambda_0.1"; the same for two settings exactly if
    they mean the same. Raises UserError as check_criterion does.
    """
    name, options = _filled(settings)
    changed = [key for key, value in options.items() if value != _OPTIONS[name][key].default]
    return ".".join([name, *(f"{key}_{as_text(options[key])}" for key in changed)])


def get_criterion(settings: str | Mapping[str, Any]):
    """A fresh criterion object, from a name or {"name": ..., option: value}.

    Raises UserError for bad settings, and for a lambda that is still to be chosen ("cv").
    """
    name, options = _filled({"name": settings} if isinstance(settings, str) else settings)
    if options.get("lambda") == "cv":
        raise UserError(f"criterion {name}: lambda must be chosen first; a number is needed where it is 'cv'")
    own = {f"{key}_" if key == "lambda" else key: value for key, value in options.items() if key not in COMMON}
    criterion = _CRITERIA.load(name)(**own)
    criterion.flops_lambda = options["flops_lambda"]
    return criterion


def _filled(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and all options. Raises UserError."""
    name = settings.get("name")
    if not isinstance(name, str):
        raise UserError(f"criterion: the settings {show(dict(settings))} need a name, as in {{name: taylor}}.")
    if name not in _OPTIONS:
        raise UserError(f"unknown criterion {show(name)}{nearest(name, criterion_names())}")
    return name, fill(name, {key: value for key, value in settings.items() if key != "name"}, _OPTIONS[name])
