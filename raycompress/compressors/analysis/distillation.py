"""A few steps of training towards the dense model's answers: no labels and no loss of the script's are needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as functions

from raycompress.compressors.analysis.agreement import classes_at
from raycompress.compressors.example import Example, tensors_in

_RATE = 2e-3


def distil(model: nn.Module, batches: Sequence[Example], answers: Sequence[Sequence[Tensor]], steps: int) -> None:
    """Train `model` for a few steps to answer as the dense model did; it is left in eval mode.

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015.

    Parameters
    ----------
    batches
        What it is called with, again and again in this order.
    answers
        What the dense model answered to each of them.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    if not parameters or not batches:
        return
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    place = classes_at(answers[0])
    model.train()
    with torch.enable_grad():
        for batch, wanted in itertools.islice(itertools.cycle(zip(batches, answers, strict=True)), steps):
            optimizer.zero_grad()
            _difference(tensors_in(batch.call(model)), wanted, place).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.eval()


def _difference(got: Sequence[Tensor], wanted: Sequence[Tensor], place: int | None) -> Tensor:
    """Return the loss: of a classifier the divergence of its answers, of others the square error by what there is."""
    if place is not None:
        return functions.kl_div(got[place].log_softmax(1), wanted[place].softmax(1), reduction="batchmean")
    pairs = [(one, other) for one, other in zip(got, wanted, strict=True) if other.is_floating_point()]
    errors = [functions.mse_loss(one, other) / other.square().mean().clamp_min(1e-12) for one, other in pairs]
    return torch.stack(errors).sum()


def in_pieces(batches: Sequence[Example], size: int) -> list[Example]:
    """Return the same samples in batches of at most `size`; what has no batch dimension stays whole."""
    return [piece for batch in batches for piece in _pieces(batch, size)]


def _pieces(batch: Example, size: int) -> Iterator[Example]:
    found = tensors_in([batch.args, batch.kwargs])
    whole = found[0].size(0) if found and found[0].dim() else 1
    if whole <= size:
        yield batch
        return
    for start in range(0, whole, size):

        def cut(tensor: Tensor, start: int = start) -> Tensor:
            return tensor[start : start + size] if tensor.dim() and tensor.size(0) == whole else tensor

        yield batch.map(cut)
