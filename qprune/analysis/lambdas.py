"""What cross-validation says of lambda, the weight of activation beside Taylor."""

from dataclasses import dataclass

from qprune.analysis.statistics import Interval, interval


@dataclass(frozen=True)
class LambdaPoint:
    """The held-out loss at one lambda, over folds, at one pruning ratio (None: the mean over ratios, which chooses).

    gain: that loss minus the one at lambda 0, which is plain Taylor, paired by seed: below 0, activation helps.
    """

    weight: float
    ratio: float | None
    loss: Interval
    gain: Interval


def lambda_curve(rows) -> list[LambdaPoint]:
    """The curve of one model, data set and criterion, the mean over ratios first. rows: its part of lambda.csv."""
    points = []
    for ratio in (None, *sorted(rows.ratio.unique())):
        own = rows if ratio is None else rows[rows.ratio == ratio]
        table = own.pivot_table(index="seed", columns="lambda", values="loss")  # means over folds (and ratios)
        for weight in table:
            gain = interval(table[weight] - table[0.0])
            points.append(LambdaPoint(float(weight), ratio, interval(table[weight]), gain))
    return points


def chosen_lambdas(rows) -> dict[int, float]:
    """Seed -> the lambda that cross-validation chose."""
    return {int(seed): float(own.chosen.iloc[0]) for seed, own in rows.groupby("seed")}
