"""Layers of which zeroed weights alone are not the sliced layer, while a model is masked.

A norm over channels computes its mean and variance over the removed ones, which are zero, as well, see
`raycompress.compressors.masking.reductions`. An attention of torch never calls its output projection, so that a hook
on that one would never run. And torch's encoder
packs padded inputs into nested tensors, which its layers accept only where they have no hooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from raycompress.compressors.masking.reductions import (
    InsideHook,
    Kept,
    ReductionEnd,
    ReductionHook,
    hold_reductions,
)


@dataclass(frozen=True)
class Reductions:
    """What stays of the reductions over channels in a masked model.

    Attributes
    ----------
    calls
        Module -> for each reduction of a call of it, in order, what stays: in eval mode, and in train mode.
    """

    calls: Mapping[str, tuple[Sequence[Kept], Sequence[Kept]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.calls)

    def widths(self, module: str) -> dict[int, int]:
        """Return what a reduction of a module runs over -> what stays of it."""
        return {
            kept.whole[dim]: len(places)
            for calls in self.calls.get(module, ())
            for kept in calls
            for dim, places in kept.places.items()
        }


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


def hold(model: nn.Module, reductions: Reductions, removed: Mapping[tuple[str, str], Tensor]) -> None:
    """Make `model` compute, masked, what it will compute sliced; replaces what an earlier call did.

    Parameters
    ----------
    reductions
        What stays of its reductions over channels.
    removed
        (module, parameter) -> bool tensor, True where a weight goes.
    """
    release(model)
    hold_reductions(model, reductions.calls)
    for name, module in model.named_modules():
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
                if isinstance(hook, (ReductionHook, ReductionEnd, InsideHook, ProjectionHook, PaddingHook)):
                    del hooks[key]
                    module._forward_hooks_always_called.pop(key, None)
                if isinstance(hook, PaddingHook) and isinstance(module, nn.TransformerEncoder):
                    module.use_nested_tensor = hook.before
