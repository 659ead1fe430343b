"""Which attributes of modules a removal has to change, and which sizes in the source code it cannot follow."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raycompress.compressors.structure.axes.atoms import FIXED, AtomTable, Components
from raycompress.compressors.structure.axes.sizes import (
    Attribute,
    AttributeSize,
    AxisSize,
    Computed,
    Expression,
    evaluate,
    factors,
    leaves,
    value_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from raycompress.compressors.structure.axes.atoms import Ids
    from raycompress.compressors.structure.axes.tracing import SizeUse

_ROUNDS = 12
_DRAWS = 6
_SINGLES = 8


class Resolver:
    """Settles the sizes that a pass used.

    A size that is the length of another dimension ties the two. An attribute counts the axis that it was used for; two
    axes of one attribute are tied. Then a random half of all components goes, some times over: a size that is not the
    length it stands for by then cannot follow, and what it depends on stays.

    Parameters
    ----------
    table
        Where couplings go.
    uses
        The sizes.
    """

    def __init__(self, table: AtomTable, uses: Sequence[SizeUse]) -> None:
        self._table = table
        self._uses = _distinct(uses)
        self._components = table.components()
        self._varying: dict[int, tuple[Ids, bool]] = {}  # with the array, so that its id stays its own

    def resolve(self) -> tuple[Components, dict[Attribute, Ids]]:
        """Return the components, and each attribute that has to change with the axis that it counts."""
        for _ in range(_ROUNDS):
            if not self._tie_lengths() and not self._tie_attributes():
                break
        for _ in range(_ROUNDS):
            sizes = self._assigned()
            failing = self._failing(sizes)
            if not failing:
                return self._components, sizes
            for use in failing:
                self._freeze(use, sizes)
            self._settle()
        for use in self._uses:
            self._freeze(use, self._assigned())
        self._settle()
        return self._components, {}

    def _settle(self) -> None:
        self._table.allowance.check("the sizes that its forward() uses")
        self._components = self._table.components()
        self._varying.clear()

    def _varies(self, axis: Ids) -> bool:
        """Tell whether some positions of an axis can go while others stay."""
        known = self._varying.get(id(axis))
        if known is None:
            known = self._varying[id(axis)] = axis, self._find_varying(axis)
        return known[1]

    def _find_varying(self, axis: Ids) -> bool:
        roots = self._components.root[axis]
        if len(roots) < 2 or bool((roots == roots[0]).all()):
            return False
        return any(root not in self._components.reasons for root in np.unique(roots[axis != FIXED]).tolist())

    def _differ(self, one: Ids, two: Ids) -> bool:
        root = self._components.root
        return len(one) != len(two) or bool((root[one] != root[two]).any())

    def _tie_lengths(self) -> bool:
        changed = False
        for use in self._uses:
            if isinstance(use.expression, AxisSize) and len(use.axis) == len(use.expression.axis):
                changed |= self._tie(use.expression.axis, use.axis, f"{use.where}, which takes one size for both")
            elif (parts := _parts(use)) is not None:
                for part in (*parts[1:], use.axis):
                    changed |= self._tie(parts[0], part, f"{use.where}, which takes equal parts")
        return self._settled(changed)

    def _tie_attributes(self) -> bool:
        changed = False
        found: dict[Attribute, Ids] = {}
        for use in self._uses:
            for attribute, axis in self._counted(use):
                first = found.setdefault(attribute, axis)
                changed |= self._tie(first, axis, f"{use.where}: {attribute} counts both")
        return self._settled(changed)

    def _settled(self, changed: bool) -> bool:
        if changed:
            self._settle()
        return changed

    def _tie(self, one: Ids, two: Ids, reason: str) -> bool:
        if not self._differ(one, two) or not (self._varies(one) or self._varies(two)):
            return False
        if self._same_count(one, two):
            return False
        self._table.tie(one, two, reason)
        return True

    def _same_count(self, one: Ids, two: Ids) -> bool:
        """Tell whether two axes are the same components in another order."""
        root = self._components.root
        return len(one) == len(two) and bool((np.sort(root[one]) == np.sort(root[two])).all())

    def _counted(self, use: SizeUse) -> list[tuple[Attribute, Ids]]:
        """Return the attributes in a use that count an axis, with it."""
        if isinstance(use.expression, Computed) and use.expression.function is operator.floordiv:
            return _divided(use.expression, use.axis)
        parts = factors(use.expression)
        values = [value_of(part) for part in parts]
        if int(np.prod(values)) != len(use.axis):
            return []
        array = use.axis.reshape(values)
        found = []
        for place, part in enumerate(parts):
            if isinstance(part, AttributeSize):
                along = np.moveaxis(array, place, 0).reshape(values[place], -1)[:, 0]
                found.append((part.attribute, np.ascontiguousarray(along)))
        return found

    def _assigned(self) -> dict[Attribute, Ids]:
        found: dict[Attribute, Ids] = {}
        for use in self._uses:
            for attribute, axis in self._counted(use):
                if self._varies(axis):
                    found.setdefault(attribute, axis)
        for use in self._uses:
            self._assign_quotient(use, found)
        return found

    def _assign_quotient(self, use: SizeUse, found: dict[Attribute, Ids]) -> None:
        """Let the width of all heads follow their number, where ``width // heads`` is the width of one, which stays."""
        whole = use.expression
        if not isinstance(whole, Computed) or whole.function is not operator.floordiv or self._varies(use.axis):
            return
        width, heads = whole.left, whole.right
        if not isinstance(width, AttributeSize) or not isinstance(heads, AttributeSize):
            return
        if heads.attribute in found and width.value == heads.value * len(use.axis):
            found.setdefault(width.attribute, np.repeat(found[heads.attribute], len(use.axis)))

    def _failing(self, sizes: Mapping[Attribute, Ids]) -> list[SizeUse]:
        """Return the uses whose size is not the length it stands for once some components are gone.

        A random half goes, some times over; where that left all lengths of a use as they were, or one empty, single
        components of it go.
        """
        generator = np.random.default_rng(0)
        number = len(self._components.root)
        waiting = {
            place: use
            for place, use in enumerate(self._uses)
            if any(self._varies(axis) for axis in (use.axis, *_axes(use.expression, sizes)))
        }
        asked: dict[int, int] = dict.fromkeys(waiting, 0)
        bad: dict[int, SizeUse] = {}
        for _ in range(_DRAWS):
            count = self._counter(generator.random(number) < 0.5)
            for place in self._tried(waiting, sizes, count, bad):
                asked[place] += 1
        for place in [place for place, times in asked.items() if times < 2 and place not in bad]:
            use = self._uses[place]
            for component in self._free([use.axis, *_axes(use.expression, sizes)])[:_SINGLES]:
                stays = np.ones(number, dtype=bool)
                stays[component] = False
                self._tried({place: use}, sizes, self._counter(stays), bad)
        return list(bad.values())

    def _tried(
        self,
        uses: Mapping[int, SizeUse],
        sizes: Mapping[Attribute, Ids],
        count: Callable[[Ids], int],
        bad: dict[int, SizeUse],
    ) -> list[int]:
        """Add the uses that fail to `bad`; return those of which some length changed and none is empty."""
        changed = []
        for place, use in uses.items():
            axes = [use.axis, *_axes(use.expression, sizes)]
            left = [count(axis) for axis in axes]
            if 0 in left or left == [len(axis) for axis in axes]:
                continue
            changed.append(place)
            if evaluate(use.expression, sizes, count) != left[0]:
                bad[place] = use
        return changed

    def _counter(self, stays: NDArray[np.bool_]) -> Callable[[Ids], int]:
        """Return a function that counts what stays of an axis; `stays` is changed to hold what cannot go."""
        stays[list(self._components.reasons)] = True
        stays[FIXED] = True
        kept = stays[self._components.root]
        known: dict[int, int] = {}

        def count(axis: Ids) -> int:
            if id(axis) not in known:
                known[id(axis)] = int(kept[axis].sum()) if self._varies(axis) else len(axis)
            return known[id(axis)]

        return count

    def _free(self, axes: Sequence[Ids]) -> list[int]:
        """Return the components of axes that can go."""
        found = {
            root for axis in axes if self._varies(axis) for root in np.unique(self._components.root[axis]).tolist()
        }
        return sorted(one for one in found if one != FIXED and one not in self._components.reasons)

    def _freeze(self, use: SizeUse, sizes: Mapping[Attribute, Ids]) -> None:
        reason = f"the size {value_of(use.expression)} in {use.where}, which cannot follow"
        axes = [use.axis, *_axes(use.expression, sizes)]
        for axis in axes:
            if self._varies(axis):
                self._table.freeze(axis, reason)


