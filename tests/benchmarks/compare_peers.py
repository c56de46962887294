"""qprune and its peers: same data, same updates for every network, costs counted alike, each at its best schedule.

python tests/benchmarks/compare_peers.py [SWEEP.yaml] [--choices FILE] [--set key=value] [--only NAME ...] [--workers 2]

Primary: the test hypervolume of qprune minus that of narrower networks from random weights, all precisions of the file,
equal updates, paired by seed (95% t-interval). All other comparisons are secondary, Holm-corrected together.
First each contender chooses its protocol and peak rate (peers/contenders.py) by mean validation hypervolume on seeds
0 to 2, at every second point in FP32 and the lowest precision: choices.csv. Then the file's seeds, which have chosen
nothing, make the claim: points.csv, summary.csv, equal_cost.csv, figure. --choices takes another data set's choices.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from fronts import hypervolumes, in_points, unpruned
from peers import register
from peers.contenders import RATES, Contender, contenders
from rich.console import Console

from qprune.executors.base import Executor
from qprune.executors.local import LocalExecutor
from qprune.settings.config import load_config
from qprune.storage.results import read_cells
from qprune.sweep.run import run_sweep

SWEEP = Path(__file__).parent / "peers" / "digits.yaml"
CHOOSING = (0, 1, 2)  # seeds
if __name__ != "compare_peers":
    register()  # in the workers too, which import this file


class Comparison:
    """Runs the sweeps of a comparison, each in a folder of its own; all share their stages.

    make_executor: as for run_sweep; None: nothing is trained, what is there is read.
    """

    def __init__(self, options: argparse.Namespace, make_executor: Callable[[int, Path], Executor] | None):
        self.options, self.base, self.make_executor = options, load_config(options.sweep, options.set), make_executor
        normalize = self.base.prune.normalize.name
        self.contenders = [one for one in contenders(normalize) if not options.only or one.name in options.only]

    def cells(self, contender: Contender, protocol: str, rate: float, *overrides: str) -> pd.DataFrame:
        """The contender's cells under a protocol at a rate (times the file's): run, if they aren't there."""
        how = "".join(c if c.isalnum() else "_" for c in f"{contender.name} {protocol.partition('=')[2]} {rate:g}")
        name = f"{self.base.name}_{'choice_' if overrides else ''}{how}"
        peak = f"train.lr={rate * self.base.train.lr!r}"
        config = load_config(
            self.options.sweep, [*self.options.set, *overrides, *contender.overrides, protocol, peak, f"name={name}"]
        )
        if self.make_executor is not None:
            run_sweep(config, self.options.out, self.make_executor, Console())
        cells = in_points(read_cells(self.options.out / name))
        return cells[cells.method == contender.method]

    def choose(self) -> pd.DataFrame:
        """One row per contender, protocol and rate: mean validation hypervolume, and whether it is the contender's best."""
        some = list(self.base.prune.ratios[::2])
        fewer = (f"seeds={list(CHOOSING)}", f"prune.ratios={some}", f"prune.until={self.base.prune.until}",
                 f"precisions=[fp32, {self.base.precisions[-1]}]")  # fmt: skip
        first, *_ = contenders(self.base.prune.normalize.name)
        references = unpruned(self.cells(first, first.protocols[0], 1.0, *fewer))
        rows = []
        for contender in self.contenders:
            for protocol in contender.protocols:
                for rate in RATES:
                    volumes = hypervolumes(self.cells(contender, protocol, rate, *fewer), references, "validation")
                    rows.append((contender.name, protocol, rate, volumes.mean()))
        found = pd.DataFrame(rows, columns=["contender", "protocol", "rate", "validation"])
        found["chosen"] = found.groupby("contender").validation.transform("max") == found.validation
        return found

    def claim(self, choices: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Contender -> its cells on the file's seeds, under what it has chosen."""
        chosen = choices[choices.chosen].drop_duplicates("contender").set_index("contender")
        return {
            one.name: self.cells(one, chosen.protocol[one.name], float(chosen.rate[one.name]))
            for one in self.contenders
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", nargs="?", type=Path, default=SWEEP)
    parser.add_argument("--set", action="append", default=[], help="a setting of the file")
    parser.add_argument("--choices", type=Path, help="choices.csv of another data set: nothing is chosen on this one")
    parser.add_argument("--only", nargs="*", default=[], help="contenders")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--tables", action="store_true", help="train nothing: tables and figure of what is there")
    options = parser.parse_args()

    def executor(stages: int, store: Path) -> LocalExecutor:
        return LocalExecutor(min(options.workers, stages), 1, store)

    comparison = Comparison(options, None if options.tables else executor)
    folder = options.out / comparison.base.name
    folder.mkdir(parents=True, exist_ok=True)
    choices = pd.read_csv(options.choices) if options.choices else comparison.choose()
    choices.round(3).to_csv(folder / "choices.csv", index=False)
    from peers.figure import draw
    from peers.tables import write_tables

    found = comparison.claim(choices)
    print(write_tables(found, folder).to_string(index=False))
    for path in draw(found, folder):
        print(f"-> {path}")


if __name__ == "__main__":
    main()
