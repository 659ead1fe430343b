"""What is left of a model without some of its components: of its tensors, attributes and reductions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from raycompress.compressors.masking.masked_calls import Reductions
from raycompress.compressors.masking.reductions import Kept
from raycompress.compressors.structure.attributes import Sizes, resized
from raycompress.compressors.structure.graph import ChannelGraph, clean_copy
from raycompress.compressors.structure.plan import Fresh, ModulePlan, replace_tensor, set_attributes

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids
    from raycompress.compressors.structure.axes.functions import Reduction


@dataclass(frozen=True)
class Sliced:
    """What is left of one tensor.

    Attributes
    ----------
    kept
        For each dimension the indices that stay, ascending, on the CPU; None where all do.
    shape
        Shape of the small tensor.
    factor
        What the small tensor is multiplied by, of a shape that broadcasts to `shape`; None where it is not. Torch's
        attention divides by the root of a head's width, so queries of narrower heads are scaled to make up for it.
    """

    kept: tuple[Tensor | None, ...]
    shape: tuple[int, ...]
    factor: Tensor | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """Return what is left of a tensor of the original shape, without the factor; it shares no memory with it."""
        left = tensor
        for dim, places in enumerate(self.kept):
            if places is not None:
                left = left.index_select(dim, places.to(tensor.device))
        return left.clone() if left is tensor else left

    def put(self, whole: Tensor, value: Tensor) -> None:
        """Write `value`, of the small shape, to its places in a tensor of the original shape."""
        rank = len(self.shape)
        places = [
            (torch.arange(whole.shape[dim]) if kept is None else kept)
            .to(whole.device)
            .reshape([-1 if other == dim else 1 for other in range(rank)])
            for dim, kept in enumerate(self.kept)
        ]
        whole[tuple(places)] = value

    def after(self, earlier: Sliced) -> Sliced:
        """Return what is left of the original where this slices what `earlier` left."""
        kept = tuple(
            two if one is None else one if two is None else one[two]
            for one, two in zip(earlier.kept, self.kept, strict=True)
        )
        return Sliced(kept, self.shape)

    def removed(self, tensor: Tensor) -> Tensor:
        """Return a bool tensor of the original's shape, True where an element goes."""
        mask = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
        self._fill(mask, True)
        return mask

    def clear(self, tensor: Tensor) -> None:
        """Set what goes of a tensor of the original shape to zero, in place."""
        self._fill(tensor, 0)

    def _fill(self, tensor: Tensor, value: float) -> None:
        for dim, places in enumerate(self.kept):
            if places is not None:
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[places] = False
                tensor.index_fill_(dim, gone.nonzero().flatten().to(tensor.device), value)


Tensors = dict[tuple[str, str], Sliced]
"""(module, tensor) -> what is left of it; tensors that stay whole are left out."""


