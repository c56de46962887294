"""What a model on a data set has to be asked for before its stages can be named: how many maps and images it has.

Numbers alone: a plan whose facts have been kept builds no network, reads no images and imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from qprune.data import DATA_SETS, load_data
from qprune.networks import MODELS, is_user_model
from qprune.pruning.maps import Layer, LeftOut, Maps
from qprune.pruning.schedule import check_reachable
from qprune.registry import Registry
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError
from qprune.registry.user_code import is_user_code, refusing_failures
from qprune.settings.config import SweepConfig, place_of
from qprune.stages.fingerprints import data_fingerprint_of, model_fingerprint_of
from qprune.stages.saved import NetworkSpec
from qprune.storage.kept import keep, kept

if TYPE_CHECKING:
    from torch import Tensor

    from qprune.cost import Cost
    from qprune.pruning.groups import ChannelGroups
    from qprune.pruning.sizes import Sizes

MAX_NETWORKS = 100  # networks on data sets of one sweep; each is built once to be planned
KEPT = "facts"


@dataclass(frozen=True)
class Facts:
    """What a model on a data set has to be asked for. spec: the dense network; layout: its maps, None where nothing is
    pruned; images: for training; linear, ignore: which layers can be pruned; answers: question -> number, of what has been
    asked beyond; follows_from: what all of it is kept by, None where it isn't."""

    spec: NetworkSpec
    layout: Maps | None
    images: int
    linear: bool = False
    ignore: tuple[str, ...] = ()
    answers: dict[str, float] = field(default_factory=dict)
    follows_from: Any = None

    @property
    def maps(self) -> int:
        return self.layout.total if self.layout else 0

    @cached_property
    def groups(self) -> ChannelGroups:
        """The maps with the channels that carry them, for which the network is built."""
        from qprune.pruning.groups import find_groups

        assert self.layout is not None, "nothing is pruned"
        return find_groups(self.spec.build(), self.spec.image_shape, self.linear, self.ignore)

    @cached_property
    def sizes(self) -> Sizes:
        """MACs and parameters, whichever maps are gone."""
        from qprune.pruning.sizes import Sizes

        return Sizes.of(self.spec.build(), self.groups, self.spec.image_shape)

    @cached_property
    def _dense_cost(self) -> Cost:
        from qprune.cost import count_cost

        return count_cost(self.spec.build(), self.spec.image_shape)

    @property
    def dense_macs(self) -> int:
        """MACs of the dense network."""

        return int(self._answer(lambda: self._dense_cost.macs, "dense_macs"))

    @property
    def values_per_weight(self) -> float:
        """Cost.values_per_weight of the dense network."""
        return self._answer(lambda: self._dense_cost.values_per_weight, "values_per_weight")

    def narrow_share(
        self, of: str, ratio: float, min_channels: int, round_to: int, max_layer_ratio: float | None = None
    ) -> float:
        """The share of its maps that every layer lacks where so much of `of` (pruning.sizes.COUNTED) is gone."""
        if of == "maps" or not ratio:
            return ratio

        def find() -> float:
            from qprune.pruning.uniform import uniform_share

            return uniform_share(self.sizes, of, ratio, min_channels, round_to, max_layer_ratio)

        return self._answer(find, "narrow_share", of, ratio, min_channels, round_to, max_layer_ratio)

    def narrow_spec(self, of: str, ratio: float, min_channels: int, round_to: int) -> NetworkSpec:
        """The network of which so much is gone, the same share of maps of every layer."""
        from qprune.pruning.shrink import layer_widths, shrink

        alive = self._narrow_alive(of, ratio, min_channels, round_to)
        return replace(self.spec, widths=layer_widths(shrink(self.spec.build(), self.groups, alive)))

    def narrow_macs(self, of: str, ratio: float, min_channels: int, round_to: int) -> int:
        """MACs of that network."""

        def count() -> int:
            return self.sizes.left("macs", self._narrow_alive(of, ratio, min_channels, round_to))

        return int(self._answer(count, "narrow_macs", of, ratio, min_channels, round_to))

    def _narrow_alive(self, of: str, ratio: float, min_channels: int, round_to: int) -> Tensor:
        from qprune.pruning.uniform import uniform_alive

        share = self.narrow_share(of, ratio, min_channels, round_to)
        return uniform_alive(self.groups, share, min_channels, round_to)

    def _answer(self, find: Callable[[], float], *question: Any) -> float:
        """Found out once: all seeds, precisions and later commands ask for it."""
        key = json.dumps(question)
        if key not in self.answers:
            self.answers[key] = find()
            self.keep()
        return self.answers[key]

    def keep(self) -> None:
        """For the next command."""
        if self.follows_from is None:
            return
        layout = None if self.layout is None else [
            [[layer.name, layer.start, layer.stop] for layer in self.layout.layers],
            [[each.layer, each.maps, each.why] for each in self.layout.left_out],
        ]  # fmt: skip
        values = {"spec": self.spec.to_json(), "layout": layout, "images": self.images, "answers": self.answers}
        keep(KEPT, self.follows_from, values)

    @classmethod
    def of_kept(cls, values: dict, linear: bool, ignore: tuple[str, ...], follows_from: Any) -> Facts:
        """What keep() wrote."""
        spec, layout = values["spec"], values["layout"]
        maps = None
        if layout is not None:
            layers, left_out = layout
            maps = Maps(tuple(Layer(*each) for each in layers), tuple(LeftOut(*each) for each in left_out))
        spec = NetworkSpec(**spec | {name: tuple(spec[name]) for name in ("mean", "std")})
        return cls(spec, maps, values["images"], linear, ignore, values["answers"], follows_from)


