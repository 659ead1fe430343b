"""Gradients for the methods of Torch-Pruning that measure the loss: group_taylor and group_hessian."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError


class Gradients:
    """Sums over the gradients of batches.

    The gradient of a batch is that of the loss which the script computes for it, most often a mean over its samples.
    For the Taylor method their absolute values are averaged over the batches, so that a channel's importance is the
    mean of what it would be on each. For the Hessian their squares are: an estimate of its diagonal by the gradients
    of whole batches, not of single samples.

    Parameters
    ----------
    model
        The model that is trained.
    squared
        Whether squares are averaged.
    wanted
        How many batches.
    """

    def __init__(self, model: nn.Module, squared: bool, wanted: int) -> None:
        self.model, self.squared, self.wanted = model, squared, wanted
        self.seen = 0
        self._sums: dict[str, Tensor] = {}

    @property
    def complete(self) -> bool:
        """Whether enough batches were seen."""
        return self.seen >= self.wanted

    def add(self) -> None:
        """Add the current gradients of the model's parameters."""
        self.seen += 1
        for name, parameter in self.model.named_parameters():
            if parameter.grad is None:
                continue
            gradient = parameter.grad.detach()
            value = gradient.square() if self.squared else gradient.abs()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()

    def fill(self, model: nn.Module, layers: Mapping[str, int]) -> None:
        """Put the means where Torch-Pruning looks for them: the gradients of `model`, a copy.

        Parameters
        ----------
        layers
            Layers that must have one -> the config_list entry that names them.

        Raises
        ------
        CompressionError
            No gradient reached one of `layers`.
        """
        for name, parameter in model.named_parameters():
            found = self._sums.get(name)
            parameter.grad = torch.zeros_like(parameter) if found is None else (found / self.seen).to(parameter)
        names = {id(parameter): name for name, parameter in model.named_parameters()}  # one of a shared weight's
        for name, entry in layers.items():
            own = [names[id(one)] for key, one in model.get_submodule(name).named_parameters() if "bias" not in key]
            if not any(one in self._sums for one in own):
                raise no_gradient(f'no gradient reached "{name}" in {self.seen} batches', entry)


def no_gradient(what: str, entry: int) -> CompressionError:
    """Return the error for a layer that is judged by a gradient which it does not get."""
    return CompressionError(
        what,
        where=f"config_list[{entry}]",
        fix="train all of the model, or use a compressor that needs no gradients, such as group_l2",
    )


class _EnoughError(Exception):
    """Raised out of a trainer once all batches were seen."""


class _Recorder(torch.optim.Optimizer):
    """An optimizer whose steps record gradients and change nothing."""

    def __init__(self, model: nn.Module, gradients: Gradients) -> None:
        super().__init__(model.parameters(), {"lr": 0.0})
        self._gradients = gradients

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Add the gradients; raises `_EnoughError` after the last batch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._gradients.add()
        if self._gradients.complete:
            raise _EnoughError
        return loss


def by_trainer(model: nn.Module, trainer: Callable[..., Any], criterion: Any, squared: bool, wanted: int) -> Gradients:
    """Let `trainer` train a copy of `model` whose weights do not move, and return the gradients.

    Raises
    ------
    CompressionError
        It never calls the optimizer's ``step``.
    """
    copied = clean_copy(model).train()
    gradients = Gradients(copied, squared, wanted)
    optimizer = _Recorder(copied, gradients)
    epoch = 0
    try:
        while not gradients.complete:
            before = gradients.seen
            trainer(copied, optimizer, criterion, epoch)
            if gradients.seen == before:
                raise CompressionError(
                    "trainer called no step of the optimizer that it was given",
                    where="create_compressor, trainer=",
                    fix="trainer(model, optimizer, criterion, epoch) trains that model with that optimizer",
                )
            epoch += 1
    except _EnoughError:
        pass
    return gradients
