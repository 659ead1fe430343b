"""Measures the times of a model's layers at the widths that pruning can reach, one layer at a time."""

from __future__ import annotations

import copy
import itertools
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.cost import clock_of, layer_times
from raycompress.compressors.layer_kinds import is_transposed_linear
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure import timing
from raycompress.compressors.measure.timing import Latency, Times
from raycompress.compressors.structure.graph import clean_copy
from raycompress.model.latency_table import LatencyTable, LayerLatency
from raycompress.script import node

_POINTS = (5, 4, 3, 2)
"""Widths along an axis, as many as there is time for."""
_NARROWEST = 8
"""The narrowest is this part of the dense one."""

Axes = tuple[tuple[int, ...], ...]
Clock = Callable[[], float]


def latency_table(model: nn.Module, dummy_input: Any, *, round_to: int = 8, budget_s: float = 10.0) -> LatencyTable:
    """Measure the convolutions, linear layers and norms of `model` at a grid of widths, for a batch of one.

    Each layer meets an input as it has in the model; layers that are alike are measured once. One torch thread.

    Parameters
    ----------
    model
        The dense model; it is left as it is.
    dummy_input
        A tensor with the batch first, a tuple of arguments, or a dict of keyword arguments.
    round_to
        Widths are multiples of it.
    budget_s
        Approximate limit of seconds: where they are short the grid is coarser, down to its corners. Some fifty
        passes of the model are made in any case.
    """
    given = dummy_input if isinstance(dummy_input, Example) else Example.for_model(dummy_input, model)
    example = measure.first_of_batch(given.with_least(model))
    end = time.monotonic() + budget_s
    dense = measure.latencies([model, clean_copy(model)], example, seconds=budget_s / 8)[0]  # in turn, as in a trial
    alone = measure.latencies([model], example, seconds=budget_s / 8)[0]
    rounds = min(30, max(3, int(125 * budget_s / alone.wall_ms)))
    inside, _ = layer_times(model, example, rounds, warm_up=2)
    now = clock_of(model)
    sites = _sites(model, example)
    with node.locked(node.MEASURING), _one_thread():
        grids = _grids(sites, round_to, now, end)
    layers = tuple(_latency(site, *grids[site.kind], 1e3 * inside[site.name]) for site in sites)
    whole = alone.cpu_ms if now is time.thread_time else alone.wall_ms
    rest = max(0.0, whole - sum(layer.ms[-1] for layer in layers))
    return LatencyTable(_device(model), layers, rest, {"latency_ms": dense.wall_ms, "cpu_ms": dense.cpu_ms})


def _latency(site: _Site, axes: Axes, ms: Sequence[float], inside: float) -> LayerLatency:
    """Scale the times of a layer measured alone so that the dense one has `inside`, its time in the model.

    Alone it finds its weights in the cache, from which the layers before it displace them in the model.
    """
    return LayerLatency(site.name, axes, tuple(one * inside / ms[-1] for one in ms), site.outputs)


@dataclass(frozen=True)
class _Site:
    """A layer in its model: the input of its first call, and the size of its output."""

    name: str
    layer: nn.Module
    input: Tensor
    outputs: int

    @property
    def kind(self) -> str:
        """A key that is equal for layers of equal times."""
        return f"{self.layer} {tuple(self.input.shape)} {self.input.dtype}"


def _sites(model: nn.Module, example: Example) -> list[_Site]:
    """Call the model, and return its layers that lose width with their channels."""
    found: dict[str, _Site] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if name not in found and inputs and isinstance(inputs[0], Tensor):
            found[name] = _Site(name, layer, inputs[0].detach().clone(), output.numel())

    handles = [
        layer.register_forward_hook(partial(note, name))
        for name, layer in model.named_modules()
        if _width(layer) is not None
    ]
    try:
        example.outputs(model)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _width(layer: nn.Module) -> tuple[int, ...] | None:
    """Return the channels along each axis that they are pruned by; None for a layer of another kind."""
    weight = layer._parameters.get("weight")
    if weight is None:
        return None  # or computed of other parameters at each call
    if isinstance(layer, nn.modules.conv._ConvNd):
        both = (layer.in_channels, layer.out_channels)
        passes_on = layer.groups == layer.in_channels == layer.out_channels > 1
        return both[:1] if passes_on else both if layer.groups == 1 else None
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if is_transposed_linear(layer):
        return tuple(weight.shape)
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    return tuple(weight.shape) if isinstance(layer, norms) and weight.dim() == 1 else None


