"""Which integers a forward pass writes into the shapes of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from raycompress.bundle.calling import without_onednn
from raycompress.compressors.structure.axes.call import source_line
from raycompress.compressors.structure.axes.labels import Block, Labels
from raycompress.compressors.structure.axes.sizes import (
    Attribute,
    AttributeSize,
    AxisSize,
    Expression,
    TracedInt,
    expression_of,
)

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import AtomTable, Ids

_SHAPED = frozenset(["view", "reshape", "expand", "unflatten", "view_copy"])
_CREATED = frozenset(["zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full"])
_COMPUTING = frozenset(
    f"{prefix}{name}{suffix}"
    for name in ("mul", "div", "true_divide", "truediv", "rdiv", "rmul", "pow", "multiply", "divide", "tensor")
    for prefix, suffix in (("", ""), ("", "_"), ("__", "__"), ("__i", "__"))
)
_CONVOLUTIONS = frozenset(f"conv{'_transpose' * t}{n}d" for t in (0, 1) for n in (1, 2, 3))


@dataclass(frozen=True, eq=False)
class SizeUse:
    """A size that was given to an operation.

    Attributes
    ----------
    expression
        The size, as far as its origin is known.
    axis
        Atoms along the dimension of the result that it is the length of.
    where
        The operation, its module and its line in the source.
    """

    expression: Expression
    axis: Ids
    where: str


class Recording(Protocol):
    """What the tracer needs of the recorder below it: labels of tensors, and the modules that run."""

    table: AtomTable
    modules: list[str]
    sized: bool

    def labels(self, tensor: Any) -> Labels:
        """Return the labels of a tensor."""

    def name(self, tensor: Tensor, labels: Labels) -> None:
        """Give a tensor labels."""


class SizeTracer(TorchFunctionMode):
    """Sees the calls of torch's functions with the very integers that Python passes.

    Parameters
    ----------
    recorder
        Follows the operations below.
    """

    def __init__(self, recorder: Recording) -> None:
        super().__init__()
        self.uses: list[SizeUse] = []
        self._recorder = recorder
        self._table = recorder.table
        self._labels = recorder.labels

    def __enter__(self) -> Self:
        TracedInt.compared, TracedInt.computed_with = self._compared, self._computed_with
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        TracedInt.compared = TracedInt.computed_with = None
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        self._recorder.sized = _is_sized(name, args)
        try:
            with without_onednn() if name == "lstm" else nullcontext():
                result = func(*args, **kwargs)
        finally:
            self._recorder.sized = False
        if name == "__get__":
            return self._shape(args[0], result) if isinstance(result, torch.Size) else result
        if name == "numel" and len(self._labels(args[0]).shape) == 1:
            return _traced(self._labels(args[0]), 0, result)
        if name == "size":
            return self._size(args, kwargs, result)
        if name in _COMPUTING:
            for value in args:
                if isinstance(value, TracedInt):
                    self._computed_with(value)
        if isinstance(result, (Tensor, tuple, list)):
            self._note(name, args, kwargs, result)
        return result

    def _compared(self, attribute: AttributeSize, size: AxisSize) -> None:
        self.uses.append(SizeUse(attribute, size.axis, f"a comparison{self._place()}"))

    def _computed_with(self, size: TracedInt) -> None:
        """Note a size that is computed with: it has to stay what it is."""
        place = f"a computation with the size{self._place()}"
        self.uses.append(SizeUse(size.expression, np.zeros(int(size), dtype=np.int64), place))

    def _note(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        if name in _SHAPED:
            self._note_shape(name, args, kwargs, result)
        elif name in _CREATED:
            self._created(name, args, kwargs, result)
        elif name in ("split", "split_with_sizes"):
            self._note_parts(name, args, kwargs, result)
        elif name == "__getitem__" and isinstance(result, Tensor):
            self._note_slices(args)
        elif name in ("layer_norm", "rms_norm") and len(args) > 1:
            self._note_all(name, args[1], result)
        elif name in _CONVOLUTIONS:
            self._note_groups(name, args, kwargs, result)
        elif name == "multi_head_attention_forward":
            self._note_attention(args, kwargs)

    def _shape(self, tensor: Any, result: torch.Size) -> torch.Size:
        labels = self._labels(tensor)
        if not labels.blocks:
            return result
        return torch.Size([_traced(labels, dim, length) for dim, length in enumerate(result)])

    def _size(self, args: Any, kwargs: Any, result: Any) -> Any:
        if isinstance(result, torch.Size):
            return self._shape(args[0], result)
        labels = self._labels(args[0])
        dim = args[1] if len(args) > 1 else kwargs["dim"]
        return _traced(labels, dim % max(1, len(labels.shape)), result)

    def _use(self, name: str, size: Any, labels: Labels, dim: int) -> None:
        """Note that `size` is the length of a dimension of a result."""
        if not isinstance(size, int) or size < 0 or dim in labels.repeated:
            return
        axis = axis_of(labels, dim)
        if axis is None and not isinstance(size, TracedInt):
            return
        if axis is None:
            axis = np.zeros(labels.shape[dim], dtype=np.int64)
        if len(axis) == size:
            self.uses.append(SizeUse(expression_of(size), axis, f"{name}{self._place()}"))

    def _note_all(self, name: str, sizes: Sequence[Any], result: Tensor) -> None:
        labels = self._labels(result)
        first = len(labels.shape) - len(sizes)
        for place, size in enumerate(sizes):
            self._use(name, size, labels, first + place)

    def _note_shape(self, name: str, args: Any, kwargs: Any, result: Tensor) -> None:
        given = [*args[1:], *(value for key, value in kwargs.items() if key in ("size", "shape", "sizes"))]
        if name == "unflatten":
            labels = self._labels(result)
            dim = (args[1] if len(args) > 1 else kwargs["dim"]) % len(args[0].shape)
            for place, size in enumerate(given[-1]):
                self._use(name, size, labels, dim + place)
            return
        sizes = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
        if all(isinstance(size, int) for size in sizes) and len(sizes) == result.dim():
            self._note_all(name, sizes, result)

    def _created(self, name: str, args: Any, kwargs: Any, result: Tensor) -> None:
        """Give a tensor of one value atoms of its own where its size may change."""
        ints = [
            value for arg in [*args, *kwargs.values()] for value in (arg if isinstance(arg, (tuple, list)) else [arg])
        ]
        sizes = [value for value in ints if isinstance(value, int) and not isinstance(value, bool)][: result.dim()]
        if [int(size) for size in sizes] != list(result.shape) or not any(isinstance(s, TracedInt) for s in sizes):
            return
        blocks = []
        for dim, size in enumerate(sizes):
            if isinstance(size, TracedInt) and size > 1:
                expression = size.expression
                axis = expression.axis if isinstance(expression, AxisSize) else self._table.create(int(size))
                blocks.append(Block((dim,), axis))
        labels = Labels(tuple(result.shape), tuple(blocks))
        self._recorder.name(result, labels)
        for dim, size in enumerate(sizes):
            self._use(name, size, labels, dim)

    def _note_parts(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        size = args[1] if len(args) > 1 else next(iter(kwargs.values()))
        dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
        sizes = size if isinstance(size, (tuple, list)) else [size] * len(result)
        for part, length in zip(result, sizes, strict=True):
            self._use(name, length, self._labels(part), dim % part.dim())

    def _note_slices(self, args: Any) -> None:
        source, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
        if not all(item is None or item is Ellipsis or isinstance(item, (int, slice)) for item in index):
            return
        taken = sum(isinstance(item, (int, slice)) for item in index)
        dim = 0
        for item in index:
            if isinstance(item, slice):
                self._note_slice(item, source, dim)
            dim += source.dim() - taken if item is Ellipsis else 0 if item is None else 1

    def _note_slice(self, item: slice, source: Tensor, dim: int) -> None:
        """Note both ends of a slice: each is the number of elements before it."""
        labels = self._labels(source)
        axis, length = axis_of(labels, dim), labels.shape[dim]
        for end in (item.start, item.stop):
            if isinstance(end, int) and 0 < end < length and (axis is not None or isinstance(end, TracedInt)):
                part = np.zeros(end, dtype=np.int64) if axis is None else axis[:end]
                self.uses.append(SizeUse(expression_of(end), part, f"a slice{self._place()}"))

    def _note_groups(self, name: str, args: Any, kwargs: Any, result: Tensor) -> None:
        groups = kwargs.get("groups", args[-1] if len(args) == (8 if "transpose" in name else 7) else 1)
        if not isinstance(groups, TracedInt) or groups < 2:
            return
        labels = self._labels(result)
        axis = axis_of(labels, 1)
        if axis is None:
            return
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        per_in = int(weight.shape[0]) // int(groups) if "transpose" in name else int(weight.shape[1])
        whole = int(groups) >= per_in  # whole groups go, or the same channels of each
        firsts = axis.reshape(int(groups), -1)[:, 0] if whole else np.zeros(int(groups), dtype=np.int64)
        self.uses.append(SizeUse(expression_of(groups), firsts, f"{name}{self._place()}"))

    def _note_attention(self, args: Any, kwargs: Any) -> None:
        """Tie what torch's own attention takes for one size: the width of its inputs and that of all its heads."""
        query, width, heads = args[0], args[3], args[4]
        weight = args[5] if args[5] is not None else kwargs.get("q_proj_weight")
        outer, inner = axis_of(self._labels(query), query.dim() - 1), axis_of(self._labels(weight), 0)
        if inner is None:
            return
        inner = inner[: int(width)]
        if outer is None:
            outer = np.zeros(int(width), dtype=np.int64)
        where = f"attention{self._place()}"
        self._table.tie(outer, inner, where)
        self.uses.append(SizeUse(expression_of(width), outer, where))
        self.uses.append(SizeUse(expression_of(heads), inner.reshape(int(heads), -1)[:, 0], where))

    def _place(self) -> str:
        modules = self._recorder.modules
        module = modules[-1] if modules else ""
        return f"""{f' in "{module}"' if module else ""}{source_line()}"""


