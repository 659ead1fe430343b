"""The latency of a pruned model, predicted from a table of its layers' times at several widths.

Measured by `raycompress.compressors.analysis.fits.latency_table` on the machine that counts; nothing is trained or run
here.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

LATENCY: Literal["latency_ms"] = "latency_ms"
Clock = Literal["latency_ms", "cpu_ms"]
"""Milliseconds by the clock, or of CPU time; the names that these have as metrics."""

Widths = Mapping[str, tuple[int, int]]
"""Layer -> (input channels, output channels) as its weight has them: of a linear layer its features."""


_CALLS = 0.25
"""Of what a model does beside its layers, the part that is calls, as many in a narrow one; the rest is activations."""


@dataclass(frozen=True)
class LayerLatency:
    """The times of one layer at several widths.

    Attributes
    ----------
    name
        As in ``model.named_modules()``.
    axes
        The numbers of input and of output channels that were measured, both ascending; of a layer that passes its
        channels on (a norm, a depthwise convolution) one axis, its channels.
    ms
        The time at each point, those of the last axis side by side.
    outputs
        How many numbers the dense layer puts out.
    """

    name: str
    axes: tuple[tuple[int, ...], ...]
    ms: tuple[float, ...]
    outputs: int

    @property
    def widest(self) -> tuple[int, int]:
        """What it is in the dense model."""
        return self.axes[0][-1], self.axes[-1][-1]

    def at(self, width: tuple[int, int]) -> float:
        """Return the time at (input channels, output channels), by bilinear interpolation; past the ends linearly.

        A layer without any channels is gone.
        """
        return 0.0 if width == (0, 0) else max(0.0, _between(self.axes, self.ms, width[-len(self.axes) :]))


@dataclass(frozen=True)
class LatencyTable:
    """The times of a model's layers, for one input.

    Attributes
    ----------
    device
        The machine that it was measured on.
    layers
        Those with channels that pruning can remove.
    rest_ms
        The time of the dense model outside of them: activations, additions, layers of other kinds, Python.
    dense_ms
        Its whole time, by each clock, measured as in a trial: in turn with another model.
    """

    device: str
    layers: tuple[LayerLatency, ...]
    rest_ms: float
    dense_ms: Mapping[Clock, float]

    def share(self, widths: Widths) -> float:
        """Return the share of the dense model's time; layers that `widths` leaves out are as wide as in that one.

        Examples
        --------
        >>> layer = LayerLatency("conv", ((8, 16), (8, 16)), (1.0, 2.0, 2.0, 4.0), outputs=160)
        >>> table = LatencyTable("cpu", (layer,), rest_ms=1.0, dense_ms={"latency_ms": 10.0})
        >>> table.share({}), table.share({"conv": (16, 8)}), table.share({"conv": (12, 16)})
        (1.0, 0.525, 0.8)
        """
        chosen = [(layer, widths.get(layer.name, layer.widest)) for layer in self.layers]
        activations = sum(layer.outputs * width[1] / layer.widest[1] for layer, width in chosen)
        whole = sum(layer.outputs for layer in self.layers)
        beside = _CALLS + (1 - _CALLS) * (activations / whole if whole else 1)
        layers = sum(layer.at(width) for layer, width in chosen)
        return (layers + self.rest_ms * beside) / (sum(layer.ms[-1] for layer in self.layers) + self.rest_ms)

    def predict(self, widths: Widths, clock: Clock = "latency_ms") -> float:
        """Return the milliseconds of one pass; see `share`."""
        return self.dense_ms[clock] * self.share(widths)

    @staticmethod
    def file_bytes(weight_bytes: float) -> float:
        """Return the bytes of the file of a model whose weights have so many: as many, in torch."""
        return weight_bytes

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyTable:
        """Rebuild what `to_json` returned."""
        layers = (
            LayerLatency(**{**layer, "axes": tuple(map(tuple, layer["axes"])), "ms": tuple(layer["ms"])})
            for layer in data["layers"]
        )
        return cls(**{**data, "layers": tuple(layers)})


def _between(axes: Sequence[Sequence[int]], values: Sequence[float], point: Sequence[int]) -> float:
    if not axes:
        return values[0]
    axis, size = axes[0], len(values) // len(axes[0])
    lower, share = _place(axis, point[0])
    low, high = (
        _between(axes[1:], values[size * place : size * (place + 1)], point[1:])
        for place in (lower, min(lower + 1, len(axis) - 1))
    )
    return low + share * (high - low)


def _place(axis: Sequence[int], value: int) -> tuple[int, float]:
    """Return the position on the axis that `value` comes after, and how far it is from there to the next one."""
    if len(axis) == 1:
        return 0, 0.0
    lower = min(max(bisect.bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return lower, (value - axis[lower]) / (axis[lower + 1] - axis[lower])
