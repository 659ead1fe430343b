"""Results of a layer analysis as plain data, with their JSON and CSV files. Imports no torch."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from raycompress.errors import StorageError


@dataclass(frozen=True)
class Curve:
    """The metric by the share that is removed from one layer, or from one set of tied layers.

    Attributes
    ----------
    layers
        The layers whose channels go together, in the model's order; most often one.
    size
        Channels (of method ``l1``) or weights (of ``level``) that the first of them has.
    removed
        How many of them are gone, at each sparsity.
    values
        The metric, at each sparsity; NaN where the pruned model gave that.
    """

    layers: tuple[str, ...]
    size: int
    removed: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        """The first layer, and how many are tied to it."""
        return self.layers[0] if len(self.layers) == 1 else f"{self.layers[0]} +{len(self.layers) - 1}"


@dataclass(frozen=True)
class Sensitivity:
    """The curves of a model's layers.

    Attributes
    ----------
    metric
        What the values are, in words.
    method
        ``l1``: channels with the smallest L1 norms go; ``level``: single weights of the smallest size.
    dense
        The metric of the untouched model.
    sparsities
        Shares that were removed, ascending.
    curves
        In the model's order.
    left_out
        Layer -> why it has no curve.
    """

    metric: str
    method: str
    dense: float
    sparsities: tuple[float, ...]
    curves: tuple[Curve, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def write_csv(self, path: str | Path) -> None:
        """Write one row a layer, tied ones each with the curve of their set, and one column a sparsity."""
        header = ["layer", "tied_with", "size", "0", *(f"{sparsity:g}" for sparsity in self.sparsities)]
        rows = [
            [layer, " ".join(other for other in curve.layers if other != layer), curve.size, self.dense, *curve.values]
            for curve in self.curves
            for layer in curve.layers
        ]
        _write(path, header, rows)


@dataclass(frozen=True)
class Dependency:
    """Which layers' output channels go together; every layer stands in one set, alone where nothing ties it."""

    sets: tuple[tuple[str, ...], ...]

    @property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """The sets of two layers or more."""
        return tuple(members for members in self.sets if len(members) > 1)

    def write_csv(self, path: str | Path) -> None:
        """Write one row a set: its number, then its layers, as NNI's ChannelDependency does."""
        rows = [[f"Set {number}", *members] for number, members in enumerate(self.sets, start=1)]
        _write(path, ["Dependency Set", "Layers"], rows)


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs, without the layers inside it.

    Attributes
    ----------
    name, type
        As in ``named_modules()``, and the class name.
    channels
        Output channels or features; 0 where it has none.
    params, flops
        Parameters, and multiply-adds for a batch of one.
    cpu_ms
        Median time of one call: of the calling thread's CPU, by the clock on a GPU.
    share
        Of the whole forward pass, measured in the same passes.
    """

    name: str
    type: str
    channels: int
    params: int
    flops: int
    cpu_ms: float
    share: float


@dataclass(frozen=True)
class ModelCost:
    """What a model costs, layer by layer.

    Attributes
    ----------
    layers
        Every layer that has parameters or ran, in the model's order.
    params, flops, size_bytes
        Of the whole model; a parameter that layers share counts once.
    latency_ms, cpu_ms
        Median of one forward pass for a batch of one on one thread: by the clock, and by the thread's CPU time.
    """

    layers: tuple[LayerCost, ...]
    params: int
    flops: int
    size_bytes: int
    latency_ms: float
    cpu_ms: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild it from plain JSON data; older versions wrote ``bytes`` for ``size_bytes``."""
        sizes = {"size_bytes" if name == "bytes" else name: value for name, value in data.items()}
        return cls(**{**sizes, "layers": tuple(LayerCost(**layer) for layer in data["layers"])})

    def write_csv(self, path: str | Path) -> None:
        """Write one row a layer, and the whole model last, under the empty name."""
        header = ["layer", "type", "channels", "params", "flops", "cpu_ms", "share"]
        rows = [list(asdict(layer).values()) for layer in self.layers]
        _write(path, header, [*rows, ["", "whole model", "", self.params, self.flops, self.cpu_ms, 1.0]])


@dataclass(frozen=True)
class Analysis:
    """The results of `raycompress analyze`.

    Attributes
    ----------
    model
        Class name.
    dependency
        None where the channels cannot be followed.
    notes
        What a person should know of it.
    """

    model: str
    sensitivity: Sensitivity
    dependency: Dependency | None
    cost: ModelCost
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, NaN as None; `from_json` is its inverse."""
        data: dict[str, Any] = _strict(asdict(self))
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what `to_json` returned."""
        sensitivity, cost, sets = data["sensitivity"], data["cost"], data["dependency"]
        curves = (
            Curve(tuple(one["layers"]), one["size"], tuple(one["removed"]), tuple(_number(v) for v in one["values"]))
            for one in sensitivity["curves"]
        )
        return cls(
            model=data["model"],
            sensitivity=Sensitivity(
                **{**sensitivity, "sparsities": tuple(sensitivity["sparsities"]), "curves": tuple(curves)},
            ),
            dependency=None if sets is None else Dependency(tuple(tuple(members) for members in sets["sets"])),
            cost=ModelCost.from_json(cost),
            notes=tuple(data["notes"]),
        )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _strict(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(member) for member in value]
    return value


def _write(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
    except OSError as error:
        raise StorageError(f"the table cannot be written: {error.strerror}", where=str(path)) from error
