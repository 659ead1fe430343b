"""What the layers of a model read: mean, variance and size of each input channel, over calibration inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example, evaluating
from raycompress.compressors.engines.torch_pruning.scored_layers import ScoredLayer
from raycompress.compressors.layer_kinds import channel_dim, is_weighted


@dataclass
class Moments:
    """Sums over all positions (samples, pixels, tokens) of the inputs of one layer.

    Attributes
    ----------
    count
        How many positions.
    total, squares
        The sum of each channel's values, and of their squares, of shape (channels,) in float64.
    """

    count: int
    total: Tensor
    squares: Tensor

    def add(self, positions: Tensor) -> None:
        """Add values of shape (positions, channels)."""
        self.count += len(positions)
        self.total += positions.double().sum(0)
        self.squares += positions.double().square().sum(0)

    @property
    def size(self) -> Tensor:
        """The root of the mean square of each channel."""
        return (self.squares / self.count).sqrt()

    @property
    def variance(self) -> Tensor:
        """The variance of each channel."""
        return (self.squares / self.count - (self.total / self.count).square()).clamp_min(0)


@contextmanager
def reading(model: nn.Module, look: Callable[[str, nn.Module, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``look(name, module, inputs)`` for each convolution and linear layer, before it computes.

    What it returns is what the layer reads instead, where that is not None.
    """
    handles = []
    for name, module in model.named_modules():
        if is_weighted(module):

            def hook(module: nn.Module, args: tuple[Any, ...], name: str = name) -> Any:
                if not args or not isinstance(args[0], Tensor):
                    return None
                instead = look(name, module, args[0])
                return None if instead is None else (instead, *args[1:])

            handles.append(module.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def moments_of(model: nn.Module, batches: Iterable[Example]) -> dict[str, Moments]:
    """Return layer -> the moments of its inputs, of the convolutions and linear layers that are called."""
    found: dict[str, Moments] = {}

    def look(name: str, module: nn.Module, inputs: Tensor) -> None:
        positions = inputs.detach().movedim(channel_dim(module, inputs), -1).flatten(0, -2)
        if name not in found:
            zero = torch.zeros(positions.size(1), dtype=torch.float64, device=positions.device)
            found[name] = Moments(0, zero, zero.clone())
        found[name].add(positions)

    with reading(model, look), evaluating(model), torch.no_grad():
        for batch in batches:
            batch.call(model)
    return found


def wanda(layers: Sequence[ScoredLayer], moments: Mapping[str, Moments]) -> Tensor | None:
    """Return what the layers that read each channel get from it: the sum of ``|weight| * size of the input``.

    Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024, where it is the score of a
    single weight; here that of all weights that go with a channel, divided by the mean over the group. The size is a
    mean over positions, not a sum, so that layers of different resolutions can be compared.
    """
    sizes = {name: one.size for name, one in moments.items()}
    found = _summed(layers, lambda weight: weight.abs().sum(0), sizes)
    return None if found is None else found / found.mean().clamp_min(1e-30)


def flap(layers: Sequence[ScoredLayer], moments: Mapping[str, Moments]) -> Tensor | None:
    """Return how far each channel's contribution to the layers that read it is from constant.

    An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models, AAAI 2024: the variance of the
    input times the squared norm of the weights that read it, standardized within the group.
    """
    variances = {name: one.variance for name, one in moments.items()}
    found = _summed(layers, lambda weight: weight.square().sum(0), variances)
    return None if found is None else (found - found.mean()) / found.std(correction=0).clamp_min(1e-30)


def _summed(
    layers: Sequence[ScoredLayer], norm: Callable[[Tensor], Tensor], of_inputs: Mapping[str, Tensor]
) -> Tensor | None:
    """Return, for each channel of the group's root, the sum over all that read it of norm of weights * its number.

    Parameters
    ----------
    norm
        Takes weights of shape (others, channels), in float64, to (channels,).
    of_inputs
        Layer -> a number for each of its input channels.
    """
    total: Tensor | None = None
    for layer in layers:
        if layer.reads and layer.name in of_inputs:
            weight = layer.dep.layer.weight
            assert isinstance(weight, Tensor)
            chosen, places = (torch.tensor(one, device=weight.device) for one in (layer.idxs, layer.root_idxs))
            dim = 0 if isinstance(layer.dep.layer, nn.modules.conv._ConvTransposeNd) else 1
            read = weight.detach().double().index_select(dim, chosen).movedim(dim, -1).flatten(0, -2)
            if total is None:
                total = read.new_zeros(max(max(one.root_idxs) for one in layers) + 1)
            total.index_add_(0, places, norm(read) * of_inputs[layer.name][chosen])
    return total
