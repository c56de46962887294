"""What a sweep's studies answer, in sentences with their intervals and the tables behind them.

Everything is chosen by validation accuracy; test accuracy stands beside it and chooses nothing. Differences are in
percentage points, paired by seed, with 95% intervals over seeds.
"""

import itertools
from dataclasses import dataclass

from qprune.analysis.front import GROUP, measured, operating_points
from qprune.analysis.lambdas import chosen_lambdas, lambda_curve
from qprune.analysis.sentences import (
    counted,
    difference_texts,
    in_brackets,
    minus,
    ratio_text,
    undecayed,
    verdict,
    with_interval,
)
from qprune.analysis.statistics import Interval, interval
from qprune.analysis.studies import (
    Bears,
    budget,
    by_seed,
    criterion_means,
    differences,
    drops,
    equal_cost,
    interactions,
    largest_ratio,
    of_group,
    of_the_grid,
    paired_differences,
    studied_groups,
)
from qprune.analysis.tables import with_method
from qprune.analysis.worth import baselines_beside, headline, octave_verdict, why_unknown, worth

BEARS = "How much pruning does each precision bear?"
EQUAL_COST = "At equal bit_gflops: prune or quantise?"
ADDITIVE = "Do pruning and quantising together lose more than the sum of both alone?"
WORTH = "Is pruning worth it here?"
FAIR = "What does the unpruned network have after the same updates?"
ORDERS = "Prune first or quantise first?"
CRITERIA = "Does another criterion keep more accuracy than Taylor?"
TAYLOR = "taylor"


Row = tuple[str, ...]
Said = tuple[str, Row, list[Row]]  # an answer's sentence, head and rows


@dataclass(frozen=True)
class Answer:
    """One question's answer for one group of cells: a sentence, and the rows (of texts, under `head`) that it rests on."""

    group: str
    question: str
    sentence: str
    head: Row
    rows: list[Row]


def answers(cells, percentage_points: float = 1.0, lambdas=None) -> list[Answer]:
    """The answers of each sweep, model, data set, criterion and method that has done cells. cells: as read_cells gives.

    percentage_points: how much validation accuracy a network may lose and still count as bearing its ratio; lambdas: as
    read_lambdas gives, of the one sweep that there is.
    """
    found = []
    for group, own, scratch in studied_groups(cells):
        name = (
            f"{group['sweep']}: {group['model']} on {group['data']}, {with_method(group['criterion'], group['method'])}"
        )
        found += [
            *(Answer(name, WORTH, *said) for said in _worth(of_group(cells, group), baselines_beside(cells, group))),
            Answer(name, BEARS, *_bears(own, percentage_points)),
            Answer(name, EQUAL_COST, *_equal_cost(own)),
            Answer(name, ADDITIVE, *_additive(own)),
            Answer(name, FAIR, *_fair(own, scratch)),
        ]
    done = of_the_grid(measured(cells))
    for (sweep, model, data, criterion), own in done.groupby([one for one in GROUP if one != "method"], sort=False):
        if {"prune_first", "quantize_first"} <= set(own.method):
            found.append(Answer(f"{sweep}: {model} on {data}, {criterion}", ORDERS, *_orders(own)))
    for (sweep, model, data, method), own in done.groupby([one for one in GROUP if one != "criterion"], sort=False):
        if own.criterion.nunique() > 1 and TAYLOR in set(own.criterion):
            found.append(Answer(f"{sweep}: {with_method(f'{model} on {data}', method)}", CRITERIA, *_criteria(own)))
    if lambdas is not None and len(done):
        for (model, data, criterion), own in lambdas.groupby(["model", "data", "criterion"], sort=False):
            name = f"{done.sweep.iloc[0]}: {model} on {data}, {criterion}"
            found.append(Answer(name, "Which lambda does cross-validation choose?", *_lambda(own)))
    return found


def _lambda(rows) -> Said:
    curve = [one for one in lambda_curve(rows) if one.ratio is None]
    texts: list[Row] = [
        (f"{one.weight:g}", f"{one.loss.mean:.4f}", f"{one.gain.mean:+.4f}", _span(one.gain), str(one.loss.n))
        for one in curve
    ]
    chosen = ", ".join(f"{weight:g} (seed {seed})" for seed, weight in chosen_lambdas(rows).items())
    best = min(curve, key=lambda one: one.loss.mean)
    sentence = (
        f"Cross-validation chose lambda = {chosen}. Over {rows.fold.nunique()} folds and {rows.ratio.nunique()} ratios the "
        f"held-out loss is least at lambda {best.weight:g}"
    )
    if best.weight:
        sentence += (
            f", {best.gain.mean:+.4f} ({_span(best.gain)}) against that of lambda 0, plain Taylor (optimistic: the least "
            f"of {len(curve)} was taken on these very folds)"
        )
    return sentence + ".", ("lambda", "held-out loss", "minus that of lambda 0", "95%", "seeds"), texts