class Cut:
    """Components that are removed from a model, more and more of them; the model itself is left as it is."""

    def __init__(self, graph: ChannelGraph, removal: Mapping[str, Iterable[int]] | None = None) -> None:
        self.graph = graph
        couplings = graph.couplings
        self._root = couplings.components.root
        self._gone = np.zeros(len(self._root), dtype=bool)
        for name, channels in (removal or {}).items():
            self.remove(name, channels)

    def remove(self, name: str, channels: Iterable[int]) -> None:
        """Remove output channels of a layer, and all that goes with them; what is gone already is ignored."""
        components = self.graph.components(name, channels)
        self._gone[components[components < len(self._gone)]] = True

    def removed(self, name: str) -> tuple[int, ...]:
        """Return the output channels of a layer that are gone."""
        return tuple(np.flatnonzero(self._is_gone(self.graph.components(name))).tolist())

    def remaining(self, name: str) -> list[int]:
        """Return the output channels of a layer that are left."""
        found: list[int] = np.flatnonzero(~self._is_gone(self.graph.components(name))).tolist()
        return found

    def _is_gone(self, components: Ids) -> Ids:
        known = components < len(self._gone)
        return np.where(known, self._gone[np.where(known, components, 0)], False)

    def _gone_of(self, atoms: Ids) -> Ids:
        found: Ids = self._gone[self._root[atoms]] & (atoms != 0)
        return found

    def tensors(self) -> Tensors:
        """Return what is left of each tensor that changes, under all names that modules have for it."""
        by_name: dict[str, Sliced] = {}
        for name, axes in self.graph.couplings.axes.items():
            gone = [self._gone_of(atoms) for atoms in axes]
            if any(one.any() for one in gone):
                kept = tuple(torch.from_numpy(np.flatnonzero(~one)) if one.any() else None for one in gone)
                shape = tuple(int((~one).sum()) for one in gone)
                by_name[name] = Sliced(kept, shape)
        if not by_name:
            return {}
        named = dict(_named(self.graph.model))
        by_id = {id(named[_split(name)]): sliced for name, sliced in by_name.items()}
        return {
            key: self._scaled(key, by_id[id(tensor)]) for key, tensor in _named(self.graph.model) if id(tensor) in by_id
        }

    def _scaled(self, key: tuple[str, str], sliced: Sliced) -> Sliced:
        """Add the factor of queries whose heads get narrower."""
        module = self.graph.module(key[0])
        if not isinstance(module, nn.MultiheadAttention):
            return sliced
        if key[1] not in ("in_proj_weight", "in_proj_bias", "q_proj_weight"):
            return sliced
        rows = sliced.shape[0] // (1 if key[1] == "q_proj_weight" else 3)
        if rows == module.embed_dim:
            return sliced
        factor = torch.ones(sliced.shape[0])
        factor[:rows] = math.sqrt(rows / module.embed_dim)
        return Sliced(sliced.kept, sliced.shape, factor.reshape(-1, *[1] * (len(sliced.shape) - 1)))

    def lost(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Return (module, tensor) -> by how much each dimension is shorter, of those that change."""
        model = self.graph.model
        shapes = {key: tuple(tensor.shape) for key, tensor in _named(model)}
        return {
            key: tuple(old - new for old, new in zip(shapes[key], sliced.shape, strict=True))
            for key, sliced in self.tensors().items()
        }

    def changes(self, tensors: Tensors) -> dict[str, ModulePlan]:
        """Return what changes in each module: shapes, and the sizes that attributes hold."""
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for (name, key), sliced in tensors.items():
            shapes.setdefault(name, {})[key] = sliced.shape
        counted = self._counted()
        reductions = self.reductions()
        changes = {}
        for name, module in self.graph.model.named_modules():
            sizes = Sizes(
                shapes.get(name, {}),
                self._computed_weight(name, module, shapes),
                counted.get(name, {}),
                reductions.widths(name),
            )
            attributes = resized(module, sizes)
            if attributes or name in shapes:
                changes[name] = ModulePlan(
                    type(module).__name__, dict(sorted(attributes.items())), shapes.get(name, {})
                )
        return changes

    def _computed_weight(
        self, name: str, module: nn.Module, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    ) -> tuple[int, ...] | None:
        """Return the new shape of a weight that is computed from other parameters, by a parametrization or a hook."""
        inside = shapes.get(f"{name}.parametrizations.weight".lstrip("."), {})
        own = shapes.get(name, {})
        # weight_orig first: of spectral_norm weight_v is a vector
        found = (inside.get("original1"), inside.get("original"), own.get("weight_orig"), own.get("weight_v"))
        return next((shape for shape in found if shape is not None), None)

    def _counted(self) -> dict[str, dict[tuple[str, int | None], int]]:
        """Return module -> (attribute, its place in a tuple or list) -> what it counts now, of those that change."""
        found: dict[str, dict[tuple[str, int | None], int]] = {}
        for attribute, axis in self.graph.couplings.sizes.items():
            gone = self._gone_of(axis)
            if gone.any():
                found.setdefault(attribute.module, {})[attribute.name, attribute.place] = int((~gone).sum())
        return found

    def reductions(self) -> Reductions:
        """Return what stays of the reductions over channels that lose some."""
        calls: dict[str, dict[bool, list[Kept]]] = {}
        for (name, training), reductions in self.graph.couplings.reductions.items():
            kept = [self._kept(reduction) for reduction in reductions]
            if any(kept):
                calls.setdefault(name, {})[training] = kept
        return Reductions({name: (found.get(False, []), found.get(True, [])) for name, found in calls.items()})

    def _kept(self, reduction: Reduction) -> Kept:
        gone = {dim: self._gone_of(atoms) for dim, atoms in reduction.atoms.items()}
        places = {dim: torch.from_numpy(np.flatnonzero(~one)) for dim, one in gone.items() if one.any()}
        return Kept(places, {dim: len(gone[dim]) for dim in places})

    def small(self) -> nn.Module:
        """Return a copy of the model without what is removed."""
        copied = clean_copy(self.graph.model)
        tensors = self.tensors()
        cut_tensors(copied, tensors, self.changes(tensors))
        return copied


def cut_tensors(
    model: nn.Module,
    tensors: Mapping[tuple[str, str], Sliced],
    changes: Mapping[str, ModulePlan],
    *,
    spare_old: bool = True,
) -> Fresh:
    """Slice `model` in place; returns id(old parameter) -> (old parameter, new one).

    Parameters
    ----------
    spare_old
        Whether old parameters keep their values. Without it the memory of each is free once its part is copied.
    """
    modules = dict(model.named_modules())
    fresh: Fresh = {}
    for (module, name), sliced in tensors.items():
        old = getattr(modules[module], name)
        if id(old) in fresh:  # another name of it
            replace_tensor(modules[module], name, fresh[id(old)][1], fresh)
            continue
        value = sliced.of(old.detach())
        if sliced.factor is not None:
            value *= sliced.factor.to(value)
        replace_tensor(modules[module], name, value, fresh)
        if not spare_old and isinstance(old, nn.Parameter):
            old.data = old.data.new_empty(0)
    for module, change in changes.items():
        set_attributes(modules[module], change)
    return fresh


def _named(model: nn.Module) -> list[tuple[tuple[str, str], Tensor]]:
    """Return ((module, tensor name), tensor) of all parameters and buffers, shared ones under each of their names."""
    return [
        ((name, key), tensor)
        for name, module in model.named_modules()
        for key, tensor in {**module._parameters, **module._buffers}.items()
        if tensor is not None
    ]


def _split(name: str) -> tuple[str, str]:
    module, _, key = name.rpartition(".")
    return module, key
