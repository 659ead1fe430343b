"""What all adapters of NNI share: importing it, silencing it, and reading its masks."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.catalog.rounding import removed_count
from raycompress.compressors.engine import Request
from raycompress.compressors.targets.torch import Target
from raycompress.errors import CompressionError, RaycompressError

_IMPORT_LOCK = threading.Lock()

_OTHER_LOGGERS = ("torch pruner", "torch filter pruners", "Sensitivity_Pruner", "Sensitivity_Analysis")
"""NNI's loggers outside its own hierarchy."""


def load_nni(part: str = "pruning") -> ModuleType:
    """Import and return one of the two parts of ``nni.algorithms.compression.pytorch``: pruning or quantization.

    NNI and torch's tensorboard import tensorflow where it is installed, which costs seconds and 865 MB: it is hidden
    during the import. NNI's handler on stdout is removed, and the root logger is put back as it was.
    """
    with _IMPORT_LOCK:
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        hidden = "tensorflow" not in sys.modules
        if hidden:
            sys.modules["tensorflow"] = None  # type: ignore[assignment]
        try:
            nni = importlib.import_module("nni")
            module = importlib.import_module(f"nni.algorithms.compression.pytorch.{part}")
        finally:
            if hidden:
                sys.modules.pop("tensorflow", None)
            root.handlers[:] = handlers
            root.setLevel(level)
        nni.silence_stdout()
        logging.getLogger("nni").setLevel(logging.WARNING)
        return module


def quiet(request: Request) -> contextlib.AbstractContextManager[None]:
    """Discard what NNI prints and logs for a pruner; see `silent`."""
    return silent(request.compressor.name, request.model)


@contextlib.contextmanager
def silent(
    name: str, model: nn.Module, instead: str = "another compressor; `raycompress compressors` lists them"
) -> Iterator[None]:
    """Discard what NNI prints and logs, and raise CompressionError for its assertions.

    Parameters
    ----------
    name, model
        The compressor, and what it works on.
    instead
        What the error suggests instead, beside other layers.
    """
    # each by itself: a logger with a level of its own, as NNI's have, does not ask its parents
    disabled = {logger: logger.disabled for logger in _loggers()}
    for logger in disabled:
        logger.disabled = True
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    except RaycompressError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CompressionError(
            f"NNI's {name} failed on this model: {reason}",
            where=f"create_compressor, {type(model).__name__}",
            fix=f"name other layers, or {instead}",
        ) from error
    finally:
        for logger, before in disabled.items():
            logger.disabled = before


def _loggers() -> list[logging.Logger]:
    names = [name for name in logging.Logger.manager.loggerDict if name.partition(".")[0] == "nni"]
    return [logging.getLogger(name) for name in (*names, *_OTHER_LOGGERS)]


def with_contiguous_weights(model: nn.Module) -> nn.Module:
    """Return `model`, its weights laid out in order: NNI views them as vectors. Their values stay as they are."""
    for parameter in model.parameters():
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()
    return model


def positive(targets: Mapping[str, Target]) -> list[str]:
    """Return the names of the layers with a positive sparsity: NNI accepts 0 < sparsity < 1 only."""
    return [name for name, target in targets.items() if target.sparsity > 0]


def config_of(name: str, target: Target) -> dict[str, Any]:
    """Return the entry of NNI's config_list for one layer."""
    return {"sparsity": target.sparsity, "op_types": [target.type], "op_names": [name]}


def aware_options(request: Request) -> dict[str, Any]:
    """Return NNI's arguments for ``dependency_aware``; raises CompressionError without an input."""
    if not request.arguments.get("dependency_aware", False):
        return {}
    if request.example is None:
        raise CompressionError(
            f"{request.compressor.name} with dependency_aware needs to know an input",
            where="create_compressor",
            fix="pass dummy_input=, such as torch.randn(1, 3, 32, 32)",
        )
    args = request.example.args
    return {"dependency_aware": True, "dummy_input": args[0] if len(args) == 1 else args}


def asked_of(request: Request) -> dict[str, int]:
    """Return how many channels each layer loses at its sparsity."""
    modules = dict(request.model.named_modules())
    return {
        name: removed_count(channels_of(modules[name]), target.sparsity) for name, target in request.targets.items()
    }


def masks_of(pruner: Any) -> dict[str, Tensor]:
    """Run a pruner and return the weight masks of its layers, on the CPU; its wrappers are removed from the model."""
    try:
        if pruner.get_modules_wrapper():
            pruner.compress()
    finally:
        pruner._unwrap_model()
    return {wrapper.name: wrapper.weight_mask.detach().cpu() for wrapper in pruner.get_modules_wrapper()}


def removed_channels(mask: Tensor) -> tuple[int, ...]:
    """Return the output channels whose whole mask, of a weight's shape, is zero."""
    kept = mask.reshape(mask.size(0), -1).sum(dim=1) > 0
    return tuple(torch.nonzero(~kept).flatten().tolist())


def channels_of(layer: nn.Module) -> int:
    """Return the number of output channels of a layer with a weight."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.size(0)


def everything(request: Request, name: str, what: str) -> CompressionError:
    """Return the error of a layer that would lose all its channels or weights."""
    target = request.targets[name]
    return CompressionError(
        f'{request.compressor.name} at sparsity {target.sparsity:g} would remove all {what} of "{name}"',
        where=f"config_list[{target.entry}]",
        fix=f'a smaller sparsity, or an entry of its own for "{name}"; its weights may be all alike',
    )
