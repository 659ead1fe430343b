"""Masks on a model in training: what is pruned stays zero while the user's script goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raycompress.bundle.example import Example
from raycompress.compressors.masking import masked_calls
from raycompress.compressors.wrappers import Uncompiled
from raycompress.errors import CompressionError

Removed = Mapping[tuple[str, str], Tensor]
"""(module name, parameter name) -> bool tensor of the parameter's shape, True where the weight is removed."""


class MaskHook:
    """Forward pre-hook of one module: sets the removed entries of its parameters to zero.

    It owns its tensors and nothing else, so a deep copy or a pickle of the model carries its masks along.
    """

    def __init__(self, removed: dict[str, Tensor]) -> None:
        self.removed = removed

    def __call__(self, module: nn.Module, _inputs: Any) -> None:
        """Apply, before the module computes."""
        self.apply(module)

    def apply(self, module: nn.Module) -> None:
        """Set the removed entries to zero, on the module's current device."""
        for name, removed in self.removed.items():
            parameter = getattr(module, name)
            if hasattr(parameter, "device_mesh"):
                raise CompressionError(
                    "the compressed model was sharded over the workers (fully_shard): a part of a weight has no mask",
                    where="the training after compress()",
                    fix="train it under DistributedDataParallel; a frozen teacher may be sharded",
                )
            if removed.device != parameter.device:
                self.removed[name] = removed = removed.to(parameter.device)
            # .data: autograd's version counter stays, so a backward pass of an earlier forward still works
            parameter.data.masked_fill_(removed, 0)


class Masks:
    """The masks of one model, held by hooks until `release`.

    Parameters
    ----------
    model
        The user's model; it is changed in place.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooks: dict[str, MaskHook] = {}
        self._handles: list[RemovableHandle] = []
        self._uncompiled = Uncompiled()

    def hold(self, removed: Removed) -> None:
        """Replace all masks by `removed`, and apply them."""
        self.release()
        by_module: dict[str, dict[str, Tensor]] = {}
        for (module, name), mask in removed.items():
            by_module.setdefault(module, {})[name] = mask
        modules = dict(self._model.named_modules())
        for module, masks in by_module.items():
            hook = MaskHook(masks)
            self._hooks[module] = hook
            self._handles.append(modules[module].register_forward_pre_hook(hook))
        if by_module:
            masked_calls.keep_padding(self._model)
            self._uncompiled.hold()
        self.apply()

    def apply(self) -> None:
        """Set everything that is removed to zero, now."""
        modules = dict(self._model.named_modules())
        for name, hook in self._hooks.items():
            hook.apply(modules[name])
        # inside an autocast block torch goes on with the casts that it made of the weights as they were
        torch.clear_autocast_cache()

    def release(self) -> None:
        """Remove the hooks; the weights stay as they are."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hooks.clear()
        self._uncompiled.release()

    def kept(self) -> dict[str, Tensor]:
        """Return ``{module.parameter: uint8 tensor}``, 1 where the weight stays."""
        return {
            f"{module}.{name}" if module else name: (~removed).to(device="cpu", dtype=torch.uint8)
            for module, hook in self._hooks.items()
            for name, removed in hook.removed.items()
        }


class FirstCall:
    """Forward pre-hook of the whole model: passes the input of its first call on, once.

    A deep copy or a pickle of the model carries a hook that does nothing.
    """

    def __init__(self, learn: Callable[[Example], None] | None = None) -> None:
        self._learn = learn
        self._handle: RemovableHandle | None = None
        self._uncompiled = Uncompiled()

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Pass the input on, once.

        Torch passes no `kwargs` where the hook was removed by one that ran before it in the same call.
        """
        learn = self._learn
        self.cancel()
        if learn is not None:
            # a script may call its model in inference mode first; what is copied there could not be traced
            with torch.inference_mode(False):
                learn(Example.of_first_call(module, args, dict(kwargs)))

    def __reduce__(self) -> tuple[type[FirstCall], tuple[()]]:
        return FirstCall, ()

    @property
    def waits(self) -> bool:
        """Whether the first call is still to come."""
        return self._handle is not None

    def watch(self, model: nn.Module) -> FirstCall:
        """Wait for the first call of `model`."""
        self._handle = model.register_forward_pre_hook(self, with_kwargs=True, prepend=True)
        self._uncompiled.hold()
        return self

    def cancel(self) -> None:
        """Stop waiting."""
        self._learn = None
        self._uncompiled.release()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def is_masked(model: nn.Module) -> bool:
    """Return whether masks are held on a model, or on the model that it is a copy of."""
    return any(isinstance(hook, MaskHook) for module in model.modules() for hook in module._forward_pre_hooks.values())


def mask_as(copied: nn.Module, model: nn.Module) -> None:
    """Set to zero in a copy, such as an average of the weights, what the masks of `model` remove."""
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, MaskHook):
                hook.apply(copied.get_submodule(name))


def drop_hooks(model: nn.Module) -> None:
    """Remove the hooks of this module from a copy of a model, for which no handles exist."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, (MaskHook, FirstCall)):
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


@contextmanager
def unhooked(model: nn.Module) -> Iterator[None]:
    """Let `model` compute without the hooks of this folder, which are in their places again afterwards."""
    kinds = [
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
        "_forward_hooks_always_called",
    ]
    before = [
        (module, {kind: dict(vars(module)[kind]) for kind in kinds}, vars(module).get("use_nested_tensor"))
        for module in model.modules()
        if module._forward_hooks or module._forward_pre_hooks
    ]
    drop_hooks(model)
    masked_calls.release(model)
    try:
        yield
    finally:
        for module, hooks, nested in before:
            for kind, entries in hooks.items():
                vars(module)[kind].clear()
                vars(module)[kind].update(entries)
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = bool(nested)
