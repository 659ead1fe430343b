"""Attention written by hand: which Linear layers feed it, and the heads that their channels belong to.

Whole heads can be removed from such a layer: the width of a head stays, and with it the scale of the softmax. The
module that reshapes has to hold the number of heads in an attribute (`HEADS`), which is updated with the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

HEADS = ("num_heads", "heads", "n_heads", "n_head", "nhead", "num_attention_heads")
"""Attributes that hold the number of heads."""

WIDTHS = ("all_head_size", "inner_dim", "embed_dim")
"""Attributes that may hold the width of all heads together."""

_OPERATIONS = ("scaleddotproduct", "softmax", "bmm")


@dataclass(frozen=True)
class Heads:
    """The heads of one Linear layer.

    Attributes
    ----------
    owner, attribute
        The module and its attribute that hold their number.
    count, width
        How many heads, of how many channels each.
    parts
        How many times the layer's channels hold all heads: 3 where it makes queries, keys and values at once.
    """

    owner: nn.Module
    attribute: str
    count: int
    width: int
    parts: int

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The channels of each head, of all parts."""
        inner = self.count * self.width
        return tuple(
            tuple(part * inner + head * self.width + place for part in range(self.parts) for place in range(self.width))
            for head in range(self.count)
        )

    def shrink(self, channels: int) -> None:
        """Update the owner's attributes for a layer that has `channels` channels left."""
        inner, left = self.count * self.width, channels // self.parts
        setattr(self.owner, self.attribute, left // self.width)
        for name in WIDTHS:
            if vars(self.owner).get(name) == inner:
                setattr(self.owner, name, left)


def heads_of(name: str, group: Any, modules: Mapping[str, nn.Module], inner: int) -> Heads | None:
    """Return the heads of the Linear layer `name`, or None where it feeds no attention whose number of heads is known.

    Parameters
    ----------
    group
        Torch-Pruning's group of all output channels of the layer.
    modules
        The model's modules by name.
    inner
        Input channels of the layers behind the attention that belong to the group.
    """
    linear = modules[name]
    if not isinstance(linear, nn.Linear) or not inner or linear.out_features % inner:
        return None
    if not any(operation in _operation(item) for item in group for operation in _OPERATIONS):
        return None
    for owner, attribute, count in owners(name, modules):
        if inner % count == 0:
            return Heads(owner, attribute, count, inner // count, linear.out_features // inner)
    return None


def owners(name: str, modules: Mapping[str, nn.Module]) -> list[tuple[nn.Module, str, int]]:
    """Return (module, attribute, number of heads) of the modules around a layer that have one, the nearest first."""
    places = name.split(".")
    around = [modules[".".join(places[:depth])] for depth in range(len(places) - 1, -1, -1)]
    found = ((owner, attribute, vars(owner).get(attribute)) for owner in around for attribute in HEADS)
    return [(owner, attribute, count) for owner, attribute, count in found if isinstance(count, int) and count > 0]


def _operation(item: Any) -> str:
    function = item.dep.target.grad_fn
    return function.name().lower() if hasattr(function, "name") else ""
