"""Slicing by the couplings alone, and the masked model that the sliced one has to equal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raycompress.compressors.structure.axes.recorder import Couplings, Recorder


def choose(couplings: Couplings, seed: int = 0) -> np.ndarray:
    """Return half of the components along each dimension of each tensor that can go, at random; one stays of each."""
    generator = np.random.default_rng(seed)
    blocked = set(couplings.components.reasons)
    found = [
        np.unique(couplings.of(name, dim)[atoms != 0]).tolist()
        for name, axes in couplings.axes.items()
        for dim, atoms in enumerate(axes)
    ]
    left = [len(components) for components in found]
    places: dict[int, list[int]] = {}
    for place, components in enumerate(found):
        for component in components:
            places.setdefault(component, []).append(place)
    gone: set[int] = set()
    kept: set[int] = set()
    for components in found:
        free = [component for component in components if component not in blocked]
        rest = [component for component in free if component not in gone and component not in kept]
        wanted = len(free) // 2 - sum(component in gone for component in free) if len(components) > 1 else 0
        for component in generator.permutation(rest).tolist():
            if wanted > 0 and all(left[place] > 1 for place in places[component]):
                gone.add(component)
                wanted -= 1
                for place in places[component]:
                    left[place] -= 1
            else:
                kept.add(component)
    return np.array(sorted(gone), dtype=np.int64)


def sliced(model: nn.Module, couplings: Couplings, gone: np.ndarray) -> nn.Module:
    """Return a copy of `model` without the components `gone`, its attributes changed as the couplings say."""
    small = _cut(copy.deepcopy(model), couplings, gone)
    modules = dict(small.named_modules())
    kept = ~np.isin(couplings.components.root, gone)
    for attribute, axis in couplings.sizes.items():
        owner, value = vars(modules[attribute.module]), int(kept[axis].sum())
        if attribute.place is None:
            owner[attribute.name] = value
        else:
            members = list(owner[attribute.name])
            members[attribute.place] = value
            owner[attribute.name] = type(owner[attribute.name])(members)
    for module in modules.values():
        _resize(module)
    return small


def _cut(model: nn.Module, couplings: Couplings, gone: np.ndarray) -> nn.Module:
    named = dict([*model.named_parameters(), *model.named_buffers()])
    values: dict[str, Tensor] = {}
    for (name, dim), places in couplings.members(gone).items():
        value = values.get(name, named[name].detach())
        index = torch.from_numpy(np.setdiff1d(np.arange(value.shape[dim]), places))
        values[name] = value.index_select(dim, index)
    new: dict[int, Tensor] = {}
    for name, value in values.items():
        old = named[name]
        new[id(old)] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
    for module in model.modules():
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and id(tensor) in new:
                setattr(module, key, new[id(tensor)])
    return model


def _resize(module: nn.Module) -> None:
    if isinstance(module, nn.MultiheadAttention):
        _narrow(module)
    if isinstance(module, nn.modules.conv._ConvNd) and isinstance(module.weight, Tensor):
        out, into = module.weight.shape[:2] if not module.transposed else module.weight.shape[1::-1]
        module.out_channels, module.in_channels = int(out), int(into)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
        module.num_features = int(module.weight.shape[0])


def _narrow(module: nn.MultiheadAttention) -> None:
    """Keep the scale of the products: torch divides them by the root of a head's width, which is another now."""
    before, module.head_dim = module.head_dim, module.embed_dim // module.num_heads
    separate = module.in_proj_weight is None
    queries = [module.q_proj_weight if separate else module.in_proj_weight, module.in_proj_bias]
    with torch.no_grad():
        for tensor in queries:
            if tensor is not None:
                tensor[: module.embed_dim] *= (module.head_dim / before) ** 0.5


