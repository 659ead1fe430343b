"""`SensitivityAnalysis` of the old tool: the sensitivity of each layer, as a table of layers and sparsities."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from raycompress.compressors.analysis.sensitivity import SPARSITIES, layer_sensitivity
from raycompress.compressors.create import closest
from raycompress.errors import StorageError, UsageError

_METHODS = {"l1": "l1", "level": "level", "fine-grained": "level"}
"""NNI's ``prune_type`` -> the method of `layer_sensitivity`."""

_STOPS: dict[str, Callable[[float, float, float], bool]] = {
    "minimize": lambda _dense, now, limit: now < limit,
    "maximize": lambda _dense, now, limit: now > limit,
    "dropped": lambda dense, now, limit: dense - now >= limit,
    "raised": lambda dense, now, limit: now - dense >= limit,
}
"""``early_stop_mode`` -> whether a layer is done, by the dense model's value, the value now, and the limit."""


class SensitivityAnalysis:
    """Prunes each layer alone, at each sparsity, and measures; on `raycompress.analysis.layer_sensitivity`.

    Layers whose channels are tied are pruned together, and have the same values.

    Parameters
    ----------
    model
        A trained model; it is left as it was.
    val_func
        Returns the metric; of a tuple the first member counts.
    sparsities
        Shares to remove, above 0 and below 1; by default 0.1 to 0.9.
    prune_type
        ``l1``, or ``fine-grained`` for single weights.
    early_stop_mode, early_stop_value
        When a layer is measured no further: ``minimize``, ``maximize``: its metric is below, above the value;
        ``dropped``, ``raised``: it has fallen, risen by the value against the dense model.

    Raises
    ------
    UsageError
        An unknown ``prune_type`` or ``early_stop_mode``, or a mode without its value.
    """

    def __init__(
        self,
        model: nn.Module,
        val_func: Callable[..., Any],
        sparsities: Sequence[float] | None = None,
        prune_type: str = "l1",
        early_stop_mode: str | None = None,
        early_stop_value: float | None = None,
    ) -> None:
        _check("prune_type", prune_type, _METHODS)
        if early_stop_mode is not None:
            _check("early_stop_mode", early_stop_mode, _STOPS)
            if early_stop_value is None:
                raise UsageError("early_stop_mode needs early_stop_value", where="SensitivityAnalysis")
        self._model, self._val_func = model, val_func
        self._sparsities = SPARSITIES if sparsities is None else tuple(sparsities)
        self._method = _METHODS[prune_type]
        self._mode, self._limit = early_stop_mode, float(early_stop_value or 0)
        self._columns: tuple[float, ...] = ()
        self.sensitivities: dict[str, dict[float, float]] = {}

    def analysis(
        self,
        val_args: Sequence[Any] | None = None,
        val_kwargs: Mapping[str, Any] | None = None,
        specified_layers: Iterable[str] | None = None,
    ) -> dict[str, dict[float, float]]:
        """Measure, and return layer -> {sparsity: metric}.

        Parameters
        ----------
        val_args, val_kwargs
            What ``val_func`` is called with.
        specified_layers
            Only these; a tied one brings the others of its set along.
        """
        watch = _Stopping(
            lambda: self._val_func(*(val_args or ()), **(val_kwargs or {})),
            self._is_enough,
        )
        found = layer_sensitivity(
            self._model,
            watch.evaluate,
            sparsities=self._sparsities,
            method=self._method,
            layers=specified_layers,
            progress=watch.next,
        )
        self._columns = tuple(found.sparsities)
        for curve in found.curves:
            row: dict[float, float] = {}
            for sparsity, value in zip(found.sparsities, curve.values, strict=True):
                row[sparsity] = value
                if self._is_enough(found.dense, value):
                    break
            self.sensitivities.update({layer: dict(row) for layer in curve.layers})
        return self.sensitivities

    def export(self, filepath: str | Path) -> None:
        """Write a CSV file with a row a layer and a column a sparsity; empty where a layer was measured no further."""
        try:
            with Path(filepath).open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["layername", *(f"{sparsity:g}" for sparsity in self._columns)])
                for layer, row in self.sensitivities.items():
                    writer.writerow([layer, *(row.get(sparsity, "") for sparsity in self._columns)])
        except OSError as error:
            raise StorageError(f"the table cannot be written: {error.strerror}", where=str(filepath)) from error

    def _is_enough(self, dense: float, value: float) -> bool:
        return self._mode is not None and _STOPS[self._mode](dense, value, self._limit)


class _Stopping:
    """Evaluates until a layer is done; its further sparsities are not evaluated and have no value."""

    def __init__(self, evaluate: Callable[[], Any], is_enough: Callable[[float, float], bool]) -> None:
        self._evaluate = evaluate
        self._is_enough = is_enough
        self._dense: float | None = None
        self._layer = ""
        self._done = False

    def next(self, _done: int, _total: int, layer: str) -> None:
        """Note which layer is measured next."""
        if layer != self._layer:
            self._layer, self._done = layer, False

    def evaluate(self, _model: nn.Module) -> Any:
        """Return the metric; not a number where the layer is done."""
        if self._done:
            return float("nan")
        answer = self._evaluate()
        first = answer[0] if isinstance(answer, (tuple, list)) and answer else answer
        if isinstance(first, (int, float)) or hasattr(first, "__float__"):  # else layer_sensitivity raises the error
            value = float(first)
            if self._dense is None:
                self._dense = value
            else:
                self._done = self._is_enough(self._dense, value)
        return answer


def _check(name: str, given: str, known: Mapping[str, Any]) -> None:
    if given not in known:
        raise UsageError(
            f'{name} "{given}" is not known',
            where="SensitivityAnalysis",
            fix=closest(given, known) or f"use one of {', '.join(known)}",
        )
