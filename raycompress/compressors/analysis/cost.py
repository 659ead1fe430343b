"""What each layer of a model costs: parameters, multiply-adds, time."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example, evaluating
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.inspection import inspect
from raycompress.results.analysis.data import LayerCost, ModelCost


def model_cost(model: nn.Module, dummy_input: Any, *, rounds: int = 30, warm_up: int = 5) -> ModelCost:
    """Return the cost of `model`, layer by layer, for a batch of one, on one thread.

    FLOPs are torch's count divided by 2. A layer's share of the time leaves out the layers inside it; what the model
    computes outside of layers (``F.relu``, additions) is in nobody's, so that the shares add up to less than 1.

    Parameters
    ----------
    model
        It is left as it is.
    dummy_input
        A tensor with the batch first, a tuple of arguments, or a dict of keyword arguments.
    rounds, warm_up
        Forward passes that are measured, and passes before them.
    """
    example = dummy_input if isinstance(dummy_input, Example) else Example.for_model(dummy_input, model)
    one = measure.first_of_batch(example.with_least(model))
    flops = measure.flops(model, one)
    times, whole = layer_times(model, one, rounds, warm_up)
    known = {layer.name: layer for layer in inspect(model, one).layers}
    layers = []
    for name, module in model.named_modules():
        if name in known or (name in times and not any(module.children())):
            inside = sum(flops.get(f"{name}.{child}", 0) for child, _ in module.named_children())
            layer = known.get(name)
            layers.append(
                LayerCost(
                    name=name,
                    type=type(module).__name__,
                    channels=layer.channels if layer else 0,
                    params=layer.parameters if layer else 0,
                    flops=flops.get(name, 0) - inside,
                    cpu_ms=1e3 * times.get(name, 0.0),
                    share=times.get(name, 0.0) / whole if whole else 0.0,
                )
            )
    latency = measure.latencies([model], one, rounds, warm_up, most=rounds)[0]
    return ModelCost(
        tuple(layers),
        params=measure.parameters(model),
        flops=flops[""],
        size_bytes=measure.size_bytes(model),
        latency_ms=latency.wall_ms,
        cpu_ms=latency.cpu_ms,
    )


def layer_times(
    model: nn.Module, example: Example, rounds: int = 30, warm_up: int = 5
) -> tuple[Mapping[str, float], float]:
    """Return the median seconds of each module without those inside it, and of the whole pass."""
    clock = _Clock(clock_of(model))
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(clock.entering))
        handles.append(module.register_forward_hook(clock.leaving(name)))
    passes: list[dict[str, float]] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with evaluating(model), torch.no_grad():
            for _ in range(warm_up + rounds):
                clock.own.clear()
                example.call(model)
                passes.append(dict(clock.own))
    finally:
        torch.set_num_threads(threads)
        for handle in handles:
            handle.remove()
    measured = passes[warm_up:]
    names = {name for one in measured for name in one}
    whole = statistics.median(sum(one.values()) for one in measured)
    return {name: statistics.median(one.get(name, 0.0) for one in measured) for name in names}, whole


class _Clock:
    """Adds up the time in each module without that in the modules inside it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._open: list[list[float]] = []  # (start, time of the modules inside), the outermost first
        self.own: defaultdict[str, float] = defaultdict(float)

    def entering(self, _module: nn.Module, _inputs: object) -> None:
        """A module starts."""
        self._open.append([self._now(), 0.0])

    def leaving(self, name: str) -> Callable[[nn.Module, object, object], None]:
        """Return the hook that ends module `name`."""

        def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
            started, inside = self._open.pop()
            spent = self._now() - started
            self.own[name] += spent - inside
            if self._open:
                self._open[-1][1] += spent

        return leave


def clock_of(model: nn.Module) -> Callable[[], float]:
    """Return the clock for the seconds of a pass: CPU time, or wall time where the model is on CUDA."""
    if not any(parameter.is_cuda for parameter in model.parameters()):
        return time.thread_time

    def now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return now
