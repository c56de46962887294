"""Networks on disk: tensors as safetensors, and beside them what the network is rebuilt from. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from qprune.networks import build_model, is_user_model
from qprune.precision import Precision, get_precision
from qprune.registry.user_code import check_trust

if TYPE_CHECKING:
    from torch import Tensor, fx


@dataclass(frozen=True)
class NetworkSpec:
    """All that a network is but its tensors.

    model: settings as in the sweep file; in_channels, image_size, num_classes, mean, std: of its data;
    widths: of each layer that pruning can cut, by name (qprune.pruning.shrink.layer_widths); precision: canonical name;
    layer_bits: layer -> width where a mixed precision has chosen them.
    """

    model: dict
    in_channels: int
    image_size: int
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)
    precision: str = "fp32"
    first_last_bits: int | None = 8
    layer_bits: dict[str, int] = field(default_factory=dict)

    @property
    def number_format(self) -> Precision:
        """The precision, with all that its networks are made from."""
        return get_precision(self.precision, self.first_last_bits, self.layer_bits)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one image."""
        return (self.in_channels, self.image_size, self.image_size)

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict, trust: Collection[str], source: object) -> NetworkSpec:
        """What to_json gave. trust: names of the user's own code (module:function) that may be run to build it.

        source: where it was read, for the message of the UserError for other code.
        """
        if is_user_model(values["model"]["name"]):
            check_trust(values["model"]["name"], trust, source)
        return cls(**values)

    def build(self, pretrained: bool = False) -> fx.GraphModule:
        """The FP32 network with these widths. Its weights are random, or with `pretrained` those that model.weights names."""
        from qprune.networks.free_sizes import free_sizes
        from qprune.networks.graph import with_normalize
        from qprune.pruning.shrink import resize

        settings = self.model if pretrained else {k: v for k, v in self.model.items() if k != "weights"}
        model = build_model(settings, self.in_channels, self.num_classes, self.image_size)
        network = with_normalize(model, tuple(self.mean), tuple(self.std))
        free_sizes(network, self.image_shape)
        return resize(network, self.widths) if self.widths else network

    def load_fp32(self, tensors: dict[str, Tensor]) -> fx.GraphModule:
        """The FP32 network with these tensors."""
        network = self.build()
        network.load_state_dict(tensors)
        return network

    def load_trained(self, tensors: dict[str, Tensor]) -> fx.GraphModule:
        """The network as it was trained at its precision: float masters whose forward rounds."""
        trained = self.number_format.prepare(self.build(), None)
        trained.load_state_dict(tensors)
        return trained

    def load(self, tensors: dict[str, Tensor]) -> fx.GraphModule:
        """The network that was evaluated, in eval mode; it takes float images in 0..1, [batch, c, h, w]."""
        return self.number_format.finish(self.load_trained(tensors)).eval()

    def at(self, precision: str, first_last_bits: int | None, layer_bits: dict[str, int] | None = None) -> NetworkSpec:
        """The same network at another precision."""
        return replace(self, precision=precision, first_last_bits=first_last_bits, layer_bits=layer_bits or {})
