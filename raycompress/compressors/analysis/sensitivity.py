"""The sensitivity of each layer: it is pruned alone, without training, and the model is measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.catalog.rounding import removed_count
from raycompress.compressors.analysis.calls import Calls
from raycompress.compressors.analysis.statistics import recompute_statistics
from raycompress.compressors.analysis.targets import METHODS, Masks, SensitivityTarget
from raycompress.compressors.create import closest
from raycompress.errors import CompressionError, UsageError
from raycompress.results.analysis.data import Curve, Sensitivity

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Evaluate = Callable[[nn.Module], Any]
Progress = Callable[[int, int, str], None]
"""Called with how many measurements are done, how many there are, and the layer that is next."""


def layer_sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    dummy_input: Any = None,
    sparsities: Sequence[float] = SPARSITIES,
    method: str = "l1",
    layers: Iterable[str] | None = None,
    recompute_bn: bool = False,
    samples: int = 512,
    metric: str = "what evaluate(model) returns",
    progress: Progress | None = None,
) -> Sensitivity:
    """Prune each layer alone, at each sparsity, and return the metric's curve for each.

    Layers whose channels are tied are pruned together, and have one curve. The one layer that gives the model's outputs
    has none. The model is changed while this runs, and left as it was.

    Parameters
    ----------
    model, evaluate
        A trained model; ``evaluate(model)`` returns the metric: of a tuple or list the first member counts.
    dummy_input
        An input: a tensor with the batch first, a tuple of arguments, or a dict of keyword arguments; left out, the
        first that `evaluate` calls the model with.
    sparsities
        Shares to remove, above 0 and below 1; see `raycompress.catalog.rounding.removed_count`.
    method
        ``l1``: the channels with the smallest L1 norms go, from convolutions and linear layers; ``level``: the smallest
        single weights go, from any layer with a weight.
    layers
        Only these; a tied one brings the others of its set along.
    recompute_bn, samples
        Recompute BatchNorm's running statistics before each measurement, from the first `samples` samples that
        `evaluate` calls the model with: nearer to what fine-tuning will recover.
    metric, progress
        Name of the metric, for tables and plots; what is called before each measurement and at the end.

    Raises
    ------
    CompressionError
        No layer can be pruned, the channels cannot be followed, no input is known, or `evaluate` returns no number.
    UsageError
        A wrong sparsity, method or layer.
    """
    shares = _checked(sparsities, method)
    with _left_as_it_was(model) as restore:
        dense, calls = _measured_dense(model, evaluate, samples if recompute_bn else 1, restore)
        measure = _Measurement(model, evaluate, calls.batches if recompute_bn else [], restore)
        units = METHODS[method](model, _example(model, dummy_input, calls))
        chosen = _chosen(model, units, layers)
        counter = _ProgressCounter(progress, len(chosen) * len(shares))
        curves = [_curve(unit, shares, dense, measure, counter) for unit in chosen]
        counter.next("")
    left_out = {layer: unit.fixed for unit in units if unit.fixed for layer in unit.layers}
    return Sensitivity(metric, method, dense, shares, tuple(curves), left_out)


def _measured_dense(
    model: nn.Module, evaluate: Evaluate, samples: int, restore: Callable[[], None]
) -> tuple[float, Calls]:
    """Return the metric of the model as it is, and the first inputs that it was measured with."""
    calls = Calls(samples).watch(model)
    try:
        dense = number(evaluate(model))
    finally:
        calls.cancel()
        restore()
    if not math.isfinite(dense):
        raise CompressionError(f"the metric of the dense model is {dense}", fix="let evaluate(model) return a number")
    return dense, calls


@dataclass(frozen=True)
class _Measurement:
    """Measures the model under masks; with `batches`, once BatchNorm's statistics are recomputed from these."""

    model: nn.Module
    evaluate: Evaluate
    batches: Sequence[Any]
    restore: Callable[[], None]

    def __call__(self, masks: Masks) -> float:
        try:
            masks.apply(self.model)
            if self.batches:
                recompute_statistics(self.model, self.batches)
            return number(self.evaluate(self.model))
        finally:
            masks.release(self.model)
            self.restore()


