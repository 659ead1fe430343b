"""Integers of a forward pass that remember where they come from: an attribute of a module, or the shape of a tensor.

Modules write sizes into reshapes: ``x.view(batch, length, self.num_heads, self.head_dim)``. While a pass is recorded,
integers in modules' attributes and in shapes are `TracedInt`, which computes as int does and keeps the expression.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids


class Attribute(NamedTuple):
    """An integer attribute of a module, or one member of a tuple or list of them.

    Attributes
    ----------
    module
        The module's name.
    name
        The attribute's.
    place
        The place in the tuple or list; None where the attribute is the integer.
    """

    module: str
    name: str
    place: int | None = None

    def __str__(self) -> str:
        place = "" if self.place is None else f"[{self.place}]"
        return f'{self.name}{place} of "{self.module}"' if self.module else f"{self.name}{place}"


@dataclass(frozen=True)
class AttributeSize:
    """The value of an attribute."""

    attribute: Attribute
    value: int


@dataclass(frozen=True, eq=False)
class AxisSize:
    """The length of a tensor's dimension: one atom for each position."""

    axis: Ids


@dataclass(frozen=True)
class Computed:
    """Two sizes and the operation between them."""

    function: Callable[[int, int], int]
    left: Expression
    right: Expression


Expression = int | AttributeSize | AxisSize | Computed


class TracedInt(int):
    """An int with the expression that it was computed by."""

    expression: Expression
    compared: ClassVar[Callable[[AttributeSize, AxisSize], None] | None] = None
    """Is called where an attribute is found equal to the length of a dimension."""
    computed_with: ClassVar[Callable[[TracedInt], None] | None] = None
    """Is called where a size becomes a number to compute with, such as the root of a width."""

    @classmethod
    def of(cls, value: int, expression: Expression) -> TracedInt:
        """Return `value` with its expression."""
        traced = cls(value)
        traced.expression = expression
        return traced

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)

    def __deepcopy__(self, _memo: Any) -> int:
        return int(self)

    def __float__(self) -> float:
        if TracedInt.computed_with is not None:
            TracedInt.computed_with(self)
        return float(int(self))

    def __truediv__(self, other: Any) -> Any:
        return float(self) / other if isinstance(other, (int, float)) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return other / float(self) if isinstance(other, (int, float)) else NotImplemented

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        return pow(int(self), other, modulus) if type(other) is int and other >= 0 else float(self) ** other

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other)
        if equal is True and isinstance(other, TracedInt) and TracedInt.compared is not None:
            for one, two in ((self.expression, other.expression), (other.expression, self.expression)):
                if isinstance(one, AttributeSize) and isinstance(two, AxisSize):
                    TracedInt.compared(one, two)
        return equal

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = int.__hash__


def _binary(function: Callable[[int, int], int], name: str) -> None:
    plain, reflected = getattr(int, f"__{name}__"), getattr(int, f"__r{name}__")

    def forward(self: TracedInt, other: Any) -> Any:
        value = plain(self, other)
        if type(value) is not int:
            return value
        return TracedInt.of(value, Computed(function, expression_of(self), expression_of(other)))

    def backward(self: TracedInt, other: Any) -> Any:
        value = reflected(self, other)
        if type(value) is not int:
            return value
        return TracedInt.of(value, Computed(function, expression_of(other), expression_of(self)))

    setattr(TracedInt, f"__{name}__", forward)
    setattr(TracedInt, f"__r{name}__", backward)


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _binary(getattr(operator, _name), _name)


def expression_of(value: int) -> Expression:
    """Return how an integer was computed; the integer itself where it was not."""
    return value.expression if isinstance(value, TracedInt) else int(value)


def evaluate(expression: Expression, sizes: Mapping[Attribute, Ids], count: Callable[[Ids], int]) -> int:
    """Return the value of an expression once atoms have gone.

    Parameters
    ----------
    sizes
        Attribute -> the axis that it counts; the others keep their values.
    count
        Returns how many positions of an axis stay.
    """
    if isinstance(expression, int):
        return expression
    if isinstance(expression, AxisSize):
        return count(expression.axis)
    if isinstance(expression, AttributeSize):
        axis = sizes.get(expression.attribute)
        return expression.value if axis is None else count(axis)
    return expression.function(evaluate(expression.left, sizes, count), evaluate(expression.right, sizes, count))


def leaves(expression: Expression) -> Iterator[AttributeSize | AxisSize]:
    """Yield the attributes and dimensions in an expression."""
    if isinstance(expression, Computed):
        yield from leaves(expression.left)
        yield from leaves(expression.right)
    elif not isinstance(expression, int):
        yield expression


def factors(expression: Expression) -> list[Expression]:
    """Return the factors of a product, the outermost first; one of everything else."""
    if isinstance(expression, Computed) and expression.function is operator.mul:
        return [*factors(expression.left), *factors(expression.right)]
    return [expression]


def value_of(expression: Expression) -> int:
    """Return what an expression was before anything went."""
    if isinstance(expression, int):
        return expression
    if isinstance(expression, AxisSize):
        return len(expression.axis)
    if isinstance(expression, AttributeSize):
        return expression.value
    return expression.function(value_of(expression.left), value_of(expression.right))
