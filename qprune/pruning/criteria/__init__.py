"""What each feature map is worth. One file per criterion and one line here.

A criterion is chosen by its name, or by {name: ..., option: value}. Every one takes `flops_lambda` (default 0):
Molchanov et al. (ICLR 2017), Eq. 9. Nothing here imports torch before a criterion is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qprune.pruning.criteria.options import COMMON, CURVATURE, LAMBDA, CriterionEntry, as_text, conflict
from qprune.registry import Registry
from qprune.registry.errors import UserError
from qprune.registry.options import fill, split_name

__all__ = ["CRITERIA", "CriterionEntry", "check_criterion", "criterion_label", "get_criterion"]

_HERE = "qprune.pruning.criteria"
CRITERIA = Registry(
    "criterion",
    CriterionEntry("taylor", f"{_HERE}.taylor:Taylor"),
    CriterionEntry("taylor_signed", f"{_HERE}.taylor_signed:TaylorSigned"),
    CriterionEntry("taylor_element", f"{_HERE}.taylor_element:TaylorElement"),
    CriterionEntry("taylor_activation", f"{_HERE}.taylor_activation:TaylorActivation", options=LAMBDA),
    CriterionEntry("taylor_2019", f"{_HERE}.taylor_2019:Taylor2019"),
    CriterionEntry("activation", f"{_HERE}.activation:Activation"),
    CriterionEntry("activation_std", f"{_HERE}.activation_std:ActivationStd"),
    CriterionEntry("apoz", f"{_HERE}.apoz:Apoz"),
    CriterionEntry("gradient_variance", f"{_HERE}.gradient_variance:GradientVariance", several_minibatches=True),
    CriterionEntry(
        "low_variance_low_activation",
        f"{_HERE}.low_variance_low_activation:LowVarianceLowActivation",
        several_minibatches=True,
    ),
    CriterionEntry("obd_gate", f"{_HERE}.obd:ObdGate", options=CURVATURE),
    CriterionEntry("obd_element", f"{_HERE}.obd:ObdElement", options=CURVATURE),
    CriterionEntry("obd_lecun", f"{_HERE}.obd_lecun:ObdLecun", quantized=False),
    CriterionEntry("bn_gamma", f"{_HERE}.bn_gamma:BnGamma"),
    CriterionEntry("weight_norm", f"{_HERE}.weight_norm:WeightNorm"),
    CriterionEntry("random", f"{_HERE}.random:Random"),
)


def check_criterion(settings: Mapping[str, Any]) -> None:
    """Checks settings {"name": ..., option: value}. Raises UserError naming the nearest valid name or option."""
    _filled(settings)


def criterion_label(settings: Mapping[str, Any]) -> str:
    """A short name for tables and files: the criterion's, and the options that differ from their defaults.

    Letters, digits, '.' and '_' alone, as in "taylor_activation.lambda_0.1"; the same for two settings exactly if
    they mean the same. Raises UserError as check_criterion does.
    """
    name, options = _filled(settings)
    known = {**CRITERIA.get(name).options, **COMMON}
    changed = [key for key, value in options.items() if value != known[key].default]
    return ".".join([name, *(f"{key}_{as_text(options[key])}" for key in changed)])


def get_criterion(settings: str | Mapping[str, Any]):
    """A fresh criterion object, from a name or {"name": ..., option: value}.

    Raises UserError for bad settings, and for a lambda that is still to be chosen ("cv").
    """
    name, options = _filled({"name": settings} if isinstance(settings, str) else settings)
    if options.get("lambda") == "cv":
        raise UserError(f"criterion {name}: lambda must be chosen first; a number is needed where it is 'cv'")
    own = {f"{key}_" if key == "lambda" else key: value for key, value in options.items() if key not in COMMON}
    criterion = CRITERIA.load(name)(**own)
    criterion.flops_lambda = options["flops_lambda"]
    return criterion


def _filled(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and all options. Raises UserError."""
    name, given = split_name("criterion", settings, "taylor")
    options = fill(f"criterion {name}", given, {**CRITERIA.get(name).options, **COMMON})
    if text := conflict(options):
        raise UserError(f"criterion {name}: {text}")
    return name, options
