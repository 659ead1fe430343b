"""Records the inputs that a model is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raycompress.bundle.example import Example
from raycompress.compressors.wrappers import Uncompiled


class Calls:
    """Forward pre-hook of the whole model: keeps copies of its inputs, up to a number of samples.

    A deep copy or a pickle of the model carries a hook that does nothing.

    Parameters
    ----------
    samples
        How many to keep; the batch that reaches it is cut.
    enough
        Called once they are there.
    """

    def __init__(self, samples: int = 0, enough: Callable[[], None] | None = None) -> None:
        self.batches: list[Example] = []
        self._missing = samples
        self._enough = enough
        self._handle: RemovableHandle | None = None
        self._uncompiled = Uncompiled()

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the inputs of one call."""
        if self._missing <= 0:
            return
        batch = Example(args, kwargs)
        if not batch.is_list:  # of images, which need not be cut
            batch = batch.part(0, self._missing)
        # as dummy_input is: detached copies, made outside of inference mode
        self.batches.append(batch.map(_copy))
        self._missing -= batch.batch
        if self._missing <= 0:
            enough = self._enough
            self.cancel()
            if enough is not None:
                enough()

    def __reduce__(self) -> tuple[type[Calls], tuple[()]]:
        return Calls, ()

    @property
    def samples(self) -> int:
        """How many samples are kept so far."""
        return sum(batch.batch for batch in self.batches)

    def watch(self, model: nn.Module) -> Calls:
        """Keep the inputs of `model` from now on."""
        self._handle = model.register_forward_pre_hook(self, with_kwargs=True, prepend=True)
        self._uncompiled.hold()
        return self

    def cancel(self) -> None:
        """Stop keeping inputs."""
        self._missing = 0
        self._uncompiled.release()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _copy(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return tensor.detach().clone()
