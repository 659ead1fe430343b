"""One operation that a forward pass executed, as its rule sees it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raycompress.compressors.structure.axes.atoms import AtomTable
from raycompress.compressors.structure.axes.labels import Labels

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_HERE = f"{Path(__file__).parent}{os.sep}"
_OURS = f"{Path(__file__).parents[3]}{os.sep}"


@dataclass
class Call:
    """One operation that was executed.

    Attributes
    ----------
    name
        Its name without namespace and overload, such as ``convolution``.
    function
        The operation.
    args, kwargs
        What it was given.
    results
        The tensors that it returned, flat.
    labels
        Returns the labels of a tensor.
    table
        Where couplings go.
    reason
        The operation and the module that runs it, for messages.
    sized
        Whether the sizes that Python gave are checked afterwards, so that parts of a tensor may change their lengths.
    """

    name: str
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Tensor]
    labels: Callable[[Any], Labels]
    table: AtomTable
    reason: str
    sized: bool = False

    def argument(self, name: str) -> Any:
        """Return an argument by its name in the operation's schema, its default where it was not given."""
        for place, argument in enumerate(self.function._schema.arguments):
            if argument.name == name:
                if name in self.kwargs:
                    return self.kwargs[name]
                return self.args[place] if place < len(self.args) else argument.default_value
        return None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return tuple(self.results[0].shape)

    def plain(self, *first: Labels) -> list[Labels]:
        """Return these labels for the first results and none for the others."""
        return [*first, *(Labels(tuple(result.shape)) for result in self.results[len(first) :])]


def source_line() -> str:
    """Return `` at FILE:LINE`` of the model's own code that called the operation that runs; empty where none did."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_TORCH, _HERE)):
        frame = frame.f_back
    name = frame.f_code.co_filename
    return "" if name.startswith(_OURS) else f" at {Path(name).name}:{frame.f_lineno}"


def raised_at(error: BaseException) -> str:
    """Return ``in FUNCTION at FILE:LINE`` of the innermost code but torch's and ours that an exception went through."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if not frame.f_code.co_filename.startswith((_TORCH, _OURS)):
            return f"in {frame.f_code.co_name} at {Path(frame.f_code.co_filename).name}:{line}"
    return f"at {type(error).__name__}"


def flat(value: Any) -> list[Any]:
    """Return the leaves of nested dictionaries, lists and tuples."""
    if isinstance(value, dict):
        return [leaf for member in value.values() for leaf in flat(member)]
    if isinstance(value, (list, tuple)):
        return [leaf for member in value for leaf in flat(member)]
    return [value]


def with_length(shape: Sequence[int], dim: int, length: int) -> tuple[int, ...]:
    """Return `shape` with another length of one dimension."""
    return tuple(length if place == dim else size for place, size in enumerate(shape))
