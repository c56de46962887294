"""What was measured -> tables (pandas DataFrames), whose names are the files' names.

scores: raw scores of every map; spearman, spearman_seeds: rank correlations; quadrants: where the maps lie on which
Taylor and activation disagree; sets: what removals cost; effects: differences of these, paired by seed, with intervals;
lambda: rank correlations of Taylor + lambda x activation with oracle-abs.
"""

import math

import numpy as np
import pandas as pd

from qprune.analysis.statistics import interval
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.sets import QUADRANTS
from qprune.ranking.measured import Measured
from qprune.stages.fold import LAMBDAS

COLUMNS = (
    ("per_layer", "per layer"),  # mean over layers
    ("all_layers", "all layers"),
    ("all_layers_l2", "all layers, l2"),  # the criterion's scores normalised
    ("all_layers_l2_both", "all layers, l2 of both"),  # the oracle's too
)
TARGETS = {"oracle_abs": "oracle-abs", "oracle_loss": "oracle-loss", "taylor": "Taylor"}
LOSSES = ("val_loss", "train_loss")
STAGES = ("before", "after")  # the fine-tuning


def make_tables(networks: list[Measured]) -> dict[str, pd.DataFrame]:
    """All tables. networks: at least one; those of one model and data set differ by seed."""
    seeds = pd.DataFrame([row for network in networks for row in _correlations(network)])
    effects = pd.DataFrame([row for network in networks for row in _effects(network)])
    keys = ["model", "data"]
    return {
        "scores": pd.concat([_scores(network) for network in networks], ignore_index=True),
        "spearman": _intervals(seeds, [*keys, "target", "criterion", "column"]),
        "spearman_seeds": seeds,
        "quadrants": pd.DataFrame([row for network in networks for row in _quadrants(network)]),
        "sets": pd.DataFrame([row for network in networks for row in _sets(network)]),
        "effects": _intervals(effects, [*keys, "share", "loss", "when", "effect", "quadrant"]),
        "lambda": _intervals(
            pd.DataFrame([row for network in networks for row in _lambdas(network)]),
            [*keys, "lambda", "column", "what"],
        ),
    }