@lru_cache(maxsize=MAX_NETWORKS)
def gather_facts(model: Choice, data: Choice, linear: bool, ignore: tuple[str, ...], prunes: bool) -> Facts:
    """Those that were kept; else the dense network is built once to find its maps.

    Raises UserError where it can't be pruned as asked.
    """
    follows_from = _follows_from(model, data, linear, ignore, prunes)
    if follows_from is not None and (values := kept(KEPT, follows_from)) is not None:
        return Facts.of_kept(values, linear, ignore, follows_from)
    from qprune.pruning.gated import GatedNetwork
    from qprune.stages.work import dense_spec

    dataset = load_data(data.settings)
    spec = dense_spec(model, dataset)
    groups = GatedNetwork(spec.build(), spec.image_shape, linear, ignore).groups if prunes else None
    layout = groups and Maps(groups.layers, groups.left_out)
    facts = Facts(spec, layout, len(dataset.train.labels), linear, ignore, follows_from=follows_from)
    facts.keep()
    return facts


def _follows_from(model: Choice, data: Choice, linear: bool, ignore: tuple[str, ...], prunes: bool) -> Any:
    """What facts are kept by beside the code; None where that isn't all known: what a user's own code imports."""
    if not is_known_model(model.name) or not is_qprunes_data(data):
        return None
    return {
        "model": model.settings,
        "model_fingerprint": model_fingerprint_of(model),
        "data": data.settings,
        "data_fingerprint": data_fingerprint_of(data),
        "linear": linear,
        "ignore": ignore,
        "prunes": prunes,
    }


def is_qprunes_data(data: Choice) -> bool:
    """Whether a data set is read by this package's own code, so that its fingerprint says all about it."""
    return _is_qprunes(data.name, DATA_SETS)


def is_known_model(name: str) -> bool:
    """Whether a network is built by this package's own code and torchvision's, so that its settings and their versions say all
    about its layers."""
    return _is_qprunes(name, MODELS) or (is_user_code(name) and not is_user_model(name))


def _is_qprunes(name: str, registry: Registry) -> bool:
    return name in registry and registry.get(name).place.startswith("qprune.")


def facts_of(config: SweepConfig, model: Choice, data: Choice) -> Facts:
    """The facts of one model and data set of a sweep. Raises UserError, with the place in the file, for a data set that
    can't be read, a model that can't take it or can't be pruned, and a path that can't be walked to its end."""
    prune = config.prune
    asked = (model, data, prune.linear, prune.ignore, prune.until > 0)
    with blame(config, "data", config.data.index(data)), _guard("data", data):
        _check_readable(*asked)
    with blame(config, "model", config.model.index(model)), _guard("model", model):
        facts = gather_facts(*asked)
    if facts.layout:
        largest = prune.ratios.index(max(prune.ratios))
        beyond = prune.of != "maps" or prune.until > max(prune.ratios)
        key = ("until",) if beyond else ("ratios", largest)
        with blame(config, "prune", *key):
            check_reachable(facts.layout, prune.until, prune.min_channels, prune.round_to, prune.max_layer_ratio)
    return facts


@lru_cache(maxsize=MAX_NETWORKS)
def _check_readable(model: Choice, data: Choice, *asked: Any) -> None:
    """Read the data, but where facts of the very content are kept: it has been read."""
    if is_qprunes_data(data):
        data_fingerprint_of(data)
        follows_from = _follows_from(model, data, *asked)
        if follows_from is not None and kept(KEPT, follows_from) is not None:
            return
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
