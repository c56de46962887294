"""How sure a gain over the baseline is: by hand, and where few images or equal seeds show no difference at all."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from qprune.analysis.gains import Gains, rows_of
from qprune.analysis.statistics import sampling_interval

IMAGES = 50


def gains(correct: dict[str, list], precision=("fp32", "int8"), seeds=1):
    """(Gains, rows of the cells of the last precision) of a grid of one ratio. correct: cell, such as int8-0 -> bool [images]."""
    rows = [{"cell": f"{one}-{seed}", "precision": one, "seed": seed} for one in precision for seed in range(seeds)]
    cells = pd.DataFrame(rows).assign(
        sweep="s", model="m", data="d", criterion="c", method="prune_first", status="done", pruning_ratio=0.0
    )
    values = {cell: np.asarray(right, dtype=bool) for cell, right in correct.items()}
    cells["val_accuracy"] = [values[cell].mean() for cell in cells.cell]
    cells["baseline_val_accuracy"] = [values[f"fp32-{seed}"].mean() for seed in cells.seed]
    cells["stage_evaluate"] = cells.cell
    found = Gains(cells, lambda sweep, cell, split: values[cell])
    return found, rows_of(cells[cells.precision == precision[-1]])


@pytest.mark.parametrize("right", [0, IMAGES])
def test_images_that_show_no_difference_leave_room_for_one(right):
    """0 of n: the bound of Clopper and Pearson, by scipy."""
    bound = binomtest(0, IMAGES).proportion_ci(0.95, "exact").high
    own = np.arange(IMAGES) < right
    difference = sampling_interval(own, own)
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0, -bound, bound))
    accuracy = sampling_interval(own)
    assert accuracy.high - accuracy.mean == pytest.approx(bound) and accuracy.mean == right / IMAGES


def test_the_baseline_itself_has_gained_nothing():
    found, cells = gains({"fp32-0": [1] * IMAGES}, ("fp32",))
    gain = found.of(cells, "validation")
    assert (gain.images.low, gain.images.high, gain.low) == (0, 0, 0)


def test_equal_answers_of_another_network_are_not_sure():
    found, cells = gains({"fp32-0": [1] * IMAGES, "int8-0": [1] * IMAGES})
    assert found.of(cells, "validation").low == pytest.approx(-(1 - 0.025 ** (1 / IMAGES)))


def test_three_seeds_that_differ_by_the_same_are_not_sure_either():
    base, own = [1] * IMAGES, [0] + [1] * (IMAGES - 1)
    found, cells = gains({f"fp32-{s}": base for s in range(3)} | {f"int8-{s}": own for s in range(3)}, seeds=3)
    gain = found.of(cells, "validation")
    assert gain.seeds.low == gain.seeds.high == pytest.approx(-0.02)
    assert gain.low == gain.images.low < -0.02