def _curve(
    unit: SensitivityTarget,
    shares: Sequence[float],
    dense: float,
    measure: Callable[[Masks], float],
    counter: _ProgressCounter,
) -> Curve:
    known = {0: dense}
    counts, values = [], []
    for masks in unit.masks([removed_count(unit.size, share) for share in shares]):
        counter.next(unit.layers[0])
        if masks.size not in known:
            known[masks.size] = measure(masks)
        counts.append(masks.size)
        values.append(known[masks.size])
    return Curve(unit.layers, unit.size, tuple(counts), tuple(values))


class _ProgressCounter:
    """Counts the measurements, and reports them to `Progress`."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = itertools.count()

    def next(self, layer: str) -> None:
        """Report the layer that is measured next."""
        done = next(self._done)
        if self._progress is not None:
            self._progress(done, self._total, layer)


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Yield a function that restores every weight, buffer and mode of `model`; it is called at the end as well."""
    tensors = [(tensor, tensor.detach().clone()) for tensor in itertools.chain(model.parameters(), model.buffers())]
    flags = [(module, module.training) for module in model.modules()]
    devices = [tensor.device for tensor, _ in tensors if tensor.device.type == "cuda"][:1]

    def restore() -> None:
        for tensor, kept in tensors:
            tensor.data.copy_(kept)
        for module, training in flags:
            module.training = training

    with torch.random.fork_rng(devices=devices):
        try:
            yield restore
        finally:
            restore()


def number(answer: Any) -> float:
    """Return an evaluator's answer as a float; raises CompressionError where it is no number."""
    first = answer[0] if isinstance(answer, (tuple, list)) and answer else answer
    try:
        return float(first)
    except (TypeError, ValueError):
        raise CompressionError(
            f"the evaluator returned no number but {first!r:.60}",
            fix="let evaluate(model) return the metric, or a tuple that starts with it",
        ) from None


def _example(model: nn.Module, dummy_input: Any, calls: Calls) -> Example | None:
    if dummy_input is not None:
        return dummy_input if isinstance(dummy_input, Example) else Example.for_model(dummy_input, model)
    return calls.batches[0].first() if calls.batches else None


def _checked(sparsities: Sequence[float], method: str) -> tuple[float, ...]:
    if method not in METHODS:
        raise UsageError(f'unknown method "{method}"', fix=f"the methods are {', '.join(METHODS)}")
    wrong = [share for share in sparsities if not 0 < share < 1]
    if wrong or not sparsities:
        what = f"a sparsity is above 0 and below 1, not {wrong[0]:g}" if wrong else "no sparsity is given"
        raise UsageError(what, where="sparsities", fix="write shares, such as 0.1, 0.3, 0.5")
    return tuple(sorted({float(share) for share in sparsities}))


def _chosen(
    model: nn.Module, units: Sequence[SensitivityTarget], layers: Iterable[str] | None
) -> list[SensitivityTarget]:
    free = [unit for unit in units if not unit.fixed]
    if not free:
        why = f": {units[0].fixed}" if units else ""
        raise CompressionError(
            f"{type(model).__name__} has no layer that can be pruned{why}",
            fix="an analysis needs a convolution or a linear layer before the one that gives the model's outputs",
        )
    if layers is None:
        return free
    wanted = list(layers)
    known: Mapping[str, SensitivityTarget] = {layer: unit for unit in units for layer in unit.layers}
    for layer in wanted:
        if layer not in known:
            fix = closest(layer, known) or "the layers are " + ", ".join(list(known)[:20])
            raise UsageError(f'"{layer}" is no layer that can be pruned', where="layers", fix=fix)
        if known[layer].fixed:
            raise UsageError(f'"{layer}" cannot be pruned: {known[layer].fixed}', where="layers")
    return [unit for unit in free if set(unit.layers) & set(wanted)]