def _span(one: Interval) -> str:
    return f"{one.low:+.4f} to {one.high:+.4f}" if one.n > 1 else "one seed"


def _worth(cells, beside) -> list[Said]:
    """One answer for each baseline; where there is none, how to have one."""
    head = (
        "precision",
        "at most (bit_gflops)",
        "pruned",
        "baseline",
        "pruned - baseline, test",
        "95%",
        "validation",
        "Holm's p",
        "better",
    )
    found: list[Said] = []
    for one in worth(cells, beside):
        rows: list[Row] = [
            (
                each.precision,
                f"{each.cost:.3g}",
                "none that cheap" if each.pruned is None else ratio_text(each.pruned),
                "none that cheap" if each.other is None else ratio_text(each.other),
                *difference_texts(each.test),
                difference_texts(each.validation)[0],
                "-" if each.p != each.p else f"{each.p:.2g}",
                octave_verdict(each),
            )
            for each in one.octaves
        ]
        found.append((headline(one), head, rows))
    return found or [(why_unknown(beside), head, [])]


def _bears(cells, percentage_points: float) -> Said:
    by_validation = drops(cells)
    on_test = {(one.precision, one.ratio): one.drop for one in drops(cells, "accuracy", "baseline_accuracy")}
    said: list[str] = []
    rows: list[Row] = []
    for precision in dict.fromkeys(one.precision for one in by_validation):
        own = [one for one in by_validation if one.precision == precision and one.drop.n]
        if not own:
            said.append(f"of {precision} nothing can be said, for its rows have no baseline")
            continue
        bears = largest_ratio(own, percentage_points)
        shown = next(one for one in own if one.drop is bears.drop)
        test = on_test[precision, shown.ratio]
        span = f"{ratio_text(bears.low)} to {ratio_text(bears.high)}" if bears.drop.n > 1 else "one seed"
        said.append(_bears_text(bears, shown.ratio, span, test))
        rows.append(
            (precision, ratio_text(bears.ratio), span, ratio_text(shown.ratio), *difference_texts(minus(bears.drop)), *difference_texts(minus(test)))
            + (str(bears.drop.n),)
        )  # fmt: skip
    unit = "point" if percentage_points == 1 else "points"
    sentence = (
        f"Largest pruning ratio whose mean validation accuracy stays within {percentage_points:g} percentage {unit} of the "
        f"unpruned FP32 baseline of equal updates: {'; '.join(said)}."
    )
    head = ("precision", "largest ratio", "95%", "change at", "validation", "95%", "test", "95%", "seeds")
    return sentence, head, rows


def _bears_text(bears: Bears, ratio: float, span: str, test: Interval) -> str:
    change = f"validation {with_interval(minus(bears.drop))}, test {with_interval(minus(test))}"
    if bears.ratio is None:
        return f"{bears.precision} none (its least loss is at {ratio_text(ratio)}: {change})"
    note = f"95%: {span}" if bears.drop.n > 1 else span
    return f"{bears.precision} {ratio_text(bears.ratio)} ({note}; there {change})"


def _equal_cost(cells) -> Said:
    points = operating_points(cells)
    test = by_seed(cells, "accuracy")
    places = list(zip(points.precision, points.pruning_ratio, strict=True))

    def name(row: int | None) -> str:
        if row is None:
            return "none that cheap"
        accuracies = f"{100 * points.val_accuracy[row]:.2f}% (test {100 * points.accuracy[row]:.2f}%)"
        return f"{places[row][0]} {ratio_text(places[row][1])}: {accuracies}"

    rows: list[Row] = []
    compared: list[tuple[str, Interval, Interval]] = []
    for one in equal_cost(cells, points):
        on_test = interval([])
        if one.pruned is not None and one.quantised is not None:
            on_test = interval(paired_differences(test[places[one.quantised]], test[places[one.pruned]]))
            compared.append((f"at {one.limit:.4g} bit_gflops", one.difference, on_test))
        better = verdict(one.difference, "quantise", "prune") if one.difference.n else "no overlap"
        texts = (name(one.pruned), name(one.quantised), name(one.both))
        rows.append((f"{one.limit:.4g}", *texts, *difference_texts(one.difference), *difference_texts(on_test), better))
    head: Row = ("at most (bit_gflops)", "pruned, FP32", "quantised, unpruned", "both")
    head += ("quantised - pruned, validation", "95%", "test", "95%", "better alone")
    if not compared:
        return "There is no cost at which the grid has both a pruned FP32 network and a quantised one.", head, rows
    sentence = counted(
        "costs at which there are both, the best of each at no more than that cost",
        compared, "quantising alone is the more accurate", "pruning alone is",
    )  # fmt: skip
    return sentence, head, rows


