"""A model that computes as if some of its layers were quantized: what a survey scores, without a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.layer_kinds import is_weighted, output_dim
from raycompress.compressors.quantization.int4.rounding import rounded
from raycompress.compressors.quantization.sensitivity import rounded_outputs, rounded_within
from raycompress.compressors.quantization.targets import with_plain_weights
from raycompress.model.stored import block_of

_MANY, _FEW = 8, 4
"""Bits that a layer may have; with more it stays float."""
_LEVELS = 127
"""The largest whole number of a weight of 8 bits."""


class Rounding:
    """Rounds weights, and the inputs of layers of 8 bits where activations are quantized too, while a model is called.

    Weights are rounded as the file has them, see `raycompress.model.stored`. Inputs have one range for all, as it is on
    the calibration inputs.

    Parameters
    ----------
    inputs
        What the ranges of activations come from; none where activations stay float.
    """

    def __init__(self, inputs: Sequence[Example]) -> None:
        self._inputs = inputs

    @contextmanager
    def __call__(self, model: nn.Module, bits: Mapping[str, int]) -> Iterator[nn.Module]:
        """Have `model`, in eval mode, compute so in place; its weights are its own again on leaving.

        Yields
        ------
        Module
            It; where weights of it are computed, a copy that has them as its own.
        """
        model = with_plain_weights(model)
        modules = dict(model.named_modules())
        layers = {name: modules[name] for name, own in bits.items() if own in (_MANY, _FEW) and name in modules}
        layers = {name: layer for name, layer in layers.items() if is_weighted(layer)}
        ranges = self._ranges(model, {name: layer for name, layer in layers.items() if bits[name] == _MANY})
        handles = [layers[name].register_forward_pre_hook(_rounding(low, high)) for name, (low, high) in ranges.items()]
        weights: dict[int, tuple[nn.Parameter, Tensor]] = {}
        try:
            with torch.no_grad():
                for name, layer in layers.items():
                    weight = layer.get_parameter("weight")
                    if id(weight) not in weights:  # layers may share one
                        weights[id(weight)] = weight, weight.detach().clone()
                        weight.copy_(rounded_weight(weight, output_dim(layer), bits[name]))
            yield model
        finally:
            with torch.no_grad():
                for weight, original in weights.values():
                    weight.copy_(original)
            for handle in handles:
                handle.remove()

    def _ranges(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}

        def widen(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def seen(_layer: nn.Module, args: tuple[Any, ...]) -> None:
                if args and isinstance(args[0], Tensor) and args[0].is_floating_point() and args[0].numel():
                    low, high = map(float, torch.aminmax(args[0].detach()))
                    before = found.get(name, (0.0, 0.0))
                    found[name] = min(low, before[0]), max(high, before[1])

            return seen

        handles = [layer.register_forward_pre_hook(widen(name)) for name, layer in layers.items() if self._inputs]
        try:
            for one in self._inputs if handles else ():
                one.outputs(model)
        finally:
            for handle in handles:
                handle.remove()
        return found


def rounded_weight(weight: Tensor, dim: int, bits: int) -> Tensor:
    """Return a weight with its outputs along `dim` as it is when rounded to 8 bits or 4."""
    if bits == _MANY:
        return rounded_outputs(weight.detach(), dim, _LEVELS)
    rows = weight.detach().movedim(dim, 0)
    flat = rows.reshape(len(rows), -1)
    size = block_of(flat.shape[1]) if weight.dim() == 2 else flat.shape[1]
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % size)).reshape(len(rows), -1, size)
    numbers, scales = rounded(padded.float().cpu().numpy())
    found = torch.from_numpy(numbers * scales).to(flat).reshape(len(rows), -1)[:, : flat.shape[1]]
    return found.reshape(rows.shape).movedim(0, dim)


def _rounding(low: float, high: float) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
    def hook(_layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return None
        return rounded_within(args[0], low, high), *args[1:]

    return hook
