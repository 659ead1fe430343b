"""Records the inputs that a model is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raycompress.bundle.example import Example, tensors_in


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

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the inputs of one call."""
        if self._missing <= 0:
            return
        batch = Example(args, kwargs)
        size = _batch_size(batch)
        kept = min(size, self._missing)
        # as dummy_input is: detached copies, made outside of inference mode
        self.batches.append(batch.map(lambda tensor: _copy(_first(tensor, size, kept))))
        self._missing -= kept
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
        return sum(_batch_size(batch) for batch in self.batches)

    def watch(self, model: nn.Module) -> Calls:
        """Keep the inputs of `model` from now on."""
        self._handle = model.register_forward_pre_hook(self, with_kwargs=True, prepend=True)
        return self

    def cancel(self) -> None:
        """Stop keeping inputs."""
        self._missing = 0
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _batch_size(batch: Example) -> int:
    found = tensors_in([batch.args, batch.kwargs])
    return found[0].size(0) if found and found[0].dim() else 1


def _first(tensor: Tensor, size: int, kept: int) -> Tensor:
    return tensor[:kept] if tensor.dim() and tensor.size(0) == size else tensor


def _copy(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return tensor.detach().clone()
