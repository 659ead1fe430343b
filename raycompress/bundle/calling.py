"""Ways of calling a model that keep torch from computing whole layers, or the whole model, in one operation.

What counts, follows or exports operations sees none of those inside.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


def uncompiled() -> AbstractContextManager[Any]:
    """Run compiled models as they are written; where nothing was compiled, the compiler is not imported for it."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def running_modules(
    model: nn.Module, is_watched: Callable[[nn.Module], bool] = lambda _module: True
) -> Iterator[list[str]]:
    """Yield a list whose last member is the name of the watched module that computes; empty outside of all."""
    running = [""]

    def leave(*_: Any) -> None:
        running.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if is_watched(module):
                # first of all, so that what other hooks compute is the module's
                enter = module.register_forward_pre_hook(lambda *_, name=name: running.append(name), prepend=True)
                hooks.callback(enter.remove)
                hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield running


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Keep torch from computing an encoder layer, or its attention, in one operation."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def without_onednn() -> Iterator[None]:
    """Keep oneDNN, which torch calls MKL-DNN, from computing an LSTM in one operation; convolutions get slower."""
    flags = torch.backends.mkldnn.flags(enabled=False)
    with _silently():
        flags.__enter__()
    try:
        yield
    finally:
        with _silently():
            flags.__exit__(None, None, None)


@contextmanager
def _silently() -> Iterator[None]:
    """Keep back torch's warning of a setting for Intel's GPUs, which is set along with the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
