"""Models that scripts wrap before they hand them over: by torch.compile, DataParallel or TorchScript."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import torch
from torch import nn

from raycompress.errors import CompressionError


def inside(model: nn.Module, where: str = "create_compressor") -> nn.Module:
    """Return the model inside the wrappers of ``torch.compile`` and ``nn.DataParallel``, which has the layers' names.

    Parameters
    ----------
    where
        Where the model was given, for the error.

    Raises
    ------
    CompressionError
        It is TorchScript, an exported program or wrapped for several processes: nothing can be taken out of these.
    """
    while True:
        if isinstance(model, nn.DataParallel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule":  # of a compiler that need not be loaded
            model = model.get_submodule("_orig_mod")
        else:
            break
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise CompressionError(
            f"{kind} is TorchScript, whose layers are fixed",
            where=where,
            fix="compress the module that it was made from, and call torch.jit.script or torch.jit.trace on the result",
        )
    if isinstance(model, torch.fx.GraphModule) and not _can_evaluate(model):
        raise CompressionError(
            f"{kind} is a program of torch.export, whose sizes are fixed",
            where=where,
            fix="compress the module that it was made from, and call torch.export on the result",
        )
    if isinstance(model, nn.parallel.DistributedDataParallel) or kind in ("FullyShardedDataParallel", "FSDP"):
        raise CompressionError(
            f"the model is wrapped as {kind}, which keeps lists of the parameters as they are",
            where=where,
            fix="call create_compressor before DistributedDataParallel(model) or accelerator.prepare(model), with the "
            "module that is inside it now (model.module), and wrap what compress() or apply_speedup() returns",
        )
    return model


def _can_evaluate(model: nn.Module) -> bool:
    """Tell whether a model has an eval mode: the module of an exported program refuses it."""
    training = model.training
    try:
        model.train(training)
    except NotImplementedError:
        return False
    return True


def is_sharded(model: nn.Module) -> bool:
    """Tell whether parameters are spread over several workers (``fully_shard``), so that none has the model whole."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def refuse_replicas(model: nn.Module) -> None:
    """Make DistributedDataParallel around `model`, which was sliced just now, raise CompressionError in training.

    It keeps the parameters that it was given: those that the model has now would be trained by each worker alone. What
    is evaluated by it is right.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        wrappers = [one for one in gc.get_objects() if type(one) is nn.parallel.DistributedDataParallel]
        for one in wrappers:
            if any(module is model for module in one.modules()):
                one.register_forward_pre_hook(_refuse_training)


def _refuse_training(wrapper: nn.Module, _inputs: Any) -> None:
    if wrapper.training and torch.is_grad_enabled():
        raise CompressionError(
            "the model was made small after it was wrapped as DistributedDataParallel, which trains the parameters "
            "that it was given",
            where="the training after apply_speedup()",
            fix="wrap what apply_speedup() returns, DistributedDataParallel(small) or accelerator.prepare(small); with "
            '"slice": "before" pass dummy_input= to create_compressor, so that compress() slices',
        )


class ForWrapper:
    """A compressor of the model inside a wrapper; what it returns is the wrapper, which the script has.

    Parameters
    ----------
    made
        The compressor.
    wrapper
        The wrapper.
    """

    def __init__(self, made: Any, wrapper: nn.Module) -> None:
        self._made, self._wrapper = made, wrapper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    def compress(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Compress the model inside; see `raycompress.compressors.base.BaseCompressor.compress`."""
        self._made.compress(*args, **kwargs)
        self._wrapper.training = self._made.model.training
        return self._wrapper

    def apply_speedup(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Make it small; see `raycompress.compressors.base.BaseCompressor.apply_speedup`."""
        self._made.apply_speedup(*args, **kwargs)
        self._wrapper.training = self._made.model.training
        return self._wrapper


class Uncompiled:
    """Lets compiled code run as it is written, from `hold` to `release`, in the whole process.

    Compiled code does not look whether a layer has got a hook meanwhile: masks would not be kept.
    """

    def __init__(self) -> None:
        self._end: weakref.finalize[[], Uncompiled] | None = None

    def hold(self) -> None:
        """Begin; nothing is done where no compiler is loaded, so that nothing is compiled."""
        if self._end is None and "torch._dynamo" in sys.modules:
            _enter()
            self._end = weakref.finalize(self, _leave)

    def release(self) -> None:
        """End."""
        if self._end is not None:
            self._end()
            self._end = None


_holders = 0
_before: Any = None


def _enter() -> None:
    global _holders, _before
    if not _holders:
        _before = torch.compiler.set_stance("force_eager")
    _holders += 1


def _leave() -> None:
    global _holders, _before
    _holders -= 1
    if not _holders:
        _before.__exit__(None, None, None)
        _before = None
