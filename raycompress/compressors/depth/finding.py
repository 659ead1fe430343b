"""Finds the residual blocks of a model, by what one forward pass computes: modules whose output is x + f(x)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from raycompress.bundle.example import Example, evaluating
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.depth.dropped_block import input_of
from raycompress.compressors.masking.masks import unhooked
from raycompress.compressors.measure.sizes import first_of_batch
from raycompress.compressors.structure.axes.call import flat
from raycompress.compressors.structure.axes.recorder import unchanged

_PASSING = frozenset(
    [
        *["alias", "clone", "contiguous", "detach", "_to_copy", "lift_fresh"],
        *["relu", "hardtanh", "leaky_relu", "gelu", "silu", "hardswish", "elu"],
        *["native_layer_norm", "_fused_rms_norm", "native_group_norm"],
        *["native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"],
    ]
)
"""Operations behind an addition that a residual path goes through: copies, activations, norms."""
_MOVING = frozenset(
    ["view", "_unsafe_view", "reshape", "permute", "transpose", "t", "squeeze", "unsqueeze", "roll", "slice"]
)
"""Operations that move values to other places: the way back to where they were has to follow."""


@dataclass(frozen=True)
class ResidualBlock:
    """A module that can be dropped: its input is of the shape of its output, and a path of additions leads there.

    Attributes
    ----------
    name
        As in ``model.named_modules()``.
    type
        Its class name.
    returns
        See `raycompress.compressors.depth.dropped_block.DroppedBlock`.
    """

    name: str
    type: str
    returns: int


def residual_blocks(model: nn.Module, example: Example) -> list[ResidualBlock]:
    """Return the residual blocks of `model`, in its order, as one pass in eval mode shows them; none inside another.

    A block is a module that is called once with a tensor x, returns one of the same shape and type (alone, or in a
    tuple with None), and computes x + f(x): from x to the result leads a path of additions, behind which activations
    and norms may stand. Of modules inside each other that are so, the outermost is the block that adds something
    itself: a stage that only calls blocks in turn is none, and the attention of a layer is a part of it.
    """
    stream = _Stream()
    one = first_of_batch(example)
    with unhooked(model), evaluating(model), unchanged(model), stream.watching(model), torch.no_grad(), stream:
        one.call(model)
    return list(_outermost(model, "", stream.paths()))


def _outermost(module: nn.Module, name: str, paths: Mapping[str, _Path]) -> Iterator[ResidualBlock]:
    for key, child in module.named_children():
        inner = f"{name}.{key}".lstrip(".")
        path = paths.get(inner)
        if path is not None and path.adds - _added_inside(inner, paths):
            yield ResidualBlock(inner, type(child).__name__, path.returns)
        else:
            yield from _outermost(child, inner, paths)


def _added_inside(name: str, paths: Mapping[str, _Path]) -> frozenset[int]:
    """Return the additions that are those of residual modules inside the module `name`."""
    return frozenset().union(*(path.adds for inner, path in paths.items() if inner.startswith(f"{name}.")))


@dataclass(frozen=True)
class _Path:
    """A way from the input of a module's call to a tensor.

    Attributes
    ----------
    adds
        The additions on it that add what was computed from the input.
    places
        Where each value of the tensor stood in the input; None for where it stands.
    returns
        Of the whole way: see `ResidualBlock`.
    """

    adds: frozenset[int] = frozenset()
    places: Tensor | None = None
    returns: int = 0


@dataclass
class _Call:
    """A call of a module that has not returned yet."""

    number: int
    name: str
    shape: torch.Size
    dtype: torch.dtype


_Paths = dict[int, _Path]
"""Number of a call -> the way from its input."""


@dataclass
class _Tracks:
    """What is known of the tensors that are alive: the ways that lead to each, and the calls whose inputs it is of."""

    ways: Any = field(default_factory=WeakTensorKeyDictionary)
    origins: Any = field(default_factory=WeakTensorKeyDictionary)

    def of(self, tensor: Any) -> _Paths:
        found: _Paths = self.ways.get(tensor, {}) if isinstance(tensor, Tensor) else {}
        return found

    def calls(self, tensor: Any) -> frozenset[int]:
        found: frozenset[int] = self.origins.get(tensor, frozenset()) if isinstance(tensor, Tensor) else frozenset()
        return found

    def begin(self, tensor: Tensor, number: int) -> None:
        self.ways[tensor] = {**self.of(tensor), number: _Path()}
        self.origins[tensor] = self.calls(tensor) | {number}


class _Stream(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the inputs of all modules through the operations of a pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracks = _Tracks()
        self._open: list[_Call | None] = []
        self._ended: dict[str, list[_Path | None]] = {}
        self._count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its whole compiler to keep it away from here

    def paths(self) -> dict[str, _Path]:
        """Return module -> the way from its input to its output, of those that were called once and have one."""
        return {name: ways[0] for name, ways in self._ended.items() if len(ways) == 1 and ways[0] is not None}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Have the calls of all modules of `model` noted."""
        with ExitStack() as hooks:
            for name, module in model.named_modules():
                before = module.register_forward_pre_hook(
                    lambda one, args, kwargs, name=name: self._enter(name, input_of(one, args, kwargs)),
                    with_kwargs=True,
                    prepend=True,
                )
                after = module.register_forward_hook(
                    lambda _one, _args, output, name=name: self._leave(name, output), always_call=True
                )
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            yield

    def _enter(self, name: str, x: Any) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            self._open.append(None)
            return
        self._count += 1
        self._open.append(_Call(self._count, name, x.shape, x.dtype))
        self._tracks.begin(x, self._count)

    def _leave(self, name: str, output: Any) -> None:
        call, found = self._open.pop(), self._ended.setdefault(name, [])
        members = list(output) if type(output) in (tuple, list) else [output]
        y = members[0] if members and all(member is None for member in members[1:]) else None
        way = self._tracks.of(y).get(call.number) if call is not None else None
        fits = call is not None and isinstance(y, Tensor) and (y.shape, y.dtype) == (call.shape, call.dtype)
        if way is None or not fits or not way.adds or not _is_in_place(way.places):
            found.append(None)
        else:
            found.append(_Path(way.adds, returns=0 if output is y else len(members)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outcome = func(*args, **(kwargs or {}))
        results = tensors_in(outcome) if isinstance(outcome, (Tensor, list, tuple)) else []
        if not results:
            return outcome
        open_ = {call.number for call in self._open if call is not None}
        origins = frozenset().union(*(self._tracks.calls(one) for one in flat((args, kwargs or {})))) & open_
        ways = self._ways(func, args, kwargs or {}, results[0])
        for place, result in enumerate(results):
            self._tracks.origins[result] = origins
            self._tracks.ways[result] = {} if place else {key: way for key, way in ways.items() if key in open_}
        return outcome

    def _ways(self, func: Any, args: Any, kwargs: Mapping[str, Any], result: Tensor) -> _Paths:
        """Return the ways that lead on to the first result of an operation."""
        name = func._schema.name.split("::")[-1].removesuffix("_")
        if name in _PASSING:
            return self._tracks.of(args[0])
        if name in _MOVING:
            return {key: _moved(way, func, args, kwargs) for key, way in self._tracks.of(args[0]).items()}
        if name in ("add", "sub", "addcmul"):
            self._count += 1
            found = self._added(args[0], args[1:], result)
            if name == "add" and kwargs.get("alpha", 1) == 1:
                found = {**self._added(args[1], args[:1], result), **found}
            return found
        return {}

    def _added(self, stream: Any, others: Any, result: Tensor) -> _Paths:
        """Return the ways through `stream`, to which `others` are added."""
        if not isinstance(stream, Tensor) or stream.shape != result.shape:
            return {}
        found: _Paths = {}
        for call, way in self._tracks.of(stream).items():
            is_own = any(call in self._tracks.calls(other) for other in others)
            along = [self._tracks.of(other).get(call, _Path()).adds for other in others]
            adds = way.adds.union(*along, {self._count}) if is_own else way.adds
            found[call] = _Path(adds, way.places)
        return found


def _moved(way: _Path, func: Any, args: Any, kwargs: Mapping[str, Any]) -> _Path:
    """Return a way behind an operation that moves values: the places of the values move alike."""
    places = torch.arange(args[0].numel()).reshape(args[0].shape) if way.places is None else way.places
    return _Path(way.adds, func(places, *args[1:], **kwargs))


def _is_in_place(places: Tensor | None) -> bool:
    return places is None or bool((places.flatten() == torch.arange(places.numel())).all())
