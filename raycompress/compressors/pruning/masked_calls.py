"""Layers of which zeroed weights alone are not the sliced layer, while a model is masked.

A norm over channels takes its mean and variance over those that are removed as well, zero though they are. And an
attention of torch never calls its output projection, so that a hook on that one would never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class NormHook:
    """Forward hook of a LayerNorm or GroupNorm: the norm over the kept channels, zeros at the others.

    Parameters
    ----------
    kept
        The channels that stay, ascending.
    """

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Return what the sliced norm would, at the places of the kept channels."""
        assert isinstance(module, (nn.LayerNorm, nn.GroupNorm))
        self.kept = kept = self.kept.to(output.device)
        weight, bias = (None if tensor is None else tensor[kept] for tensor in (module.weight, module.bias))
        if isinstance(module, nn.LayerNorm):
            dim, part = -1, inputs[0].index_select(-1, kept)
            small = nn.functional.layer_norm(part, (len(kept),), weight, bias, module.eps)
        else:
            dim, part = 1, inputs[0].index_select(1, kept)
            small = nn.functional.group_norm(part, module.num_groups, weight, bias, module.eps)
        return torch.zeros_like(output).index_copy(dim, kept, small.to(output.dtype))


class ProjectionHook:
    """Forward pre-hook of ``nn.MultiheadAttention``: holds the masks of its ``out_proj``.

    Parameters
    ----------
    removed
        Parameter of the projection -> bool tensor, True where a weight goes.
    """

    def __init__(self, removed: dict[str, Tensor]) -> None:
        self.removed = removed

    def __call__(self, module: nn.Module, _inputs: Any) -> None:
        """Apply, before the attention computes."""
        for name, removed in self.removed.items():
            parameter = getattr(module.out_proj, name)
            self.removed[name] = removed = removed.to(parameter.device)
            parameter.data.masked_fill_(removed, 0)


def hold(model: nn.Module, norms: Mapping[str, Tensor], removed: Mapping[tuple[str, str], Tensor]) -> None:
    """Make `model` compute, masked, what it will compute sliced; replaces what an earlier call did.

    Parameters
    ----------
    norms
        Norm layer -> channels that stay.
    removed
        (module, parameter) -> bool tensor, True where a weight goes.
    """
    release(model)
    for name, module in model.named_modules():
        if name in norms:
            module.register_forward_hook(NormHook(norms[name]))
        if isinstance(module, nn.MultiheadAttention):
            masks = {key: mask for (owner, key), mask in removed.items() if owner == f"{name}.out_proj".lstrip(".")}
            if masks:
                module.register_forward_pre_hook(ProjectionHook(masks))


def release(model: nn.Module) -> None:
    """Take the hooks of `hold` off a model, or off a copy of one."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, (NormHook, ProjectionHook)):
                    del hooks[key]
