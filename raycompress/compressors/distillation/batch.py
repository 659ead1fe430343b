"""Reads a batch of a loader as a call of the model, with the labels behind it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raycompress.bundle.structures import map_tensors, tensors_in
from raycompress.compressors.loaders import labels_in
from raycompress.errors import CompressionError


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes
    ----------
    args, kwargs
        What the model is called with.
    labels
        What the task's loss compares its answer with; None where the batch has none.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    labels: Any = None

    @classmethod
    def of(cls, item: Any, model: nn.Module) -> Batch:
        """Read a batch: inputs and then labels, a mapping of arguments by name, or a tensor.

        The first of a tuple may itself be a mapping, or a tuple of arguments. Of a mapping the members that ``forward``
        has no parameter for are left out; where it has none for any of them the mapping is its one argument.
        """
        labels = labels_in(item)
        if isinstance(item, (tuple, list)):
            inputs = tuple(item[:-1]) if len(item) > 1 else tuple(item)
            if len(inputs) == 1 and isinstance(inputs[0], Mapping):
                return cls(*_by_name(inputs[0], model), labels)
            if len(inputs) == 1 and isinstance(inputs[0], tuple):
                inputs = inputs[0]
            return cls(inputs, {}, labels)
        if isinstance(item, Mapping):
            return cls(*_by_name(item, model), labels)
        return cls((item,), {})

    def call(self, model: nn.Module) -> Any:
        """Return the answer of the model."""
        return model(*self.args, **self.kwargs)

    def cast(self, model: nn.Module) -> Batch:
        """Return the batch with floats of the type of the model's parameters."""
        dtype = next((one.dtype for one in model.parameters() if one.is_floating_point()), None)
        if dtype is None:
            return self

        def change(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        return Batch(map_tensors(self.args, change), map_tensors(dict(self.kwargs), change), self.labels)


def _by_name(item: Mapping[str, Any], model: nn.Module) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    parameters = inspect.signature(model.forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return (), item
    named = {key: value for key, value in item.items() if key in parameters}
    return ((), named) if named else ((item,), {})


def member(outputs: Any, *names: str) -> Any:
    """Return the first of the named members that a model's answer has: of a mapping, or an attribute; or None."""
    for name in names:
        found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if isinstance(outputs, Tensor):
            return None
        if isinstance(found, Tensor):
            return found
    return None


def logits_of(outputs: Any) -> Tensor:
    """Return the logits of a model's answer: ``logits`` or ``out`` where it has such, else its first tensor of floats.

    Raises
    ------
    CompressionError
        It holds no tensor of floats with a dimension besides the batch.
    """
    found: Tensor | None = member(outputs, "logits", "out")
    if found is None:
        found = next((one for one in tensors_in(outputs) if one.is_floating_point() and one.dim() > 1), None)
    if found is None:
        raise CompressionError(
            f"the model's answer, a {type(outputs).__name__}, holds no logits: no tensor of floats, batch first",
            where="rc.distill",
            fix="return them from forward(), alone, as the first of a tuple, or under the name logits",
        )
    return found
