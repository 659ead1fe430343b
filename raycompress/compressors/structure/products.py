"""The products that a pass computes (matrices, convolutions, attention), and which channels they run along."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from raycompress.bundle.example import Example, evaluating
from raycompress.compressors.masking.masks import unhooked
from raycompress.compressors.structure.axes.atoms import FIXED
from raycompress.compressors.structure.axes.recorder import Recorder, followed
from raycompress.compressors.structure.graph import ChannelGraph

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids

Factor = tuple[Tensor, Sequence[int]]
"""An operand, and those of its dimensions whose lengths are factors of the multiply-adds."""


@dataclass(frozen=True)
class Product:
    """One product: its multiply-adds are in proportion to the length of each of its axes.

    Attributes
    ----------
    flops
        Its multiply-adds in the dense model.
    axes
        The axes that can get shorter: the component of each place along one.
    module
        The module that computes it.
    """

    flops: int
    axes: tuple[Ids, ...]
    module: str = ""


def products(graph: ChannelGraph, one: Example) -> list[Product]:
    """Return the products of one pass in eval mode, with the components of `graph`.

    Parameters
    ----------
    one
        An input; how many samples it has decides nothing but `Product.flops`.
    """
    made: list[_Products] = []

    def kind(*arguments: Any) -> _Products:
        made.append(_Products(*arguments))
        return made[-1]

    with unhooked(graph.model), evaluating(graph.model):
        followed(graph.model, one.call, kind)
    component = _components(graph, made[-1])
    return [
        Product(flops, tuple(_axis(component[atoms]) for atoms in axes), module)
        for flops, axes, module in made[-1].found
    ]


def _components(graph: ChannelGraph, made: _Products) -> Ids:
    """Return the component of `graph` of each atom of another recording, by the parameters that both have met.

    What that recording ties and freezes by itself counts for nothing: it is of one mode, and looks into attention.
    """
    found = np.full(made.table.count, -1, dtype=np.int64)
    for name, axes in made.axes.items():
        for atoms, known in zip(axes, graph.couplings.axes[name], strict=True):
            met = atoms != FIXED
            found[atoms[met]] = graph.couplings.components.root[known[met]]
    return found


def _axis(components: Ids) -> Ids:
    """Return the component of each place, -1 for one of which parts belong to different ones.

    Parameters
    ----------
    components
        Of shape [places, parts]. A head is gone where all channels of it are; a place in all heads, where it is gone
        from each of them.
    """
    first = components[:, 0]
    found: Ids = np.where((components == first[:, None]).all(1), first, -1)
    return found


class _Products(Recorder):  # type: ignore[no-untyped-call]
    """Notes each product as it is computed: its multiply-adds, and the atoms along its axes.

    Torch's own attention is followed inside as well, where `Functions` mutes other recorders.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.found: list[tuple[int, tuple[Ids, ...], str]] = []

    @property
    def muted(self) -> bool:
        """Nothing is left out."""
        return False

    @muted.setter
    def muted(self, _value: bool) -> None:
        pass

    def execute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Execute an operation, and note the products that it is."""
        outcome = super().execute(func, args, kwargs)
        factors = _FACTORS.get(func._schema.name.split("::")[-1])
        for further, operands in () if factors is None else factors(args, outcome):
            lengths = [tensor.shape[dim] for tensor, dims in operands for dim in dims]
            axes = (axis for tensor, dims in operands for axis in self._axes(tensor, dims))
            self.found.append((further * math.prod(lengths), tuple(axes), self.modules[-1] if self.modules else ""))
        return outcome

    def _axes(self, tensor: Tensor, dims: Sequence[int]) -> Iterator[Ids]:
        """Yield the atoms along some dimensions of a tensor, [places, parts]; dimensions of one block are one axis."""
        for block in self.labels(tensor).blocks:
            inner = [axis for axis, dim in enumerate(block.dims) if dim in dims]
            others = [axis for axis, dim in enumerate(block.dims) if dim not in dims]
            places = math.prod(block.atoms.shape[axis] for axis in inner)
            if places > 1:
                yield block.atoms.transpose(*inner, *others).reshape(places, -1)


_Factors = Callable[[Sequence[Any], Any], list[tuple[int, list[Factor]]]]
"""Arguments and result of an operation -> for each of its products a further factor, and the operands."""


def _matrices(first: int) -> _Factors:
    """Return the rule of a product of two matrices, or batches of them, from the argument `first` on."""

    def rule(args: Sequence[Any], _outcome: Any) -> list[tuple[int, list[Factor]]]:
        left, right = args[first : first + 2]
        return [(1, [(left, range(left.dim())), (right, [right.dim() - 1])])]

    return rule


def _linear(args: Sequence[Any], _outcome: Any) -> list[tuple[int, list[Factor]]]:
    source, weight = args[:2]
    return [(1, [(source, range(source.dim())), (weight, [0])])]


def _convolution(args: Sequence[Any], outcome: Tensor) -> list[tuple[int, list[Factor]]]:
    source, weight, transposed = args[0], args[1], args[6]
    # a kernel is applied at each place of the result, of a transposed one at each of the source
    tensor, channels = (source, weight.shape[0]) if transposed else (outcome, weight.shape[0])
    return [(tensor.numel() // channels, [(weight, range(weight.dim()))])]


def _attention(args: Sequence[Any], _outcome: Any) -> list[tuple[int, list[Factor]]]:
    query, key, value = args[:3]
    rows = (query, range(query.dim() - 1))
    length, width = key.dim() - 2, key.dim() - 1
    return [(1, [rows, (key, [length, width])]), (1, [rows, (key, [length]), (value, [width])])]


_FACTORS: dict[str, _Factors] = {
    "mm": _matrices(0),
    "bmm": _matrices(0),
    "_grouped_mm": _matrices(0),  # each row of the left one by one of the matrices on the right
    "addmm": _matrices(1),
    "baddbmm": _matrices(1),
    "linear": _linear,
    "convolution": _convolution,
    "_convolution": _convolution,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}
"""Operation -> which products it is."""
