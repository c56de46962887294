"""Intervals of differences and losses as texts, in percentage points."""

from qprune.analysis.statistics import Interval


def counted(what: str, compared: list[tuple[str, Interval, Interval]], more: str, less: str) -> str:
    """How many differences lie wholly above 0, wholly below it and neither, with the largest of each sort.

    compared: (place, difference in validation accuracy, in test accuracy).
    """

    def extreme(some: list[tuple[str, Interval, Interval]]) -> str:
        place, one, test = max(some, key=lambda each: abs(each[1].mean))
        return f"largest: {place}, validation {with_interval(one)}, test {with_interval(test)}"

    above = [one for one in compared if one[1].low > 0]  # nan, of one seed, is neither
    below = [one for one in compared if one[1].high < 0]
    rest = [one for one in compared if one not in above and one not in below]
    parts = [f"at {len(some)} {text} ({extreme(some)})" for some, text in ((above, more), (below, less)) if some]
    if rest:
        single = all(one[1].n == 1 for one in rest)
        unknown = "one seed shows no interval, so nothing can be said" if single else "no difference is shown"
        parts.append(f"at {len(rest)} {unknown} ({extreme(rest)})")
    note = "" if len(compared) == 1 else " The intervals are not corrected for the number of comparisons."
    return f"Of {len(compared)} {what}: {'; '.join(parts)}.{note}"


def verdict(one: Interval, above: str, below: str) -> str:
    if one.n == 1:
        return "one seed: can't say"
    return above if one.low > 0 else below if one.high < 0 else "no difference shown"


def minus(one: Interval) -> Interval:
    """A drop as a change."""
    return Interval(-one.mean, -one.high, -one.low, one.n)


def ratio_text(ratio: float | None) -> str:
    return "none" if ratio is None else f"{100 * ratio:.4g}%"


def _change(value: float) -> str:
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text


def difference_texts(one: Interval) -> tuple[str, str]:
    """Mean and 95% interval of a difference, in percentage points."""
    if one.n == 0:
        return "-", "-"
    return _change(one.mean), f"{_change(one.low)} to {_change(one.high)}" if one.n > 1 else "one seed"


def in_brackets(one: Interval) -> str:
    mean, span = difference_texts(one)
    return f"{mean} ({span})" if one.n else mean


def with_interval(one: Interval) -> str:
    mean, span = difference_texts(one)
    return f"{mean} percentage points ({span})" if one.n <= 1 else f"{mean} percentage points (95%: {span})"


def undecayed(cells) -> str:
    """What to say of the network after N where its protocol has no decay in N; nothing under classic, and of older tables."""
    protocols = set(cells.protocol.dropna().astype(str)) - {"classic"} if "protocol" in cells else set()
    if not protocols:
        return ""
    return (
        f" Under protocol {' and '.join(sorted(protocols))} the network after N has not decayed yet, so it is no baseline: only "
        "the comparisons at equal updates count (protocol classic is what asks this question)."
    )