def _additive(cells) -> Said:
    head = ("precision", "pruned", "validation", "95%", "test", "95%", "together they lose", "seeds")
    effects = _beside(interactions(cells), interactions(cells, "accuracy"))
    if not effects:
        return "This needs FP32 and another precision, each unpruned and pruned, of the same seed.", head, []
    rows: list[Row] = [
        (precision, ratio_text(ratio), *difference_texts(one), *difference_texts(test), verdict(one, "less than the sum", "more than the sum"), str(one.n))
        for precision, ratio, one, test in effects
    ]  # fmt: skip
    compared = [(f"{precision} at {ratio_text(ratio)}", one, test) for precision, ratio, one, test in effects]
    what = "pruned and quantised points"
    return (
        counted(
            what,
            compared,
            "both together lose less than the sum of both alone",
            "both together lose more than the sum of both alone",
        ),
        head,
        rows,
    )


def _fair(cells, scratch) -> Said:
    """Counts go by validation where the table has it after N, else by test: nothing is chosen here."""
    head: Row = ("precision", "pruned")
    for reference in ("after N", "after N + M", "from scratch, N + M", "extra training"):
        head += (f"{reference}: validation", "test")
    both = list(zip(budget(cells, scratch), budget(cells, scratch, "accuracy"), strict=True))
    rows = []
    for pair in both:
        changes = [minus(getattr(one, part)) for part in ("apparent", "fair", "scratch") for one in pair]
        texts = [in_brackets(one) for one in (*changes, *(one.extra for one in pair))]
        rows.append((pair[0].precision, ratio_text(pair[0].ratio), *texts))
    known = [pair for pair in both if pair[1].apparent.n and pair[1].fair.n]
    if not known:
        return "This needs the unpruned FP32 network after N updates and after N + M.", head, rows
    first = cells.iloc[0]
    dense, total = int(first.updates_dense), int(first.total_updates)
    extra = next((pair for pair in known if pair[0].precision == "fp32" and pair[0].ratio == 0), known[0])
    named = zip(("validation", "test"), extra, strict=True)
    gains = [f"{with_interval(one.extra)} in {name} accuracy" for name, one in named if one.extra.n]
    place = 0 if all(pair[0].apparent.n for pair in known) else 1
    measure = ("validation", "test")[place]
    pruned = [pair[place] for pair in known if pair[0].ratio > 0]
    seeming = [one for one in pruned if one.apparent.mean <= 0]
    fair = [one for one in seeming if one.fair.mean <= 0]
    sentence = (
        f"M = {total - dense} more updates, which every pruned network has after the N = {dense} of dense training, change "
        f"the unpruned FP32 network itself by {' and '.join(gains)}.{undecayed(cells)}"
    )
    if not pruned:
        return sentence, head, rows
    sentence += (
        f" By mean {measure} accuracy, {len(seeming)} of "
        f"{len(pruned)} pruned points lose nothing against the network after N; {len(fair)} of these lose nothing against "
        "the one after N + M"
    )
    if all(one.scratch.n for one in pruned):
        sentence += f", and {sum(one.scratch.mean <= 0 for one in seeming)} against one trained from scratch for N + M"
    return sentence + ".", head, rows


def compare_answers(cells) -> list[Answer]:
    """How each sweep differs from the first one, where they have the same model, data set, criterion and method; and
    whether the criteria come in the same order everywhere."""
    found = []
    done = of_the_grid(measured(cells))
    first, *others = cells.sweep.unique()
    for sweep in others:
        for key, own in done[done.sweep == sweep].groupby([one for one in GROUP if one != "sweep"], sort=False):
            base = done[done.sweep == first]
            base = base[(base[[one for one in GROUP if one != "sweep"]] == list(key)).all(axis=1)]
            if len(base):
                model, data, criterion, method = key
                name = f"{sweep}: {model} on {data}, {with_method(criterion, method)}"
                found.append(Answer(name, f"{sweep} or {first}?", *_difference(own, base, sweep, first)))
    return [*found, *_same_order(done)]