def spearman(values: np.ndarray, target: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank; nan where either is constant or has one value."""
    if len(values) < 2 or np.ptp(values) == 0 or np.ptp(target) == 0:
        return math.nan
    from scipy.stats import spearmanr

    return float(spearmanr(values, target).statistic)


def per_layer(values: np.ndarray, target: np.ndarray, groups: ChannelGroups) -> float:
    """The mean over layers of Spearman's rank correlation within a layer; layers that have none are left out."""
    parts = [spearman(values[layer.start : layer.stop], target[layer.start : layer.stop]) for layer in groups.layers]
    known = [part for part in parts if not math.isnan(part)]
    return sum(known) / len(known) if known else math.nan


def l2_normalised(values: np.ndarray, groups: ChannelGroups) -> np.ndarray:
    """Each layer's values divided by their l2 norm; a layer of zeros stays as it is."""
    result = values.astype(float)
    for layer in groups.layers:
        norm = np.linalg.norm(values[layer.start : layer.stop])
        result[layer.start : layer.stop] /= norm or 1.0
    return result


def correlations(scores: np.ndarray, ranking: np.ndarray, target: np.ndarray, groups: ChannelGroups) -> dict:
    """Each of COLUMNS -> Spearman's rank correlation. scores: raw; ranking: l2-normalised; all [maps].

    Within a layer the ranking has the order of the scores, but for a sum of terms, each of which is normalised by itself.
    """
    return {
        "per_layer": per_layer(ranking, target, groups),
        "all_layers": spearman(scores, target),
        "all_layers_l2": spearman(ranking, target),
        "all_layers_l2_both": spearman(ranking, l2_normalised(target, groups)),
    }


def _key(network: Measured) -> dict:
    return {"model": network.model, "data": network.data, "seed": network.seed}


def _scores(network: Measured) -> pd.DataFrame:
    maps = [number for layer in network.groups.layers for number in range(layer.stop - layer.start)]
    columns = {**_key(network), "layer": network.layer, "map": maps, **network.scores}
    quadrant = [QUADRANTS[place] for place in network.quadrant]
    return pd.DataFrame(
        {**columns, "oracle_loss": network.oracle, "oracle_abs": abs(network.oracle), "quadrant": quadrant}
    )


def _correlations(network: Measured):
    targets = {"oracle_abs": abs(network.oracle), "oracle_loss": network.oracle, "taylor": network.scores["taylor"]}
    for target, values in targets.items():
        for criterion, scores in network.scores.items():
            if criterion != target:
                found = correlations(scores, network.rankings[criterion], values, network.groups)
                for column, value in found.items():
                    yield {**_key(network), "target": target, "criterion": criterion, "column": column, "value": value}


def _lambdas(network: Measured):
    """For each lambda, Spearman's correlation of the sum of the normalised scores, and its gain over lambda 0, Taylor."""
    taylor: dict[str, float] = {}
    for weight in LAMBDAS:
        ranking = network.rankings["taylor"] + weight * network.rankings["activation"]
        found = correlations(ranking, ranking, abs(network.oracle), network.groups)
        taylor = taylor or found
        for column in ("per_layer", "all_layers_l2"):
            for what, value in (("spearman", found[column]), ("gain", found[column] - taylor[column])):
                yield {**_key(network), "lambda": weight, "column": column, "what": what, "value": value}


def _intervals(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """value over seeds -> mean, low, high (95%), seeds; maps, where there is that column, as their mean."""
    rows = []
    for key, group in frame.groupby(keys, sort=False, dropna=False):
        found = interval(group.value)
        row = dict(zip(keys, key, strict=True)) | {"mean": found.mean, "low": found.low, "high": found.high}
        rows.append(row | {"seeds": found.n} | ({"maps": group.maps.mean()} if "maps" in group else {}))
    return pd.DataFrame(rows)


def _quadrants(network: Measured):
    for share, sets in network.sets.items():
        taylor, activation = sets["taylor"], sets["activation"]
        only = {"taylor": taylor & ~activation, "activation": activation & ~taylor}
        for by, chosen in only.items():
            for place, quadrant in enumerate(QUADRANTS):
                there = chosen & (network.quadrant == place)
                change = network.oracle[there]
                mean = {"oracle_loss": change.mean(), "oracle_abs": abs(change).mean()} if there.any() else {}
                row = {**_key(network), "share": share, "only_removed_by": by, "quadrant": quadrant}
                yield row | {"maps": int(there.sum()), "oracle_loss": math.nan, "oracle_abs": math.nan} | mean


def _sets(network: Measured):
    """A row for each removal. Where a variation concerns no map, the removal is that of its start, and so are its losses."""
    reports = {(removal.share, removal.start, removal.put_in, removal.quadrant): r for removal, r in network.removals}
    for removal, report in network.removals:
        losses = report["losses"] or reports[removal.share, removal.start, None, None]["losses"]
        row = {**_key(network), "share": removal.share, "start": removal.start}
        row |= {"put_in": removal.put_in, "quadrant": removal.quadrant, "maps": report["maps"]}
        row |= {"removed": report["removed"]}
        for when, values in losses.items():
            row |= {f"{name}_{when}": value for name, value in values.items()}
        yield row


def _effects(network: Measured):
    """What maps cost, as differences of losses.

    gap: activation's removal - Taylor's, of as many maps. taylor_only, activation_only: what the maps of a quadrant
    that only this criterion removes cost on top of what both remove; .._per_map: divided by their number;
    difference_per_map: activation_only of case 2 - taylor_only of case 1, per map. swap_in_taylor: Taylor's removal
    with maps of case 2 for as many of case 1, - Taylor's; swap_in_activation: activation's removal - the same with
    maps of case 1 for as many of case 2. Both are above 0 where a map of case 2 costs more than one of case 1.
    """
    rows = {(row["share"], row["start"], row["put_in"], row["quadrant"]): row for row in _sets(network)}
    stages = [when for when in STAGES if f"val_loss_{when}" in rows[0.0, "none", None, None]]
    for share in network.sets:
        for loss in LOSSES:
            for when in stages:
                for effect in _effects_of(rows, share, f"{loss}_{when}"):
                    name, quadrant, value, maps = effect
                    key = {**_key(network), "share": share, "loss": loss, "when": when}
                    yield key | {"effect": name, "quadrant": quadrant, "value": value, "maps": maps}


def _effects_of(rows: dict, share: float, column: str):
    def row(start: str, put_in: str | None = None, quadrant: str | None = None) -> dict:
        return rows[share, start, put_in, quadrant]

    taylor, activation, both = (row(start)[column] for start in ("taylor", "activation", "both"))
    disagreed = row("taylor")["maps"] - row("both")["maps"]
    yield "gap", "", activation - taylor, disagreed
    per_map = {}
    for criterion in ("taylor", "activation"):
        for quadrant in QUADRANTS:
            added = row("both", criterion, quadrant)
            cost, maps = added[column] - both, added["maps"]
            per_map[criterion, quadrant] = cost / maps if maps else math.nan
            yield f"{criterion}_only", quadrant, cost, maps
            yield f"{criterion}_only_per_map", quadrant, per_map[criterion, quadrant], maps
    difference = per_map["activation", "case_2"] - per_map["taylor", "case_1"]
    yield "difference_per_map", "", difference, disagreed
    swap, back = row("taylor", "activation", "case_2"), row("activation", "taylor", "case_1")
    yield "swap_in_taylor", "", swap[column] - taylor if swap["maps"] else math.nan, swap["maps"]
    yield "swap_in_activation", "", activation - back[column] if back["maps"] else math.nan, back["maps"]
