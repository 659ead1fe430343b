"""One network of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.structures import tensors_in


@dataclass(frozen=True)
class Network:
    """One network: how it is made, with random weights, and how it is called.

    Attributes
    ----------
    name
        Its library and its name there, such as ``timm/xcit_nano_12_p16_224``.
    build
        Makes it. The library is imported here.
    call
        Calls it; in train mode with what its losses need.
    task
        What it is for, in one word.
    watched
        Modules whose outputs are compared in place of the network's: a detector sorts its boxes, and the least
        difference changes the order of equal ones.
    """

    name: str
    build: Callable[[], nn.Module]
    call: Callable[[nn.Module], Any]
    task: str = "classification"
    watched: tuple[str, ...] = ()

    def tensors(self, model: nn.Module) -> list[Tensor]:
        """Call `model` and return what is compared."""
        seen: list[Tensor] = []
        hooks = [
            model.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output: seen.extend(tensors_in(output))
            )
            for name in self.watched
        ]
        try:
            answered = tensors_in(self.call(model))
        finally:
            for hook in hooks:
                hook.remove()
        return seen or answered


def images(size: int | tuple[int, ...], batch: int = 2, channels: int = 3) -> Tensor:
    """Return random images; `size` is an edge, or all lengths after the channels."""
    edges = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, channels, *edges, generator=torch.Generator().manual_seed(0))


def on_images(size: int | tuple[int, ...], batch: int = 2) -> Callable[[nn.Module], Any]:
    """Return a call with a batch of images."""
    return lambda model: model(images(size, batch))
