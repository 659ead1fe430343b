"""Which layers lose too much where all of their inputs are rounded within one range, known from calibration data."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.layer_kinds import is_transposed_linear, is_weighted

LINEAR, CONVOLUTION = 0.025, 0.1
"""Relative error of a layer's output, by its norm, from which on it is sensitive.

A linear layer that is spared loses nothing: it gets a range for each row. A convolution has to stay float.
"""
_ENOUGH = 64
"""Inputs that are looked at."""
_COMPARED = 8
"""Of these, those whose outputs of convolutions are compared: each place of an image is one of them."""
_ROWS = 512
"""Rows, such as tokens, whose outputs of a linear layer are compared: the ranges are those of all."""
_UNSIGNED = 255
_TINY = 1e-12


@dataclass
class _Layer:
    """One layer, as its inputs come by: first their range, then what rounding them within it costs.

    Attributes
    ----------
    rows
        Of a linear layer, some rows of its inputs.
    """

    module: nn.Module
    low: float = 0.0
    high: float = 0.0
    error: float = 0.0
    count: int = 0
    rows: list[Tensor] = field(default_factory=list)
    coarse: Tensor | None = None

    def widen(self, value: Tensor, keep: int) -> None:
        """Take the value's range into this one; of a linear layer keep so many of its rows."""
        low, high = torch.aminmax(value)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        if self.is_linear and sum(map(len, self.rows)) < 2 * _ROWS:  # a layer may be called many times in a pass
            rows = value.reshape(-1, value.size(-1))
            # drawn, as evenly spaced ones could be the same place of every sequence
            chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:keep]
            self.rows.append(rows[chosen])

    def compare(self, value: Tensor, expected: Tensor, levels: int) -> None:
        """Add what an output of the layer loses where its input, `value`, and the weight are rounded."""
        rounded = rounded_within(value, self.low, self.high)
        if self.coarse is None:
            is_transposed = "Transpose" in type(self.module).__name__ or is_transposed_linear(self.module)
            self.coarse = rounded_outputs(self.module.get_parameter("weight"), int(is_transposed), levels)
        got = torch.func.functional_call(self.module, {"weight": self.coarse}, (rounded,))
        # row by row: the outputs of one large input would hide what its range costs all others
        dims = [-1] if self.is_linear else list(range(1, expected.dim()))
        lost, whole = ((one.square().sum(dim=dims)) for one in (expected - got, expected))
        self.error += float((lost / whole.clamp(min=_TINY)).sum())
        self.count += whole.numel()

    @property
    def relative(self) -> float:
        """The error of an output by its norm, as root mean square over the outputs."""
        return math.sqrt(self.error / max(self.count, 1))

    @property
    def is_sensitive(self) -> bool:
        """Whether the error is too large for a layer of this kind."""
        return self.relative > (LINEAR if self.is_linear else CONVOLUTION)

    @property
    def is_linear(self) -> bool:
        """Whether the layer is a linear one, whose outputs are along the last dimension."""
        return isinstance(self.module, nn.Linear) or is_transposed_linear(self.module)


def rounded_within(value: Tensor, low: float, high: float) -> Tensor:
    """Return an activation as it is when rounded to 8 bits within one range for all of it."""
    step = max(high - low, _TINY) / _UNSIGNED
    return torch.round((value - low) / step).clamp(0, _UNSIGNED) * step + low


def rounded_outputs(weight: Tensor, dim: int, levels: int) -> Tensor:
    """Return a weight rounded to whole numbers up to `levels`, with a scale for each output, which lie along `dim`."""
    dims = [one for one in range(weight.dim()) if one != dim]
    scale = weight.abs().amax(dim=dims, keepdim=True).clamp(min=_TINY) / levels
    return torch.round(weight / scale) * scale


def sensitive(
    model: nn.Module, samples: list[Example], layers: Collection[str], levels: int
) -> tuple[dict[str, float], list[list[Tensor]]]:
    """Return the sensitive ones of `layers`, and by how much the output of each changes; each is looked at alone.

    The model passes once over the samples; where convolutions are among the layers, over a few of them once more.

    Parameters
    ----------
    levels
        Largest whole number of a weight, which has a scale for each output channel.

    Returns
    -------
    tuple
        Layer -> relative error, and the outputs of the model on the first of the samples, as many as were looked at.
    """
    modules = dict(model.named_modules())
    looked_at = {name: _Layer(modules[name]) for name in layers if is_weighted(modules[name])}
    few = _first(samples, _ENOUGH)
    keep = max(1, _ROWS // max(1, len(few)))
    outputs = _watch(model, few, looked_at.values(), lambda layer, value, _: layer.widen(value, keep))
    convolutions = []
    for layer in looked_at.values():
        if not layer.is_linear:
            convolutions.append(layer)
        elif layer.rows:
            rows = torch.cat(layer.rows)
            with torch.no_grad():
                layer.compare(rows, layer.module(rows), levels)
        layer.rows, layer.coarse = [], None
    if convolutions:
        _watch(model, _first(few, _COMPARED), convolutions, lambda layer, *both: layer.compare(*both, levels))
    known = [answer for answer, part, sample in zip(outputs, few, samples, strict=False) if part is sample]
    return {name: layer.relative for name, layer in looked_at.items() if layer.is_sensitive}, known


def _first(samples: list[Example], count: int) -> list[Example]:
    """Return the first `count` inputs of the samples."""
    few = []
    for sample in samples:
        if count > 0:
            few.append(sample.part(0, count) if sample.batch > count else sample)
            count -= max(sample.batch, 1)
    return few


def _watch(
    model: nn.Module,
    samples: list[Example],
    layers: Iterable[_Layer],
    see: Callable[[_Layer, Tensor, Tensor], None],
) -> list[list[Tensor]]:
    """Return the outputs of the model on the samples; let `see` have each layer with its inputs and outputs."""
    inside = False

    def hook(layer: _Layer) -> Any:
        def seen(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            nonlocal inside
            if inside or not args or not isinstance(args[0], Tensor) or not args[0].numel():
                return
            inside = True  # to compare, the layer is called once more
            try:
                see(layer, args[0].detach(), output)
            finally:
                inside = False

        return seen

    handles = [layer.module.register_forward_hook(hook(layer)) for layer in layers]
    try:
        return [sample.outputs(model) for sample in samples]
    finally:
        for handle in handles:
            handle.remove()
