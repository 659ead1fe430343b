"""Measures the size and the latency of a torch model."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raycompress.bundle.calling import without_fast_path, without_onednn
from raycompress.bundle.example import Example, distinct, evaluating
from raycompress.compressors.measure import timing
from raycompress.compressors.measure.timing import Latency, Times
from raycompress.script import node


@dataclass(frozen=True)
class Sizes:
    """Sizes of one model.

    Attributes
    ----------
    params
        Number of parameters; shared ones count once.
    flops
        Multiply-adds of one forward pass (torch's FLOP counter divided by 2), for a batch of one as the example has
        it: matrix products and convolutions; BatchNorm, activations and pooling count nothing.
    size_bytes
        Bytes of the weights as saved: parameters and buffers, shared ones once.
    """

    params: int
    flops: int
    size_bytes: int

    def to_json(self) -> dict[str, int]:
        """Return plain JSON data."""
        return asdict(self)


def sizes(model: nn.Module, example: Example) -> Sizes:
    """Return the sizes of `model`; `example` is one input of it."""
    return Sizes(parameters(model), flops(model, example)[""], size_bytes(model))


def parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_bytes(model: nn.Module) -> int:
    """Return the bytes of the state_dict's tensors, shared storage once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in distinct(model.state_dict()).values())


def flops(model: nn.Module, example: Example) -> dict[str, int]:
    """Return multiply-adds by module name; the whole model's under the empty name.

    Counted on a batch of one; for a model that needs more, on the fewest that it runs on, divided by their number.
    """
    one = first_of_batch(example)
    try:
        return _flops(model, one)
    except Exception:
        few = example.runnable(model) if example.batch > one.batch else None
        if few is None:
            raise
        return _flops(model, few)


def _flops(model: nn.Module, one: Example) -> dict[str, int]:
    samples = one.least
    counter = FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)
    is_recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    plain = without_onednn() if is_recurrent else nullcontext()
    with without_fast_path(), plain, evaluating(model), _frozen(model), torch.no_grad(), counter:
        one.call(model)
    counts = counter.get_flop_counts()
    root = type(model).__name__
    totals = {name: sum(counted.values()) // (2 * samples) for name, counted in counts.items()}
    by_module = {name.removeprefix(f"{root}."): total for name, total in totals.items() if name.startswith(f"{root}.")}
    return {**by_module, "": totals.get("Global", 0)}


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter want a gradient: torch's counter hooks what wants one, and fails on a view of a parameter."""
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in wanting:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad = True


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_rest: Any, **_more: Any) -> int:
    """Return the FLOPs of both products of an attention, by the shapes [batch, heads, length, width]."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _grouped(left: torch.Size, right: torch.Size, *_rest: Any, **_more: Any) -> int:
    """Return the FLOPs of the products of experts: each row of `left` with one matrix of `right`."""
    return 2 * math.prod(left) * right[-1]


# torch's counter knows the form of the operation on GPUs alone, so that on CPUs attention would cost nothing
_UNCOUNTED: dict[Any, Any] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""What torch's counter passes over -> its FLOPs by the shapes of its operands."""
if hasattr(torch.ops.aten, "_grouped_mm"):  # torch 2.6 has none
    _UNCOUNTED[torch.ops.aten._grouped_mm] = _grouped


def first_of_batch(example: Example) -> Example:
    """Return the example with a batch of one, or of the fewest that its model is known to need."""
    return example.part(0, example.least) if example.least > 1 else example.first()


def latencies(
    models: list[nn.Module],
    example: Example,
    rounds: int = 30,
    warm_up: int = 5,
    *,
    most: int = 240,
    seconds: float = 10.0,
) -> list[Latency]:
    """Measure the models in turn, round by round, so that other load on the machine affects all of them alike.

    One torch thread; eval mode, no gradients; nothing else of ours is measured on this machine meanwhile.

    Parameters
    ----------
    rounds, most, seconds
        Passes of each model at least and at most, and a bound of the time; see `timing.rounds`.
    warm_up
        Passes before them.
    """
    times: list[Times] = [[] for _ in models]
    on_cuda = any(tensor.is_cuda for model in models for tensor in model.parameters())
    threads = torch.get_num_threads()

    def call(model: nn.Module) -> None:
        example.call(model)
        if on_cuda:
            torch.cuda.synchronize()

    with node.locked(node.MEASURING):
        torch.set_num_threads(1)
        try:
            for number in itertools.chain(range(-warm_up, 0), timing.rounds(times, rounds, most, seconds)):
                for model, measured in zip(models, times, strict=True):
                    with evaluating(model), torch.no_grad():
                        once = timing.once(partial(call, model), time.thread_time)
                    if number >= 0:
                        measured.append(once)
        finally:
            torch.set_num_threads(threads)
    return [Latency.of(measured) for measured in times]


def layer_table(model: nn.Module, example: Example) -> tuple[int, int, list[dict[str, Any]]]:
    """Return (flops, parameters, one row for each layer with parameters of its own)."""
    by_module = flops(model, example)
    rows = []
    for name, module in model.named_modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if own:
            weight = getattr(module, "weight", None)
            rows.append(
                {
                    "name": name,
                    "module_type": type(module).__name__,
                    "weight_shape": tuple(weight.shape) if isinstance(weight, Tensor) else (),
                    "flops": by_module.get(name, 0),
                    "params": own,
                }
            )
    return by_module[""], parameters(model), rows