def _axes(layer: nn.Module, round_to: int, points: int) -> Axes:
    """Return the widths to measure along each axis, spaced geometrically up to the dense one."""
    step = math.lcm(round_to, layer.num_groups) if isinstance(layer, nn.GroupNorm) else round_to
    return tuple(_spaced(full, step, points) for full in _width(layer) or ())


def _spaced(full: int, step: int, points: int) -> tuple[int, ...]:
    wanted = (full * _NARROWEST ** -(place / (points - 1)) for place in range(points))
    multiples = {max(1, round(width / step)) * step for width in wanted}
    return tuple(sorted({width for width in multiples if width < full} | {full}))


def _grids(sites: list[_Site], round_to: int, now: Clock, end: float) -> dict[str, tuple[Axes, list[float]]]:
    """Measure one layer of each kind, the fastest first; the time that it leaves goes to the others."""
    kinds = {site.kind: site for site in sites}
    seconds = {kind: _seconds(site, now) for kind, site in kinds.items()}
    grids = {}
    for number, kind in enumerate(sorted(kinds, key=seconds.__getitem__)):
        share = max(0.0, end - time.monotonic()) / (len(kinds) - number)
        grids[kind] = _grid(kinds[kind], round_to, now, seconds[kind], share)
    return grids


def _grid(site: _Site, round_to: int, now: Clock, seconds: float, share: float) -> tuple[Axes, list[float]]:
    """Measure one layer in about `share` seconds; all widths in turn, so that other load affects them alike."""
    for points in _POINTS:
        axes = _axes(site.layer, round_to, points)
        passes = math.prod(sum(width / axis[-1] for width in axis) for axis in axes)
        if (1 + timing.FEWEST) * passes * seconds <= share:
            break
    runs = [_narrowed(site, width) for width in itertools.product(*axes)]
    times: list[Times] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in timing.rounds(times, timing.FEWEST, 4 * timing.FEWEST, share):
        for run, measured in zip(runs, times, strict=True):
            spent = _once(run, now)
            measured.append((spent, spent))
    return axes, [Latency.of(measured).wall_ms for measured in times]


def _seconds(site: _Site, now: Clock) -> float:
    run = _narrowed(site, _width(site.layer) or ())
    return min(_once(run, now) for _ in range(3))


def _once(run: Callable[[], object], now: Clock) -> float:
    started = now()
    run()
    return now() - started


def _narrowed(site: _Site, width: tuple[int, ...]) -> Callable[[], object]:
    """Return a pass through the layer with its first channels alone."""
    layer = copy.copy(site.layer).eval()
    own: dict[str, Any] = {
        "_forward_hooks": {},
        "_forward_pre_hooks": {},
        **dict.fromkeys(("in_channels", "in_features", "nx"), width[0]),
        **dict.fromkeys(("out_channels", "out_features", "num_features", "num_channels", "nf"), width[-1]),
        "normalized_shape": width,
        "_parameters": {name: _cut(tensor, layer, width) for name, tensor in layer._parameters.items()},
        "_buffers": {name: _cut(tensor, layer, width) for name, tensor in layer._buffers.items()},
    }
    if len(width) == 1 and isinstance(layer, nn.modules.conv._ConvNd):
        own["groups"] = width[0]
    vars(layer).update({name: value for name, value in own.items() if name in vars(layer)})
    is_last = isinstance(layer, (nn.Linear, nn.LayerNorm)) or is_transposed_linear(layer)
    inputs = site.input.narrow(-1 if is_last else 1, 0, width[0]).clone()
    return partial(layer, inputs)


def _cut(tensor: Tensor | None, layer: nn.Module, width: tuple[int, ...]) -> Tensor | None:
    if tensor is None or not tensor.dim():
        return tensor
    if tensor.dim() == 1 or len(width) == 1:
        return tensor[: width[-1]].clone()
    is_transposed = getattr(layer, "transposed", False) or is_transposed_linear(layer)
    rows, columns = width if is_transposed else width[::-1]
    return tensor[:rows, :columns].clone()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.inference_mode(False):
            yield
    finally:
        torch.set_num_threads(threads)


def _device(model: nn.Module) -> str:
    if any(parameter.is_cuda for parameter in model.parameters()):
        return torch.cuda.get_device_name()
    return f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
