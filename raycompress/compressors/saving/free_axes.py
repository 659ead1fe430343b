"""Which axes of a model's inputs may have any size: found by calling the model with inputs of other sizes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.bundle.structures import tensors_in

Place = tuple[int, int]
"""An input tensor, counted in the order of the example's, and one of its dimensions."""
_SMALLEST = 8
"""Sizes from here on are halved, smaller ones doubled: a doubled one may exceed a table of positions."""


@dataclass(frozen=True)
class FreeAxes:
    """The axes beside the batch that the model takes in other sizes than the example's.

    Attributes
    ----------
    sizes
        Place -> (size in the example, another that the model takes too).
    names
        Place -> a name for the file; places that have to be of the same size share one.
    """

    sizes: dict[Place, tuple[int, int]]
    names: dict[Place, str]

    def largest(self, example: Example) -> Example:
        """Return the example with each free axis at the larger of its two sizes: exporters take a 1 for a constant."""
        return resized(example, {place: max(both) for place, both in self.sizes.items()})

    def others(self, example: Example) -> list[Example]:
        """Return the example at the other sizes, and at odd ones by dimension: even ones may hide a branch."""
        other = {place: size for place, (_, size) in self.sizes.items()}
        return [resized(example, other), resized(example, {place: max(other[place] - place[1], 1) for place in other})]


def find(model: nn.Module, example: Example) -> FreeAxes:
    """Return the axes of `example`, batch first, in whose other sizes `model` computes as well.

    Those of one size are changed together first, such as the length of ``input_ids`` and of its mask: a mask of ones
    may be one that the model does not look at, and is taken at any length alone. What is left is changed alone.
    """
    tensors = tensors_in([example.args, example.kwargs])
    batch = tensors[0].size(0) if tensors and tensors[0].dim() else -1
    places = [
        (index, dim)
        for index, tensor in enumerate(tensors)
        for dim in range(tensor.dim())
        if _may_vary(tensor, dim, batch)
    ]
    groups: list[list[Place]] = []
    sizes: dict[Place, tuple[int, int]] = {}
    for key in (_size_and_dimension, _size, _itself):
        for group in _grouped(places, tensors, key):
            if not sizes.keys() & set(group):
                _add(model, example, group, sizes, groups)
    found = FreeAxes(sizes, {place: f"axis_{number}" for number, group in enumerate(groups) for place in group})
    return found if sizes and _computes(model, found.others(example)[0]) else FreeAxes({}, {})


def resized(example: Example, sizes: dict[Place, int]) -> Example:
    """Return the example with these sizes; a longer axis repeats what it holds."""
    numbers = iter(range(len(tensors_in([example.args, example.kwargs]))))

    def change(tensor: Tensor) -> Tensor:
        number = next(numbers)
        for dim in range(tensor.dim()):
            if (number, dim) in sizes:
                tensor = tensor.index_select(dim, torch.arange(sizes[number, dim]) % tensor.size(dim))
        return tensor

    return example.map(change)


def _may_vary(tensor: Tensor, dim: int, batch: int) -> bool:
    if dim == 0 and tensor.size(0) == batch:
        return False
    # a single token may be one of many; another axis of one is there to be broadcast
    return tensor.size(dim) > 1 or (tensor.size(dim) == 1 and tensor.dim() == 2 and not tensor.is_floating_point())


def _size_and_dimension(place: Place, tensor: Tensor) -> Hashable:
    return tensor.size(place[1]), place[1]


def _size(place: Place, tensor: Tensor) -> Hashable:
    return tensor.size(place[1])


def _itself(place: Place, _tensor: Tensor) -> Hashable:
    return place


def _grouped(
    places: list[Place], tensors: list[Tensor], key: Callable[[Place, Tensor], Hashable]
) -> Iterable[list[Place]]:
    found: dict[Hashable, list[Place]] = {}
    for place in places:
        found.setdefault(key(place, tensors[place[0]]), []).append(place)
    return found.values()


def _add(
    model: nn.Module,
    example: Example,
    group: list[Place],
    sizes: dict[Place, tuple[int, int]],
    groups: list[list[Place]],
) -> None:
    """Add the group to the free axes, where the model takes another size of it."""
    tensors = tensors_in([example.args, example.kwargs])
    size = tensors[group[0][0]].size(group[0][1])
    other = size // 2 if size >= _SMALLEST else size * 2
    if _computes(model, resized(example, dict.fromkeys(group, other))):
        sizes.update(dict.fromkeys(group, (size, other)))
        groups.append(group)


def _computes(model: nn.Module, example: Example) -> bool:
    answer = example.try_outputs(model)
    return answer is not None and all(bool(torch.isfinite(output).all()) for output in answer)
