"""Layers of which zeroed weights alone are not the sliced layer, while a model is masked.

A norm over channels computes its mean and variance over the removed ones, which are zero, as well. An
attention of torch never calls its output projection, so that a hook on that one would never run. And torch's encoder
packs padded inputs into nested tensors, which its layers accept only where they have no hooks.
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

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor:
        """Return what the sliced norm would, at the places of the kept channels."""
        assert isinstance(module, (nn.LayerNorm, nn.GroupNorm))
        whole = inputs[0] if inputs else named["input"]
        self.kept = kept = self.kept.to(output.device)
        weight, bias = (None if tensor is None else tensor[kept] for tensor in (module.weight, module.bias))
        if isinstance(module, nn.LayerNorm):
            dim, part = -1, whole.index_select(-1, kept)
            small = nn.functional.layer_norm(part, (len(kept),), weight, bias, module.eps)
        else:
            dim, part = 1, whole.index_select(1, kept)
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


class PaddingHook:
    """Forward pre-hook of ``nn.TransformerEncoder``: keeps it from packing its inputs.

    Parameters
    ----------
    before
        Its ``use_nested_tensor``, for `release` to put back.
    """

    def __init__(self, before: bool) -> None:
        self.before = before

    def __call__(self, module: nn.Module, _inputs: Any) -> None:
        """Apply, before the encoder looks."""
        assert isinstance(module, nn.TransformerEncoder)
        module.use_nested_tensor = False


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
            module.register_forward_hook(NormHook(norms[name]), with_kwargs=True)
        if isinstance(module, nn.MultiheadAttention):
            masks = {key: mask for (owner, key), mask in removed.items() if owner == f"{name}.out_proj".lstrip(".")}
            if masks:
                module.register_forward_pre_hook(ProjectionHook(masks))
    if removed:
        keep_padding(model)


def keep_padding(model: nn.Module) -> None:
    """Keep the encoders of a model with hooks from packing padded inputs, until `release`."""
    for module in model.modules():
        known = any(isinstance(hook, PaddingHook) for hook in module._forward_pre_hooks.values())
        if isinstance(module, nn.TransformerEncoder) and not known:
            module.register_forward_pre_hook(PaddingHook(module.use_nested_tensor))
            module.use_nested_tensor = False  # where it is the model itself, its hooks of this call are listed already


def release(model: nn.Module) -> None:
    """Remove the hooks of `hold` from a model, or from a copy of one."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, (NormHook, ProjectionHook, PaddingHook)):
                    del hooks[key]
                    module._forward_hooks_with_kwargs.pop(key, None)
                if isinstance(hook, PaddingHook) and isinstance(module, nn.TransformerEncoder):
                    module.use_nested_tensor = hook.before
