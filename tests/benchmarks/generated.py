"""Whether qprune keeps its promises on random small networks, or refuses them in words (tests/helpers/promises.py).

python tests/benchmarks/generated.py [--networks 200] [--seed 0] [--out results/benchmarks/generated.csv]

A row for each thing that is tried; each network with a fault is printed as the code that builds it.
"""

import argparse
import re
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from generated import Written, networks  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from promises import FAULT, OK, REFUSED, check  # noqa: E402


def drawn(count: int, number: int) -> list[Written]:
    """So many different networks."""
    found: dict[str, Written] = {}

    @seed(number)
    @settings(
        max_examples=2 * count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    @given(networks())
    def draw(network: Written) -> None:
        found.setdefault(network.source, network)

    draw()
    return list(found.values())[:count]


def sentence(outcome: str) -> str:
    """A refusal without the names and numbers of its network."""
    return re.sub(r"[a-z_]*\d+(\.\d+)?", "#", outcome.removeprefix(REFUSED))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/generated.csv"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    started, outcomes = time.monotonic(), []
    for number, network in enumerate(drawn(options.networks, options.seed)):
        outcome = check(network)
        outcomes.append(outcome)
        faults = {what: text for what, text in outcome.items() if text.startswith(FAULT)}
        if faults:
            print(
                f"\n# network {number}",
                *(f"# {what}: {text}" for what, text in faults.items()),
                network,
                sep="\n",
                flush=True,
            )
    seconds = time.monotonic() - started
    tried = list(dict.fromkeys(what for outcome in outcomes for what in outcome))
    rows = []
    for what in tried:
        texts = [outcome[what] for outcome in outcomes if what in outcome]
        refused, faults = (sum(text.startswith(kind) for text in texts) for kind in (REFUSED, FAULT))
        rows.append(
            {"tried": what, "networks": len(texts), "ok": texts.count(OK), "refused": refused, "faults": faults}
        )
    sentences = Counter(
        (what, sentence(text)) for outcome in outcomes for what, text in outcome.items() if text.startswith(REFUSED)
    )
    for (what, text), count in sentences.most_common():
        print(f"{count:4} refused at {what}: {text}")
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    whole = sum(set(outcome.values()) == {OK} for outcome in outcomes)
    wrong = sum(any(text.startswith(FAULT) for text in outcome.values()) for outcome in outcomes)
    print(
        f"{len(outcomes)} networks, {seconds:.0f} s: {whole} pass everything, {len(outcomes) - whole - wrong} are refused "
        f"something, {wrong} have a fault"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
