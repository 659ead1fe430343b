"""One network of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


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
    tasks
        What it is for, in one word.
    """

    name: str
    build: Callable[[], nn.Module]
    call: Callable[[nn.Module], Any]
    task: str = field(default="classification")


def images(size: int | tuple[int, ...], batch: int = 2, channels: int = 3) -> Tensor:
    """Return random images; `size` is an edge, or all lengths after the channels."""
    edges = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, channels, *edges, generator=torch.Generator().manual_seed(0))


def on_images(size: int | tuple[int, ...], batch: int = 2) -> Callable[[nn.Module], Any]:
    """Return a call with a batch of images."""
    return lambda model: model(images(size, batch))
