"""Where two models that should compute the same part: the first operation whose result differs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from raycompress.bundle.calling import running_modules
from raycompress.bundle.example import Example, evaluating
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.structure.axes.call import raised_at, source_line

_DIFFERENT = 1e-3
"""Relative difference of two norms."""


@dataclass(frozen=True)
class _Step:
    """One operation of a pass.

    Attributes
    ----------
    where
        The operation, its module and its source line.
    count
        How many of the same came before it.
    norm
        L2 norm of all that it returned: what a mask has set to zero adds nothing to it.
    inputs
        Indices of the steps whose results it was given.
    """

    where: str
    count: int
    norm: float
    inputs: tuple[int, ...]


class _Pass(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations of one forward pass, and which of them raised an exception.

    Attributes
    ----------
    steps
        The operations in order.
    outputs
        Indices of the steps that made the model's outputs.
    failed
        Where the pass broke off; empty where it did not.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[_Step] = []
        self.outputs: list[int] = []
        self.failed = ""
        self._running = [""]
        self._counts: Counter[str] = Counter()
        self._makers: Any = WeakTensorKeyDictionary()
        try:
            with evaluating(model), torch.no_grad(), running_modules(model) as self._running, self:
                self.outputs = self._steps_of(tensors_in(example.call(model)))
        except Exception as error:  # noqa: BLE001 - whatever the user's forward raises
            self.failed = self.failed or raised_at(error)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its whole compiler to keep it away from here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = tuple(self._steps_of(tensors_in([args, kwargs or {}])))
        module = self._running[-1]
        where = func._schema.name.split("::")[-1] + (f' in "{module}"' if module else "") + source_line()
        try:
            outcome = func(*args, **(kwargs or {}))
        except Exception:
            self.failed = f"at {where}"
            raise
        results = tensors_in(outcome) if isinstance(outcome, (Tensor, list, tuple)) else []
        for result in results:
            self._makers[result] = len(self.steps)
        norm = sum(float(torch.linalg.vector_norm(result.double())) for result in results if _has_norm(result))
        self.steps.append(_Step(where, self._counts[where], norm, inputs))
        self._counts[where] += 1
        return outcome

    def _steps_of(self, tensors: list[Tensor]) -> list[int]:
        return [self._makers[tensor] for tensor in tensors if tensor in self._makers]


def _has_norm(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_complex() and not tensor.is_nested


def parting(first: nn.Module, second: nn.Module, example: Example) -> str:
    """Return where the second model fails, or the first operation whose result is another one than in the first model.

    Of those that differ the first is meant on the way to the outputs: where a difference is lost again, as that of
    ``sigmoid(0)`` is in a product with weights of zero, nothing is wrong.

    Parameters
    ----------
    first
        The masked model.
    second
        The sliced model.
    """
    full, small = _Pass(first, example), _Pass(second, example)
    if small.failed:
        return small.failed
    known = {(step.where, step.count): step.norm for step in small.steps}
    differs: list[bool] = []
    for step in full.steps:
        norm = known.get((step.where, step.count))
        if norm is None:  # hooks compute a norm over channels in another way while the model is masked
            differs.append(any(differs[index] for index in step.inputs))
        else:
            differs.append(not abs(step.norm - norm) <= _DIFFERENT * max(step.norm, norm, 1e-12))
    open_ = [index for index in full.outputs if differs[index]]
    seen, found = set(open_), []
    while open_:
        step = full.steps[index := open_.pop()]
        earlier = {one for one in step.inputs if differs[one]}
        if not earlier:
            found.append(index)
        open_ += earlier - seen
        seen |= earlier
    return f"from {full.steps[min(found)].where} on" if found else "at the model's output"
