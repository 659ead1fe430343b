"""A few steps of distillation towards the dense model's outputs: no labels and no loss of the script are needed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example, tensors_in
from raycompress.compressors.analysis.statistics import recompute_statistics

STEPS = 16
"""Of which fewer let candidates win that recover fast and end low."""


class Imitation:
    """Trains a small model for a few steps towards the current outputs of `model`; recomputes BatchNorm statistics.

    The metric of a pruned model after these steps predicts that after a long training far better than the metric right
    after pruning. Outputs of shape [samples, classes] are compared by the Kullback-Leibler divergence, as in
    Hinton et al., Distilling the Knowledge in a Neural Network, 2015; others by the squared error.

    Parameters
    ----------
    model
        The dense model, as it is at this moment.
    batches
        Inputs of the steps, used in this order and from the start again after the last.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Example]) -> None:
        self._batches = batches
        self._answers = [batch.outputs(model) for batch in batches]

    def __call__(self, model: nn.Module, steps: int = STEPS, learning_rate: float = 2e-3) -> None:
        """Train `model`, which is sliced and not masked, with Adam; it is in eval mode afterwards."""
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        model.train()
        pairs = itertools.cycle(zip(self._batches, self._answers, strict=True))
        with torch.inference_mode(False), torch.enable_grad():  # whatever the script is in the middle of
            for batch, expected in itertools.islice(pairs, steps):
                optimizer.zero_grad()
                _difference(tensors_in(batch.call(model)), expected).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        recompute_statistics(model.eval(), self._batches)


def _difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    pairs = zip(got, expected, strict=True)
    return torch.stack([_of_one(one, other) for one, other in pairs if one.requires_grad]).sum()


def _of_one(got: Tensor, expected: Tensor) -> Tensor:
    if got.dim() == 2 and got.size(1) > 1:
        return nn.functional.kl_div(got.log_softmax(1), expected.softmax(1), reduction="batchmean")
    return nn.functional.mse_loss(got, expected)
