"""What a model on a data set has to be asked for before its stages can be named: how many maps and images it has."""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from torch import Tensor

from qprune.cost import count_cost
from qprune.data import load_data
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.groups import ChannelGroups
from qprune.pruning.path import check_reachable
from qprune.pruning.shrink import layer_widths, shrink
from qprune.pruning.sizes import Sizes
from qprune.pruning.uniform import uniform_alive, uniform_share
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.registry.user_code import is_user_code, refusing_failures
from qprune.settings.config import SweepConfig, place_of
from qprune.stages.saved import NetworkSpec
from qprune.stages.work import dense_spec

MAX_NETWORKS = 100  # networks on data sets of one sweep; each is built once to be planned


@dataclass(frozen=True)
class Facts:
    """What a model on a data set has to be asked for. spec: the dense network; images: for training."""

    spec: NetworkSpec
    groups: ChannelGroups | None  # None: nothing is pruned
    images: int

    @property
    def maps(self) -> int:
        return self.groups.total if self.groups else 0

    @cached_property
    def sizes(self) -> Sizes:
        """MACs and parameters, whichever maps are gone."""
        assert self.groups is not None, "nothing is pruned"
        return Sizes.of(self.spec.build(), self.groups, self.spec.image_shape)

    @cached_property
    def dense_macs(self) -> int:
        """MACs of the dense network."""
        return count_cost(self.spec.build(), self.spec.image_shape).macs

    @cached_property
    def _narrow_shares(self) -> dict[tuple[str, float, int, int], float]:
        return {}

    def narrow_share(self, of: str, ratio: float, min_channels: int, round_to: int) -> float:
        """The share of its maps that every layer lacks where so much of `of` (pruning.sizes.COUNTED) is gone."""
        if of == "maps" or not ratio:
            return ratio
        key = (of, ratio, min_channels, round_to)
        if key not in self._narrow_shares:  # all seeds and precisions ask for it
            self._narrow_shares[key] = uniform_share(self.sizes, *key)
        return self._narrow_shares[key]

    def narrow_spec(self, of: str, ratio: float, min_channels: int, round_to: int) -> NetworkSpec:
        """The network of which so much is gone, the same share of maps of every layer."""
        alive = self._narrow_alive(of, ratio, min_channels, round_to)
        return replace(self.spec, widths=layer_widths(shrink(self.spec.build(), self.sizes.groups, alive)))

    def narrow_macs(self, of: str, ratio: float, min_channels: int, round_to: int) -> int:
        """MACs of that network."""
        return self.sizes.left("macs", self._narrow_alive(of, ratio, min_channels, round_to))

    def _narrow_alive(self, of: str, ratio: float, min_channels: int, round_to: int) -> Tensor:
        share = self.narrow_share(of, ratio, min_channels, round_to)
        return uniform_alive(self.sizes.groups, share, min_channels, round_to)


@lru_cache(maxsize=MAX_NETWORKS)
def gather_facts(model: Choice, data: Choice, linear: bool, ignore: tuple[str, ...], prunes: bool) -> Facts:
    """Build the dense network once to find its maps.

    Raises UserError where it can't be pruned as asked.
    """
    dataset = load_data(data.settings)
    spec = dense_spec(model, dataset)
    groups = GatedNetwork(spec.build(), spec.image_shape, linear, ignore).groups if prunes else None
    return Facts(spec, groups, len(dataset.train.labels))


def facts_of(config: SweepConfig, model: Choice, data: Choice) -> Facts:
    """The facts of one model and data set of a sweep. Raises UserError, with the place in the file, for a data set that
    can't be read, a model that can't take it or can't be pruned, and a path that can't be walked to its end."""
    prune = config.prune
    with blame(config, "data", config.data.index(data)), _guard("data", data):
        _check_readable(data)
    with blame(config, "model", config.model.index(model)), _guard("model", model):
        facts = gather_facts(model, data, prune.linear, prune.ignore, prune.until > 0)
    if facts.groups:
        largest = prune.ratios.index(max(prune.ratios))
        beyond = prune.of != "maps" or prune.until > max(prune.ratios)
        key = ("until",) if beyond else ("ratios", largest)
        with blame(config, "prune", *key):
            check_reachable(facts.groups, prune.until, prune.min_channels, prune.round_to, prune.max_layer_ratio)
    return facts


@lru_cache(maxsize=MAX_NETWORKS)
def _check_readable(data: Choice) -> None:
    load_data(data.settings)


def _guard(what: str, choice: Choice):
    """Around what runs the user's own code, if it is that."""
    return refusing_failures(what, choice.name) if is_user_code(choice.name) else nullcontext()


@contextmanager
def blame(config: SweepConfig, *path: str | int):
    """Puts the place of a key before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place_of(config, *path)}: {' '.join(str(error).split())}") from error
