"""Reductions over channels while a model is masked: a mean over what stays, not over the zeros of what is removed.

LayerNorm, GroupNorm, RMSNorm, and whatever is written by hand with ``mean``, ``var`` and the like, compute over
channels. They are recognised by what they call, not by their class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Kept:
    """What stays of one reduction.

    Attributes
    ----------
    places
        Dimension -> the places along it that stay; dimensions that keep all are left out.
    whole
        Dimension -> its length before.
    """

    places: Mapping[int, Tensor]
    whole: Mapping[int, int]

    def __bool__(self) -> bool:
        return bool(self.places)


def _named(*names: str) -> list[Any]:
    return [
        function for name in names for owner in (torch, Tensor) if (function := getattr(owner, name, None)) is not None
    ]


_DIM_SECOND = frozenset(
    _named("mean", "sum", "var", "std", "var_mean", "std_mean", "amax", "amin", "nanmean", "logsumexp", "prod")
)
_DIM_THIRD = frozenset([*_named("norm"), torch.linalg.norm, torch.linalg.vector_norm])
_LAST = frozenset([functional.layer_norm, functional.rms_norm, torch.layer_norm, torch.rms_norm])


_OF_ONE_SHAPE = frozenset([functional.normalize, functional.batch_norm])


def reduced_by(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[int, ...]] | None:
    """Return the tensor that a call reduces and the dimensions, counted from 0; None for every other function."""
    tensor = args[0] if args else kwargs.get("input", kwargs.get("x"))
    if not isinstance(tensor, Tensor):
        return None
    if function in _LAST:
        count = len(args[1] if len(args) > 1 else kwargs["normalized_shape"])
        return tensor, tuple(range(tensor.dim() - count, tensor.dim()))
    if function is functional.group_norm:
        return tensor, (1,)
    if function is functional.batch_norm:  # some standardize their weights by it: (1, filters, weights of each)
        by_batch = kwargs.get("training", args[5] if len(args) > 5 else False)
        return (tensor, (0, *range(2, tensor.dim()))) if by_batch else None
    if function is functional.normalize:
        dims: Any = args[2] if len(args) > 2 else kwargs.get("dim", 1)
    elif function in _DIM_SECOND:
        dims = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    elif function in _DIM_THIRD:
        dims = kwargs.get("dim", args[2] if len(args) > 2 else None)
    else:
        return None
    if dims is None or isinstance(dims, bool) or dims in ((), []):
        dims = range(tensor.dim())
    found = (dims,) if isinstance(dims, int) else tuple(dims)
    if not all(isinstance(dim, int) for dim in found):
        return None
    return tensor, tuple(dim % max(1, tensor.dim()) for dim in found)


def over_kept(function: Callable[..., Any], kept: Kept, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a reduction computes over the places that stay; zeros at the others where it returns all of them."""
    whole = args[0] if args else kwargs.get("input", kwargs.get("x"))
    assert isinstance(whole, Tensor)
    part = whole
    for dim, places in kept.places.items():
        part = part.index_select(dim, places.to(whole.device))
    if function in _LAST or function is functional.group_norm:
        small = _normed(function, part, next(iter(kept.places.values())).to(whole.device), args, kwargs)
    else:
        named = {key: value for key, value in kwargs.items() if key not in ("input", "x")}
        small = function(part, *args[1:], **named)
        if function not in _OF_ONE_SHAPE:
            return small
    for dim, places in kept.places.items():
        shape = [*small.shape[:dim], whole.shape[dim], *small.shape[dim + 1 :]]
        small = small.new_zeros(shape).index_copy(dim, places.to(small.device), small)
    return small


def _normed(function: Any, part: Tensor, kept: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    names = ["input", "num_groups" if function is functional.group_norm else "normalized_shape", "weight"]
    names += ["eps"] if function in (functional.rms_norm, torch.rms_norm) else ["bias", "eps"]
    given = {**dict(zip(names, args, strict=False)), **kwargs, "input": part}
    for name in ("weight", "bias"):
        if given.get(name) is not None:
            given[name] = given[name][kept]
    if function is not functional.group_norm:
        given["normalized_shape"] = (len(kept),)
    given.pop("cudnn_enabled", None)
    plain = {torch.layer_norm: functional.layer_norm, torch.rms_norm: functional.rms_norm}.get(function, function)
    result: Tensor = plain(given.pop("input"), given.pop(names[1]), **given)
    return result


class _Counting(TorchFunctionMode):
    """Replaces the reductions of one call of a module."""

    def __init__(self, calls: Sequence[Kept]) -> None:
        super().__init__()
        self.calls = calls
        self.depth = 0  # of modules inside the module, whose reductions are their own
        self._place = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reduced = None if self.depth else reduced_by(func, args, kwargs)
        if reduced is None:
            return func(*args, **kwargs)
        place, self._place = self._place, self._place + 1
        kept = self.calls[place] if place < len(self.calls) else None
        if not kept or any(_length(reduced[0], dim) != length for dim, length in kept.whole.items()):
            return func(*args, **kwargs)
        return over_kept(func, kept, args, kwargs)


def _length(tensor: Tensor, dim: int) -> int:
    return tensor.shape[dim] if dim < tensor.dim() else 0


class ReductionHook:
    """Forward pre-hook of a module that reduces over channels: its reductions leave out what is removed.

    Parameters
    ----------
    eval_calls, train_calls
        For each reduction of one call of the module, in order, what stays; empty where all does.
    """

    def __init__(self, eval_calls: Sequence[Kept], train_calls: Sequence[Kept]) -> None:
        self.eval_calls, self.train_calls = eval_calls, train_calls
        self.running: list[_Counting] = []

    def __call__(self, module: nn.Module, _inputs: Any) -> None:
        """Start, before the module computes."""
        mode = _Counting(self.train_calls if module.training else self.eval_calls)
        mode.__enter__()  # type: ignore[no-untyped-call]
        self.running.append(mode)

    def __reduce__(self) -> tuple[Any, ...]:
        return ReductionHook, (self.eval_calls, self.train_calls)


class ReductionEnd:
    """Forward hook that ends what a `ReductionHook` started."""

    def __init__(self, start: ReductionHook) -> None:
        self.start = start

    def __call__(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        """End, also where the module raised."""
        if self.start.running:
            self.start.running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


class InsideHook:
    """Forward pre-hook and forward hook of the modules inside such a module."""

    def __init__(self, start: ReductionHook, step: int) -> None:
        self.start, self.step = start, step

    def __call__(self, *_args: Any) -> None:
        """Count one level down, or up."""
        if self.start.running:
            self.start.running[-1].depth += self.step


def hold_reductions(model: nn.Module, calls: Mapping[str, tuple[Sequence[Kept], Sequence[Kept]]]) -> None:
    """Make modules reduce over what stays, until their hooks are removed.

    Parameters
    ----------
    calls
        Module -> what stays in each reduction of a call of it, in eval mode and in train mode.
    """
    for name, (evaluated, trained) in calls.items():
        module = model.get_submodule(name)
        start = ReductionHook(evaluated, trained)
        module.register_forward_pre_hook(start)
        module.register_forward_hook(ReductionEnd(start), always_call=True)
        for child in module.children():
            child.register_forward_pre_hook(InsideHook(start, 1), prepend=True)
            child.register_forward_hook(InsideHook(start, -1), always_call=True)
