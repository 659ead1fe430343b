"""Two tasks of the benchmarks of accuracy, each split by a seed into three: to train on, to select by, to report.

They need torch, and scikit-learn for the digits.
"""

from __future__ import annotations

import abc
import functools
import importlib.util
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

Part = tuple[Tensor, Tensor]
"""Inputs and their labels."""


class Task(abc.ABC):
    """Items with labels; a network sees each one changed at random, in another way in each epoch.

    Attributes
    ----------
    items, labels
        What to train on.
    dummy
        One input of a network.
    validation, held_out
        What to select by and what to report, each item changed in several ways.
    """

    DRAWS = (3, 5)
    """In how many ways an item of the second and of the third part is changed."""
    BATCH = 32

    def __init__(self, items: Tensor, labels: Tensor, parts: tuple[int, int, int], seed: int) -> None:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        split = list(zip(items[order].split(parts), labels[order].split(parts), strict=True))
        self.items, self.labels = split[0]
        generator = torch.Generator().manual_seed(0)
        self.validation, self.held_out = (
            (self._changed(part.repeat(draws, *[1] * (part.dim() - 1)), generator), answers.repeat(draws))
            for (part, answers), draws in zip(split[1:], self.DRAWS, strict=True)
        )
        self.dummy = torch.zeros_like(self.held_out[0][:1])

    @staticmethod
    @abc.abstractmethod
    def _changed(items: Tensor, generator: torch.Generator) -> Tensor:
        """Return inputs of the network, one for each item."""

    def _blurred(self, inputs: Tensor, _generator: torch.Generator) -> Tensor:
        """Make inputs harder, those alone that are trained on."""
        return inputs

    def train(
        self,
        model: nn.Module,
        epochs: int,
        seed: int,
        lr: float = 2e-3,
        loss: Callable[[nn.Module, Part], Tensor] | None = None,
        after: Callable[[int], None] = lambda epoch: None,
    ) -> None:
        """Train with Adam, in an order and with changes that the seed alone decides; by the labels, or by `loss`.

        `after` is called with the number of epochs after each; `model` is in eval mode then.
        """
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        for epoch in range(epochs):
            model.train()
            for batch in torch.randperm(len(self.items), generator=generator).split(self.BATCH):
                optimizer.zero_grad()
                inputs = self._blurred(self._changed(self.items[batch], generator), generator)
                labels = self.labels[batch]
                found = F.cross_entropy(model(inputs), labels) if loss is None else loss(model, (inputs, labels))
                found.backward()
                optimizer.step()
            after(epoch + 1)
        model.eval()

    def sample(self, number: int) -> Tensor:
        """Return inputs of the first part, always the same."""
        return self._changed(self.items[:number], torch.Generator().manual_seed(1))

    @staticmethod
    @torch.no_grad()
    def accuracy(model: nn.Module, part: Part) -> float:
        """Return the share of `part` that is read rightly."""
        model.eval()
        right = [
            model(inputs).argmax(1) == labels for inputs, labels in zip(*(x.split(500) for x in part), strict=True)
        ]
        return float(torch.cat(right).float().mean())


class HardDigits(Task):
    """The digits, each moved by up to a pixel and covered with noise."""

    NOISE = 0.3
    PARTS = (997, 400, 400)

    def __init__(self, seed: int) -> None:
        images, labels = load_digits(return_X_y=True)
        pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        super().__init__(pixels, torch.tensor(labels), self.PARTS, seed)

    @staticmethod
    def _changed(items: Tensor, generator: torch.Generator) -> Tensor:
        padded = F.pad(items, (1, 1, 1, 1))
        down, right = torch.randint(0, 3, (2, len(items), 1, 1), generator=generator)
        place = torch.arange(8)
        moved = padded[torch.arange(len(items))[:, None, None], 0, down + place[:, None], right + place[None, :]]
        return moved[:, None] + HardDigits.NOISE * torch.randn(items.shape, generator=generator)


class Sources(Task):
    """From which module of Python's standard library is a piece of source: 32 tokens in a row, each by its hash.

    The sources are cut into pieces of 64 tokens, of which a window of 32 is seen. No piece is in two parts, and none is
    taken that repeats a window of another. In training some tokens are hidden. Other releases of Python have slightly
    other sources.
    """

    MODULES = ("_pydecimal", "turtle", "typing", "doctest", "tarfile", "argparse")
    PIECE, LENGTH, WORDS = 64, 32, 512
    MOST = 360
    """Pieces of a module."""
    PARTS = (1200, 400)
    HIDDEN = 0.3

    def __init__(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        pieces = [piece[torch.randperm(len(piece), generator=random)[: self.MOST]] for piece in _pieces()]
        labels = torch.cat([torch.full((len(piece),), number) for number, piece in enumerate(pieces)])
        parts = (*self.PARTS, len(labels) - sum(self.PARTS))
        super().__init__(torch.cat(pieces), labels, parts, seed)

    @staticmethod
    def _changed(items: Tensor, generator: torch.Generator) -> Tensor:
        starts = torch.randint(0, Sources.PIECE - Sources.LENGTH + 1, (len(items), 1), generator=generator)
        return items.gather(1, starts + torch.arange(Sources.LENGTH))

    def _blurred(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs.masked_fill(torch.rand(inputs.shape, generator=generator) < self.HIDDEN, 0)


@functools.cache
def _pieces() -> tuple[Tensor, ...]:
    """Return the pieces of each module's source, [pieces, tokens]; one with a window of an earlier one is left out."""
    seen: set[tuple[int, ...]] = set()
    found = []
    for module in Sources.MODULES:
        numbers, pieces = _tokens(module), []
        for start in range(0, len(numbers) - Sources.PIECE + 1, Sources.PIECE):
            piece = numbers[start : start + Sources.PIECE]
            windows = {tuple(piece[at : at + Sources.LENGTH]) for at in range(Sources.PIECE - Sources.LENGTH + 1)}
            if not windows & seen:
                pieces.append(piece)
            seen |= windows
        found.append(torch.tensor(pieces))
    return tuple(found)


def _tokens(module: str) -> list[int]:
    """Return the tokens of a module's source, words and signs, by their hashes from 1 on."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    tokens = re.findall(r"\w+|[^\w\s]", Path(spec.origin).read_text(encoding="utf-8"))
    return [1 + zlib.crc32(token.encode()) % (Sources.WORDS - 1) for token in tokens]


TASKS: Mapping[str, Callable[[int], Task]] = {
    "resnet": HardDigits,
    "mobilenet": HardDigits,
    "vit": HardDigits,
    "resnet56": HardDigits,
    "bert": Sources,
}
"""Network -> its task, of a seed."""
