"""Compares two models that decide by numbers: which boxes are best, which expert a token goes to.

A detector sorts its boxes, and drops those that others cover. Where two scores are nearly equal, the least difference
of a sum of floats changes which of them comes first, and outputs that were sorted cannot be compared one by one. So the
second model is made to decide as the first one did, and what both decided by is compared as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from raycompress.bundle.example import Example
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference

_CHOOSING = frozenset(["topk", "sort", "max", "min", "median", "nanmedian", "mode", "kthvalue", "cummax", "cummin"])
"""Values along a dimension, and where they were."""
_ANSWERING = frozenset(
    [
        *["argmax", "argmin", "argsort", "nonzero", "nms", "bucketize", "searchsorted", "histc"],
        *["unique", "_unique", "_unique2", "unique_dim", "unique_consecutive"],
        *["gt", "lt", "ge", "le", "eq", "ne", "sign", "floor", "ceil", "round", "trunc", "fix", "floor_divide"],
    ]
)
"""Places, counts and comparisons."""


@dataclass(frozen=True)
class Decision:
    """One operation of which the result changes in leaps.

    Attributes
    ----------
    name
        The operation.
    inputs
        The floats that it was given.
    results
        What it answered.
    """

    name: str
    inputs: list[Tensor]
    results: list[Tensor]

    def fits(self, name: str, inputs: Sequence[Tensor]) -> bool:
        """Tell whether an operation of another model stands in the place of this one."""
        return self.name == name and [one.shape for one in self.inputs] == [one.shape for one in inputs]


class _Deciding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each decision; with those of another model, answers as that one did.

    Parameters
    ----------
    earlier
        The decisions of the other model, in order.
    """

    def __init__(self, earlier: Sequence[Decision] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.decisions: list[Decision] = []
        self.compared: list[tuple[Tensor, Tensor]] = []
        self._earlier = iter(earlier)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its whole compiler to keep it away from here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outcome = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        floats = [one for one in tensors_in([args, kwargs or {}]) if one.is_floating_point()]
        if not floats or not _is_decision(name, outcome):
            return outcome
        results = tensors_in(outcome)
        earlier = next(self._earlier, None)
        if earlier is not None and earlier.fits(name, floats):
            self.compared += zip(earlier.inputs, floats, strict=True)
            if name in _CHOOSING:
                results = _chosen(floats[0], earlier.results[1], _dim(func, args, kwargs or {}))
            else:
                results = [one.clone() for one in earlier.results]
            return type(outcome)(results) if isinstance(outcome, (list, tuple)) else results[0]
        self._earlier = iter(())  # from here on they do not run alike
        self.decisions.append(Decision(name, [one.clone() for one in floats], [one.clone() for one in results]))
        return outcome


class DecidedPass:
    """One pass of a model: what it answered, and how it decided.

    Attributes
    ----------
    outputs
        The output tensors.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        noting = _Deciding()
        with noting:
            self.outputs = example.outputs(model)
        self._example, self._decisions = example, noting.decisions

    def difference(self, second: nn.Module) -> float:
        """Return the relative difference of the outputs of another model, which is free to decide as this one did.

        Most models decide nothing, or alike anyway, so that one pass of the other model is enough.
        """
        same = self.difference_of_same(second) if self._decisions else math.inf
        if same <= TOLERANCE:
            return same
        return min(relative_difference(self.outputs, self._example.outputs(second)), same)

    def difference_of_same(self, second: nn.Module) -> float:
        """Return the relative difference of the outputs where `second` decides as this pass did.

        Where the numbers that they decide by differ by more, that is returned. It is infinite where nothing is decided,
        or where `second` cannot follow.
        """
        repeating = _Deciding(self._decisions)
        try:
            with repeating:
                found = self._example.outputs(second)
        except (RuntimeError, ValueError, IndexError):
            return math.inf
        if not repeating.compared:
            return math.inf
        numbers = [relative_difference([one], [two]) for one, two in repeating.compared]
        return max(relative_difference(self.outputs, found), *numbers, key=lambda number: (math.isnan(number), number))


def difference_of_same_decisions(first: nn.Module, second: nn.Module, example: Example) -> float:
    """Return the relative difference of the outputs where `second` decides as `first` does; see `DecidedPass`."""
    return DecidedPass(first, example).difference_of_same(second)


def choosing_operators(model: nn.Module, example: Example) -> list[str]:
    """Return the operators by which `model` sorts and selects on `example`, in order: ``topk``, ``sort``, ``nms``."""
    noting = _Deciding()
    with noting:
        example.outputs(model)
    chosen = (*_CHOOSING, "argmax", "argmin", "argsort", "nms")
    return list(dict.fromkeys(one.name for one in noting.decisions if one.name in chosen))


def _is_decision(name: str, outcome: Any) -> bool:
    if name in _CHOOSING:
        return isinstance(outcome, (list, tuple))
    is_cast = name == "_to_copy" and not outcome.is_floating_point()
    return is_cast or (name in _ANSWERING and bool(tensors_in(outcome)))


def _chosen(source: Tensor, places: Tensor, dim: int) -> list[Tensor]:
    """Return the values of `source` at places along a dimension, and these places."""
    places = places.clone()
    if source.dim() == 0:
        return [source.clone(), places]
    if places.dim() == source.dim():
        return [source.gather(dim, places), places]
    return [source.gather(dim, places.unsqueeze(dim)).squeeze(dim), places]


def _dim(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the dimension that an operation chooses along."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == "dim":
            default = -1 if argument.default_value is None else argument.default_value
            return int(kwargs.get("dim", args[place] if place < len(args) else default))
    return -1
