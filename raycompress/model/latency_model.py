"""The latency of a pruned model in an inference runtime, predicted from whole networks that were timed in it.

Fitted by `raycompress.model.latency_fit` to what `raycompress.compressors.analysis.fits.latency_model` has timed on the
machine that counts; nothing is trained or run here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from raycompress.model.latency_table import Clock, LatencyTable, Widths

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["spatial", "pointwise", "depthwise", "norm", "fused"]
"""What a layer is to a runtime: a convolution over positions, one of a single position or a linear layer, one of each
channel by itself, a norm, and what the layer before it absorbs."""
_TAG = "networks"
_UNEVEN = ("spatial", "pointwise", "depthwise")


@dataclass(frozen=True)
class LayerWork:
    """What one layer of the dense model computes, as a function of its widths.

    Attributes
    ----------
    name
        As in ``model.named_modules()``.
    kind
        See `Kind`.
    width
        Its (input channels, output channels) in the dense model, as its weight has them.
    positions
        How many numbers it puts out for each output channel.
    kernel
        How many weights it has for each pair of an input and an output channel.
    """

    name: str
    kind: Kind
    width: tuple[int, int]
    positions: float
    kernel: float


@dataclass(frozen=True)
class Correction:
    """A factor on what the work of the layers predicts: the mean of a Gaussian process of the layers' widths.

    Attributes
    ----------
    layers
        The layers whose output widths, as shares of the dense ones, are the coordinates.
    length
        The length scale, of the root mean square distance over the coordinates.
    points, weights
        Coordinates of the networks that it was fitted to, and the weight of each.
    """

    layers: tuple[str, ...]
    length: float
    points: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def at(self, shares: Mapping[str, float]) -> float:
        """Return the factor for a network; 1 far from all that were timed."""
        import numpy as np  # a file is checked without it

        place = np.array([shares.get(name, 1.0) for name in self.layers])
        return 1.0 + float(kernel(place[None], np.array(self.points), self.length)[0] @ np.array(self.weights))


def kernel(left: np.ndarray, right: np.ndarray, length: float) -> np.ndarray:
    """Return the squared exponential covariance of all pairs of rows."""
    import numpy as np

    distances = ((left[:, None] - right[None]) ** 2).mean(-1)
    return np.asarray(np.exp(-distances / (2 * length**2)))


@dataclass(frozen=True)
class Accuracy:
    """How well networks are predicted that the fit has not seen.

    Attributes
    ----------
    networks
        How many were timed.
    median, ninth
        The median and the 90th percentile of the relative error of the latency.
    tau
        Kendall's rank correlation of the predicted and the measured latencies.
    """

    networks: int
    median: float
    ninth: float
    tau: float


@dataclass(frozen=True)
class LatencyModel:
    """The latency of a model, by the work of its layers, for one input in one runtime.

    Attributes
    ----------
    target
        The name of the deployment target that the networks were timed in.
    works
        The layers that pruning makes narrower.
    step
        What the runtime computes channels in multiples of, as far as its times show; 1 where they show nothing.
    even
        What numbers of channels have to be multiples of for its fast operators; 1 where its times show nothing.
    parts
        Quantity of `quantities` -> the share of the dense model's time that goes along with it.
    correction
        What the widths tell beyond that, where it was found to predict better.
    dense_ms
        The dense model's time, by each clock.
    file
        Bytes of a deployed file beside the weights, and for each byte of the weights.
    accuracy
        Of networks that it has not seen.
    is_stepped
        Whether the networks show beyond chance that `multiple` is so.
    identity
        A hash of all that the times depend on: the network, the target, its runtime's version and the machine.
    budget_s
        The seconds that there were to time networks in.
    """

    target: str
    works: tuple[LayerWork, ...]
    step: int
    even: int
    parts: Mapping[str, float]
    correction: Correction | None
    dense_ms: Mapping[Clock, float]
    file: tuple[float, float]
    accuracy: Accuracy
    is_stepped: bool = False
    identity: str = ""
    budget_s: float = 0.0

    def share(self, widths: Widths) -> float:
        """Return the share of the dense model's time; layers that `widths` leaves out are as wide as in that one."""
        return self._raw(widths) / self._raw_of_dense

    @property
    def multiple(self) -> int:
        """What channels are to be multiples of: by `step` and `even`."""
        return math.lcm(self.step, self.even)

    @functools.cached_property
    def _whole(self) -> dict[str, float]:
        return _totals(self.works, {}, self.step, 0)

    @functools.cached_property
    def _raw_of_dense(self) -> float:
        return self._raw({})

    def _raw(self, widths: Widths) -> float:
        found = _shares(_totals(self.works, widths, self.step, self.even), self._whole)
        base = sum(share * found[name] for name, share in self.parts.items())
        if self.correction is None:
            return base
        return base * max(0.1, self.correction.at(output_shares(self.works, widths)))

    def predict(self, widths: Widths, clock: Clock = "latency_ms") -> float:
        """Return the milliseconds of one pass; see `share`."""
        return self.dense_ms[clock] * self.share(widths)

    def file_bytes(self, weight_bytes: float) -> float:
        """Return the bytes of the deployed file of a model whose weights have so many."""
        beside, each = self.file
        return beside + each * weight_bytes

    @property
    def note(self) -> str:
        """What a user should know of it, in a sentence or two."""
        found = self.accuracy
        how = (
            f"{self.target}: latencies are predicted from those of {found.networks} networks at random widths; of one "
            f"that was left out they are wrong by {found.median:.1%}, in nine of ten cases by less than "
            f"{found.ninth:.1%} (Kendall's tau {found.tau:.2f})"
        )
        return f"{how}; it is fastest at multiples of {self.multiple} channels" if self.is_stepped else how

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return {"of": _TAG, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyModel:
        """Rebuild what `to_json` returned."""
        known = {key: value for key, value in data.items() if key != "of"}
        works = tuple(LayerWork(**{**one, "width": tuple(one["width"])}) for one in data["works"])
        correction = None if data["correction"] is None else _correction(data["correction"])
        accuracy = Accuracy(**data["accuracy"])
        return cls(
            **{**known, "works": works, "correction": correction, "accuracy": accuracy, "file": tuple(data["file"])}
        )


LatencyPredictor: TypeAlias = LatencyTable | LatencyModel
"""What predicts the latency of a model before it is trained."""


def latency_predictor(data: Mapping[str, Any]) -> LatencyPredictor:
    """Rebuild what the ``to_json`` of either returned; that of a table has no tag, as journals had it first."""
    return LatencyModel.from_json(data) if data.get("of") == _TAG else LatencyTable.from_json(data)


def quantities(works: Sequence[LayerWork], widths: Widths, step: int, even: int = 1) -> dict[str, float]:
    """Return what the time of a network may go along with, each as a share of all that there is in the dense network.

    A constant; the multiply-adds of each kind of layer, the numbers that layers put out, and the weights: all where
    `step` is above 1 with channels rounded up to its multiples. And of layers whose output channels are no multiple of
    `even` the numbers that they put out, which are brought into another order, and the multiply-adds of depthwise
    ones, for which a runtime may have no fast operator then.
    """
    return _shares(_totals(works, widths, step, even), _totals(works, {}, step, 0))


def _shares(left: Mapping[str, float], whole: Mapping[str, float]) -> dict[str, float]:
    return {"constant": 1.0, **{name: left.get(name, 0.0) / total for name, total in whole.items() if total}}


def _totals(works: Sequence[LayerWork], widths: Widths, step: int, even: int) -> dict[str, float]:
    """Return each quantity; with an `even` of 0 all layers count as uneven."""
    found: dict[str, float] = {}
    for work in works:
        width = widths.get(work.name, work.width)
        for name, amount in _amounts(work, width, step):
            found[name] = found.get(name, 0.0) + amount
        if work.kind in _UNEVEN and (not even or width[1] % even):
            for name, amount in _amounts(work, width, 1):
                if name in ("depthwise", "outputs"):
                    found[f"uneven {name}"] = found.get(f"uneven {name}", 0.0) + amount
    return found


def _amounts(work: LayerWork, width: tuple[int, int], step: int) -> list[tuple[str, float]]:
    inputs, outputs = width
    if step > 1:  # a single input channel is that of a depthwise convolution
        inputs, outputs = -(-inputs // step) * step if work.width[0] > 1 else 1, -(-outputs // step) * step
    if work.kind == "fused":
        return []
    if work.kind == "norm":
        return [("norms", work.positions * outputs)]
    weights = work.kernel * inputs * outputs
    return [(work.kind, work.positions * weights), ("outputs", work.positions * outputs), ("weights", weights)]


def output_shares(works: Sequence[LayerWork], widths: Widths) -> dict[str, float]:
    """Return the output width of each layer as a share of the dense one."""
    return {work.name: widths.get(work.name, work.width)[1] / work.width[1] for work in works}


def _correction(data: Mapping[str, Any]) -> Correction:
    points = tuple(map(tuple, data["points"]))
    return Correction(tuple(data["layers"]), data["length"], points, tuple(data["weights"]))
