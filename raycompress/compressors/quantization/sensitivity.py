"""Which layers lose too much where all of their inputs are rounded within one range, known from calibration data."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
_ROWS = 256
"""Rows, such as tokens, that are looked at of one input of a linear layer: the ranges are those of all."""
_UNSIGNED = 255
_TINY = 1e-12


@dataclass
class _Layer:
    """One layer, as its inputs come by: first their range, then what rounding them within it costs."""

    module: nn.Module
    low: float = 0.0
    high: float = 0.0
    error: float = 0.0
    rows: int = 0
    inside: bool = False

    def widen(self, value: Tensor) -> None:
        """Take the value's range into this one."""
        self.low, self.high = min(self.low, float(value.min())), max(self.high, float(value.max()))

    def compare(self, value: Tensor, levels: int) -> None:
        """Add what the layer's output loses where `value` and the weight are rounded."""
        if self.is_linear:
            rows = value.reshape(-1, value.size(-1))
            value = rows[:: max(1, len(rows) // _ROWS)]
        step = max(self.high - self.low, _TINY) / _UNSIGNED
        rounded = torch.round((value - self.low) / step).clamp(0, _UNSIGNED) * step + self.low
        weight = self.module.get_parameter("weight")
        is_transposed = "Transpose" in type(self.module).__name__ or is_transposed_linear(self.module)
        dims = [dim for dim in range(weight.dim()) if dim != int(is_transposed)]
        scale = weight.abs().amax(dim=dims, keepdim=True).clamp(min=_TINY) / levels
        self.inside = True
        try:
            expected = self.module(value)
            coarse = {"weight": torch.round(weight / scale) * scale}
            got = torch.func.functional_call(self.module, coarse, (rounded,))
        finally:
            self.inside = False
        # row by row: the outputs of one large input would hide what its range costs all others
        dims = [-1] if self.is_linear else list(range(1, expected.dim()))
        lost, whole = ((one.square().sum(dim=dims)) for one in (expected - got, expected))
        self.error += float((lost / whole.clamp(min=_TINY)).sum())
        self.rows += whole.numel()

    @property
    def relative(self) -> float:
        """The error of an output by its norm, as root mean square over the outputs."""
        return math.sqrt(self.error / max(self.rows, 1))

    @property
    def is_sensitive(self) -> bool:
        """Whether the error is too large for a layer of this kind."""
        return self.relative > (LINEAR if self.is_linear else CONVOLUTION)

    @property
    def is_linear(self) -> bool:
        """Whether the layer is a linear one, whose outputs are along the last dimension."""
        return isinstance(self.module, nn.Linear) or is_transposed_linear(self.module)


def sensitive(model: nn.Module, samples: list[Example], layers: Collection[str], levels: int) -> dict[str, float]:
    """Return the sensitive ones of `layers`, and by how much the output of each changes; each is looked at alone.

    Parameters
    ----------
    levels
        Largest whole number of a weight, which has a scale for each output channel.
    """
    modules = dict(model.named_modules())
    looked_at = {name: _Layer(modules[name]) for name in layers if is_weighted(modules[name])}
    few, left = [], _ENOUGH
    for sample in samples:
        if left > 0:
            few.append(sample.part(0, left) if sample.batch > left else sample)
            left -= max(sample.batch, 1)
    _watch(model, few, looked_at, None)
    _watch(model, few, looked_at, levels)
    return {name: layer.relative for name, layer in looked_at.items() if layer.is_sensitive}


def _watch(model: nn.Module, samples: list[Example], layers: Mapping[str, _Layer], levels: int | None) -> None:
    """Run the model on the samples; let each layer see its inputs: its range, or with `levels` what it loses."""

    def hook(layer: _Layer) -> Any:
        def seen(_module: nn.Module, args: tuple[Any, ...]) -> None:
            if layer.inside or not args or not isinstance(args[0], Tensor) or not args[0].numel():
                return
            value = args[0].detach()
            if levels is None:
                layer.widen(value)
            else:
                layer.compare(value, levels)

        return seen

    handles = [layer.module.register_forward_pre_hook(hook(layer)) for layer in layers.values()]
    try:
        for sample in samples:
            sample.outputs(model)
    finally:
        for handle in handles:
            handle.remove()