def _same_order(cells) -> list[Answer]:
    """Whether the criteria come in the same order on all networks and data sets; nothing where there is but one."""
    from scipy.stats import kendalltau

    rows: list[Row] = []
    orders: list[list[str]] = []
    settled: set[tuple[str, str]] = set()
    for (sweep, model, data, method), own in cells.groupby([one for one in GROUP if one != "criterion"], sort=False):
        means = {name: seeds for name, seeds in criterion_means(own).items() if seeds}
        if len(means) < 2:
            continue
        overall = {name: interval(list(seeds.values())).mean for name, seeds in means.items()}
        ranked = sorted(overall, key=lambda name: -overall[name])
        orders.append(ranked)
        apart = []
        for better, worse in itertools.combinations(ranked, 2):
            gap = interval(paired_differences(means[better], means[worse]))
            if gap.low > 0:
                apart.append(f"{better} over {worse} by {with_interval(gap)}")
                settled.add((better, worse))
        texts = [f"{name} {100 * overall[name]:.2f}" for name in ranked]
        rows.append(
            (f"{sweep}: {with_method(f'{model} on {data}', method)}", ", ".join(texts), "; ".join(apart) or "none")
        )
    if len(rows) < 2:
        return []
    known = [name for name in orders[0] if all(name in own for own in orders)]
    if len(known) < 2:
        return []
    places = [[own.index(name) for name in known] for own in orders]
    taus = [kendalltau(one, other).statistic for one, other in itertools.combinations(places, 2)]
    against = [pair for pair in settled if pair[::-1] in settled]
    same = len({tuple(name for name in own if name in known) for own in orders}) == 1
    sentence = f"{'The same' if same else 'Not the same'} on all {len(rows)}, by mean validation accuracy over all pruned points."
    if len(known) < len(set().union(*orders)):
        sentence += f" Of those that all have: {', '.join(known)}."
    sentence += f" Kendall's tau between two of them is {sum(taus) / len(taus):.2f} on average ({min(taus):.2f} to {max(taus):.2f})."
    sentence += f" Differences that the seeds settle: {len(settled)} pairs of criteria"
    sentence += f", {len(against) // 2} of them both ways." if against else ", none of them both ways."
    head = ("where", "criteria, the best first, mean validation accuracy (%)", "settled by the seeds")
    return [Answer("all sweeps", "Is the order of the criteria the same everywhere?", sentence, head, rows)]


def _orders(cells) -> Said:
    these, those = (cells[cells.method == method] for method in ("quantize_first", "prune_first"))
    return _difference(these, those, "quantising first", "pruning first")


def _criteria(cells) -> Said:
    """Each criterion against Taylor. Unpruned networks are the same whatever the criterion."""
    pruned = cells[cells.pruning_ratio > 0]
    taylor = pruned[pruned.criterion == TAYLOR]
    said: list[str] = []
    rows: list[Row] = []
    head: Row = ()
    for criterion in (name for name in pruned.criterion.unique() if name != TAYLOR):
        sentence, head, own = _difference(pruned[pruned.criterion == criterion], taylor, criterion, TAYLOR)
        said.append(f"{criterion}: {sentence}")
        rows += [(criterion, *row) for row in own]
    head = ("criterion", *head[:2], f"criterion - {TAYLOR}, validation", *head[3:])
    return " ".join(said), head, rows


def _difference(these, those, name: str, other: str) -> Said:
    head = ("precision", "pruned", f"{name} - {other}, validation", "95%", "test", "95%", "better", "cost", "seeds")
    on_validation, on_test = differences(these, those), differences(these, those, "accuracy")
    effects = _beside(on_validation, on_test)
    if not effects:
        return f"No precision and ratio has been done by both, {name} and {other}, with the same seed.", head, []
    costs = [one.cost for one in on_validation]
    rows: list[Row] = [
        (
            precision,
            ratio_text(ratio),
            *difference_texts(one),
            *difference_texts(test),
            verdict(one, name, other),
            f"{cost:.2f}x",
            str(one.n),
        )
        for (precision, ratio, one, test), cost in zip(effects, costs, strict=True)
    ]
    compared = [(f"{precision} at {ratio_text(ratio)}", one, test) for precision, ratio, one, test in effects]
    what = f"points done by both, {name} and {other}"
    sentence = counted(what, compared, f"{name} is the more accurate", f"{other} is")
    if max(costs) - min(costs) > 0.005 or abs(costs[0] - 1) > 0.005:
        sentence += f" At equal shares of maps {name} costs {min(costs):.2f} to {max(costs):.2f} times the bit_gflops."
    return sentence, head, rows


def _beside(effects: list, on_test: list) -> list[tuple[str, float, Interval, Interval]]:
    """(precision, ratio, effect on validation accuracy, on test accuracy); both are of the same places."""
    return [(one.precision, one.ratio, one.effect, test.effect) for one, test in zip(effects, on_test, strict=True)]