def masked(model: nn.Module, couplings: Couplings, gone: np.ndarray) -> nn.Module:
    """Return a copy of `model` in which the elements of the components `gone` are zero."""
    copied = copy.deepcopy(model)
    named = dict([*copied.named_parameters(), *copied.named_buffers()])
    with torch.no_grad():
        for (name, dim), places in couplings.members(gone).items():
            named[name].index_fill_(dim, torch.from_numpy(places), 0)
    return copied


class KeptOnly(Recorder):
    """Executes what reduces over removed channels on the others only, as the sliced model will."""

    def __init__(self, couplings: Couplings, gone: np.ndarray, *rest: Any) -> None:
        super().__init__(*rest)
        self._gone = np.isin(couplings.components.root, gone)

    def execute(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func._schema.name.split("::")[-1]
        if name == "native_layer_norm":
            return self._layer_norm(func, *args)
        if name == "native_group_norm":
            return self._group_norm(func, *args)
        if "batch_norm" in name and args[0].dim() == 3:
            return self._standardized(func, args, kwargs)
        if name in _REDUCING and isinstance(args[0], Tensor):
            dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if name != "linalg_vector_norm":
                args = (self._rest(args[0], dims), *args[1:])
            else:
                args = (self._rest(args[0], args[2] if len(args) > 2 else None), *args[1:])
        return func(*args, **kwargs)

    def _kept(self, tensor: Tensor, dim: int) -> Tensor | None:
        block = self.labels(tensor).at(dim)
        if block is None or len(block.dims) > 1:
            return None
        gone = self._gone[block.atoms]
        return torch.from_numpy(np.flatnonzero(~gone)) if gone.any() else None

    def _rest(self, tensor: Tensor, dims: Any) -> Tensor:
        dims = range(tensor.dim()) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        for dim in dims:
            kept = self._kept(tensor, dim)
            if kept is not None:
                tensor = _relabelled(self, tensor, dim, kept)
        return tensor

    def _layer_norm(self, func: Any, source: Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
        kept = self._kept(source, -1) if len(shape) == 1 else None
        if kept is None:
            return func(source, shape, weight, bias, eps)
        parts = (None if one is None else one[kept] for one in (weight, bias))
        small = func(source.index_select(-1, kept), [len(kept)], *parts, eps)
        return torch.zeros_like(source).index_copy(-1, kept, small[0]), *small[1:]

    def _group_norm(self, func: Any, source: Tensor, weight: Any, bias: Any, *rest: Any) -> Any:
        kept = self._kept(source, 1)
        if kept is None:
            return func(source, weight, bias, *rest)
        parts = (None if one is None else one[kept] for one in (weight, bias))
        small = func(source.index_select(1, kept).contiguous(), *parts, rest[0], len(kept), *rest[2:])
        return torch.zeros_like(source).index_copy(1, kept, small[0]), *small[1:]

    def _standardized(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Standardize weights, which some networks do by a BatchNorm over what is left of them."""
        kept = self._kept(args[0], 2)
        if kept is None:
            return func(*args, **kwargs)
        small = func(args[0].index_select(2, kept), *args[1:], **kwargs)
        return torch.zeros_like(args[0]).index_copy(2, kept, small[0]), *small[1:]


def _relabelled(recorder: KeptOnly, tensor: Tensor, dim: int, kept: Tensor) -> Tensor:
    """Return the part of a tensor that stays, with labels of its own for a second reduced dimension."""
    part = tensor.index_select(dim, kept)
    labels = recorder.labels(tensor)
    rest = tuple(block for block in labels.blocks if dim % tensor.dim() not in block.dims)
    recorder.name(part, type(labels)(tuple(part.shape), rest))
    return part


_REDUCING = frozenset(
    ["mean", "sum", "amax", "amin", "max", "var", "std", "var_mean", "linalg_vector_norm", "logsumexp"]
)


def answers(model: nn.Module, call: Callable[[nn.Module], list[Tensor]]) -> list[Tensor]:
    """Return the outputs of a model in eval mode."""
    torch.manual_seed(0)
    model.eval()
    with torch.no_grad():
        return call(model)