def _is_sized(name: str, args: Any) -> bool:
    """Tell whether a call gives the ends of all its parts, so that they can be checked."""
    if name in ("split", "split_with_sizes"):
        return len(args) > 1 and isinstance(args[1], (tuple, list))
    if name != "__getitem__":
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    ends = [end for item in index if isinstance(item, slice) for end in (item.start, item.stop)]
    return all(end is None or (isinstance(end, int) and end >= 0) for end in ends)


def axis_of(labels: Labels, dim: int) -> Ids | None:
    """Return one atom for each position along a dimension; None where it is fixed.

    What stays of a block of several dimensions is a rectangle, so that its first row stands for all.
    """
    block = labels.at(dim)
    if block is None:
        return None
    place = block.dims.index(dim % len(labels.shape))
    axis: Ids = np.moveaxis(block.atoms, place, 0).reshape(block.atoms.shape[place], -1)[:, 0]
    return axis


def _traced(labels: Labels, dim: int, length: int) -> int:
    axis = axis_of(labels, dim)
    return length if axis is None else TracedInt.of(length, AxisSize(axis))


@contextmanager
def traced_attributes(model: nn.Module) -> Iterator[None]:
    """Make the integers in modules' attributes remember which they are, until the context ends."""
    before: list[tuple[dict[str, Any], str, Any, Any]] = []
    try:
        for path, module in model.named_modules():
            own = vars(module)
            for name, value in list(own.items()):
                traced = _traced_value(Attribute(path, name), value)
                if traced is not None:
                    before.append((own, name, value, traced))
                    own[name] = traced
        yield
    finally:
        for own, name, value, traced in before:
            if own.get(name) is traced:
                own[name] = value
        for module in model.modules():  # what forward() computed from them, and kept
            for name, value in vars(module).items():
                if isinstance(value, TracedInt):
                    vars(module)[name] = int(value)
                elif type(value) in (tuple, list, torch.Size) and any(isinstance(each, TracedInt) for each in value):
                    vars(module)[name] = type(value)(int(m) if isinstance(m, TracedInt) else m for m in value)


def _traced_value(attribute: Attribute, value: Any) -> Any:
    if attribute.name.startswith("_"):
        return None
    if type(value) is int and value > 1:
        return TracedInt.of(value, AttributeSize(attribute, value))
    if type(value) in (tuple, list, torch.Size) and value and all(type(member) is int for member in value):
        members = [
            TracedInt.of(member, AttributeSize(attribute._replace(place=place), member)) if member > 1 else member
            for place, member in enumerate(value)
        ]
        return type(value)(members)
    return None