def _parts(use: SizeUse) -> Ids | None:
    """Return the equal parts of an axis, one a row, where the length of one of them is what a use takes."""
    expression = use.expression
    if not isinstance(expression, Computed) or expression.function is not operator.floordiv:
        return None
    whole, count = expression.left, expression.right
    if not isinstance(whole, AxisSize) or not isinstance(count, int) or len(whole.axis) != count * len(use.axis):
        return None
    return whole.axis.reshape(count, -1)


def _divided(expression: Computed, axis: Ids) -> list[tuple[Attribute, Ids]]:
    """Return the axis of an attribute whose part, such as a half, counts `axis`."""
    attribute, parts = expression.left, value_of(expression.right)
    if not isinstance(attribute, AttributeSize) or parts * len(axis) != attribute.value:
        return []
    return [(attribute.attribute, np.tile(axis, parts))]


def _axes(expression: Expression, sizes: Mapping[Attribute, Ids]) -> list[Ids]:
    found = []
    for leaf in leaves(expression):
        axis = leaf.axis if isinstance(leaf, AxisSize) else sizes.get(leaf.attribute)
        if axis is not None:
            found.append(axis)
    return found


def _distinct(uses: Sequence[SizeUse]) -> list[SizeUse]:
    """Leave out sizes that are the length of the very axis, and repetitions."""
    found: dict[tuple[object, bytes], SizeUse] = {}
    for use in uses:
        own = isinstance(use.expression, AxisSize)
        if own and use.expression.axis.tobytes() == use.axis.tobytes():  # type: ignore[union-attr]
            continue
        key = (_key(use.expression), use.axis.tobytes())
        found.setdefault(key, use)
    return list(found.values())


def _key(expression: Expression) -> object:
    if isinstance(expression, AxisSize):
        return expression.axis.tobytes()
    if isinstance(expression, AttributeSize):
        return expression.attribute
    if isinstance(expression, int):
        return expression
    return (expression.function.__name__, _key(expression.left), _key(expression.right))
