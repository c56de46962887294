"""Tables -> the sentences that answer, each made of the numbers and their intervals over seeds."""

import math

import pandas as pd

from qprune.analysis.statistics import interval
from qprune.pruning.sets import WORDS
from qprune.stages.score import GRADIENT

WHEN = {"before": "before fine-tuning", "after": "after fine-tuning"}


def findings(tables: dict[str, pd.DataFrame]) -> list[str]:
    """All sentences, in the order of the page."""
    sentences = []
    for (model, data), effects in tables["effects"].groupby(["model", "data"], sort=False):
        start = f"{model} on {data}"
        validation = effects[effects.loss == "val_loss"]
        for share in validation.share.unique():
            for when in validation.when.unique():
                part = validation[(validation.share == share) & (validation.when == when)]
                sentences.append(f"{start}, {100 * share:g}% removed, {WHEN[when]}: {_which_case(part)}")
        seeds = tables["spearman_seeds"]
        seeds = seeds[(seeds.model == model) & (seeds.data == data)]
        curve = tables["lambda"]
        curve = curve[(curve.model == model) & (curve.data == data) & (curve.column == "all_layers_l2")]
        sentences += [f"{start}: {sentence}" for sentence in (_best_sum(curve), *_sums(seeds), *_variance(seeds))]
    return sentences


def verdict(low: float, high: float, above: str, below: str, neither: str = "no clear difference") -> str:
    """What an interval of a difference says: `above` 0, `below` 0, or neither (also where there is no interval)."""
    if math.isnan(low):
        return f"{neither} (one seed has no interval)"
    return above if low > 0 else below if high < 0 else neither


def _which_case(effects: pd.DataFrame) -> str:
    found = {(row.effect, row.quadrant): row for row in effects.itertuples()}
    gap = found["gap", ""]
    if gap.maps == 0:
        return "Taylor and activation remove the same maps."
    case_1, case_2 = found["taylor_only", "case_1"], found["activation_only", "case_2"]
    better = verdict(gap.low, gap.high, "Taylor is better", "activation is better")
    return (
        f"the two remove {gap.maps:.1f} different maps each; activation's validation loss is {_number(gap)} above "
        f"Taylor's: {better}. On top of what both remove, the maps of case 1 ({WORDS['case_1']}; only Taylor removes "
        f"{case_1.maps:.1f}) cost {_number(case_1)}, those of case 2 ({WORDS['case_2']}; only activation removes "
        f"{case_2.maps:.1f}) {_number(case_2)}. {_per_map(found)}{_swaps(found)}"
    )


def _per_map(found: dict) -> str:
    difference = found["difference_per_map", ""]
    if math.isnan(difference.mean):
        return "Not both cases occur."
    says = verdict(
        difference.low, difference.high, "case 2 makes the difference", "case 1 makes the difference",
        "no clear difference between the cases",
    )  # fmt: skip
    return f"Per map, case 2 - case 1 is {_number(difference)}: {says}."


def _swaps(found: dict) -> str:
    """What one case costs in the place of the other, in both directions."""
    into, back = found["swap_in_taylor", ""], found["swap_in_activation", ""]
    if math.isnan(into.mean) or math.isnan(back.mean):
        return ""
    return (
        f" One for one, case 2 in the place of case 1 in Taylor's removal ({into.maps:.1f} maps) costs {_number(into)}, "
        f"case 1 in the place of case 2 in activation's ({back.maps:.1f}) saves {_number(back)}."
    )


def _best_sum(curve: pd.DataFrame) -> str:
    """Which lambda's sum ranks best, held against Taylor alone."""
    rows = list(curve.rename(columns={"lambda": "weight"}).itertuples())
    best = max((row for row in rows if row.what == "spearman"), key=lambda row: row.mean)
    gain = next(row for row in rows if row.what == "gain" and row.weight == best.weight)
    text = (
        f"of Taylor + lambda x activation, lambda = {best.weight:g} has the highest Spearman correlation with oracle-abs "
        f"over all layers, l2-normalised: {_number(best)}"
    )
    if best.weight == 0:
        return f"{text}; that is Taylor alone."
    says = verdict(gain.low, gain.high, "it ranks better than Taylor", "it ranks worse than Taylor")
    return f"{text}, {_number(gain)} above Taylor's (chosen on the oracle itself): {says}."


def _sums(seeds: pd.DataFrame) -> list[str]:
    """Taylor + lambda x activation against Taylor, where it was scored."""
    names = [name for name in seeds.criterion.unique() if name.split(".")[0] == "taylor_activation"]
    return [_against(seeds, name, "taylor") for name in names]


def _against(seeds: pd.DataFrame, name: str, other: str) -> str:
    difference = _column(seeds, name) - _column(seeds, other)  # paired by seed
    found = interval(difference)
    says = verdict(found.low, found.high, f"{name} ranks better", f"{other} ranks better")
    return f"Spearman with oracle-abs over all layers, l2-normalised, {name} - {other}: {_number(found)}: {says}."


def _column(seeds: pd.DataFrame, criterion: str, target: str = "oracle_abs") -> pd.Series:
    chosen = (seeds.criterion == criterion) & (seeds.target == target) & (seeds.column == "all_layers_l2")
    return seeds[chosen].set_index("seed").value


def _variance(seeds: pd.DataFrame) -> list[str]:
    """The gradient's variance over minibatches against the oracle and Taylor, where it was scored."""
    names = [name for name in seeds.criterion.unique() if name.split(".")[0] == "gradient_variance"]
    sentences = []
    for name in names:
        oracle, taylor = interval(_column(seeds, name)), interval(_column(seeds, name, "taylor"))
        mean = interval(_column(seeds, GRADIENT))
        sentences.append(
            f"{name}'s Spearman correlation over all layers, l2-normalised, is {_number(oracle)} with oracle-abs and "
            f"{_number(taylor)} with Taylor; that of the mean |gradient| with oracle-abs is {_number(mean)}."
        )
        sentences.append(_against(seeds, name, "taylor"))
    return sentences


def _number(found) -> str:
    if math.isnan(found.mean):
        return "unknown"
    spread = "" if math.isnan(found.low) else f" [{found.low:.3g}, {found.high:.3g}]"
    return f"{found.mean:.3g}{spread}"
