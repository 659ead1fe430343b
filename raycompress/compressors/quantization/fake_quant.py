"""Fake quantization: values on a coarse grid, computed in float by small hooks of ours on an ordinary model.

What a quantizer learnt of activations is a few numbers a layer. They are stored as plain JSON, and put on any instance
of the model's class as forward hooks; weights are on their grid already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raycompress.errors import BundleError

Place = Literal["input", "output"]
_PLACES: tuple[Place, ...] = ("input", "output")


@dataclass
class FakeQuant:
    """Rounds a tensor to a grid.

    Attributes
    ----------
    kind
        ``affine``: ``scale * (round(clamp(x / scale + zero_point, low, high)) - zero_point)``. ``sign``: 1 where
        x >= 0, and -1 elsewhere.
    scale, zero_point
        Scalars, or tensors that broadcast along the channels, shape [1, channels, 1 ...].
    low, high
        The grid's ends, integers.
    bits
        Bits of a value.
    """

    kind: Literal["affine", "sign"]
    bits: int
    scale: Tensor = field(default_factory=lambda: torch.ones(()))
    zero_point: Tensor = field(default_factory=lambda: torch.zeros(()))
    low: int = 0
    high: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x` on the grid."""
        if self.kind == "sign":
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        if self.scale.device != x.device:
            self.scale, self.zero_point = self.scale.to(x.device), self.zero_point.to(x.device)
        steps = torch.clamp(x / self.scale + self.zero_point, self.low, self.high).round()
        return (steps - self.zero_point) * self.scale

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; floats keep all their digits."""
        if self.kind == "sign":
            return {"kind": "sign", "bits": self.bits}
        return {
            "kind": "affine",
            "bits": self.bits,
            "low": self.low,
            "high": self.high,
            "shape": list(self.scale.shape),
            "scale": self.scale.detach().double().flatten().tolist(),
            "zero_point": self.zero_point.detach().double().flatten().tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FakeQuant:
        """Rebuild what `to_json` returned; raises KeyError, TypeError or ValueError on data that is not that."""
        if data["kind"] == "sign":
            return cls("sign", int(data["bits"]))
        if data["kind"] != "affine":
            raise ValueError(f"unknown kind {data['kind']!r}")
        shape = [int(size) for size in data["shape"]]
        scale, zero_point = (
            torch.tensor([float(value) for value in data[key]], dtype=torch.float32).reshape(shape)
            for key in ("scale", "zero_point")
        )
        return cls("affine", int(data["bits"]), scale, zero_point, int(data["low"]), int(data["high"]))


Activations = Mapping[str, Mapping[Place, FakeQuant]]
"""Layer name -> what its input and its output pass through."""


class InputHook:
    """Forward pre-hook: rounds the layer's first argument to a grid."""

    def __init__(self, grid: FakeQuant) -> None:
        self.grid = grid

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments, the first on the grid."""
        return (self.grid(args[0]), *args[1:])


class OutputHook:
    """Forward hook: rounds the layer's output to a grid."""

    def __init__(self, grid: FakeQuant) -> None:
        self.grid = grid

    def __call__(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        """Return the output on the grid."""
        return self.grid(output)


def compute_layer_by_layer(model: nn.Module) -> None:
    """Keep torch's transformer layers from computing in one kernel, which reads weights and calls no layer inside."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.register_forward_pre_hook(_called)  # with a hook on it torch calls the layers inside
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _called(_module: nn.Module, _args: Any) -> None:
    """Do nothing."""


def install(model: nn.Module, activations: Activations) -> list[RemovableHandle]:
    """Register the hooks on the layers of `model`; raises KeyError for a layer that it does not have."""
    compute_layer_by_layer(model)
    modules = dict(model.named_modules())
    handles = []
    for name, grids in activations.items():
        layer = modules[name]
        if "input" in grids:
            handles.append(layer.register_forward_pre_hook(InputHook(grids["input"])))
        if "output" in grids:
            handles.append(layer.register_forward_hook(OutputHook(grids["output"])))
    return handles


def to_json(activations: Activations) -> dict[str, Any]:
    """Return plain JSON data."""
    return {name: {place: grid.to_json() for place, grid in grids.items()} for name, grids in activations.items()}


def from_json(data: Any, where: str) -> dict[str, dict[Place, FakeQuant]]:
    """Rebuild what `to_json` returned.

    Raises
    ------
    BundleError
        It is not that.
    """
    try:
        return {
            name: {place: FakeQuant.from_json(grids[place]) for place in _PLACES if place in grids}
            for name, grids in data.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BundleError(
            f"the bundle's description of quantized activations cannot be read: {error!r}",
            where=where,
            fix="fetch or make the bundle again; do not edit its files",
        ) from error
