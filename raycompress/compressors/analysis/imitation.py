"""A few steps of distillation towards the dense model's outputs: no labels and no loss of the script are needed."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.analysis.statistics import recompute_statistics

STEPS = 16
"""Of which fewer let candidates win that recover fast and end low."""
RATES = (2e-3, 5e-4, 1.25e-4, 3e-5)
"""Learning rates: what small networks recover fastest by ruins a Transformer that was trained for long."""
_TRIED = 4
"""Steps by which rates are compared."""


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
        self.learning_rate: float | None = None

    def __call__(self, model: nn.Module, steps: int = STEPS) -> None:
        """Train `model`, which is sliced and not masked, with Adam; it is in eval mode afterwards.

        By `learning_rate`, which is chosen by the first model where it is None.
        """
        if steps and self.learning_rate is None:
            self.choose_rate(model)
        self._train(model, steps, self.learning_rate or RATES[0])

    def choose_rate(self, model: nn.Module) -> None:
        """Set the learning rate to the one that brings copies of `model` nearest to the dense one in a few steps."""
        least = math.inf
        for rate in RATES:
            tried = copy.deepcopy(model)
            self._train(tried, _TRIED, rate)
            distance = self._distance(tried)
            if distance < least:
                least, self.learning_rate = distance, rate
            elif self.learning_rate is not None:
                return

    def _train(self, model: nn.Module, steps: int, learning_rate: float) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        model.train()
        pairs = itertools.cycle(zip(self._batches, self._answers, strict=True))
        with torch.inference_mode(False), torch.enable_grad():  # whatever the script is in the middle of
            for batch, expected in itertools.islice(pairs, steps):
                optimizer.zero_grad()
                _difference(tensors_in(batch.call(model)), expected).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        recompute_statistics(model.eval(), self._batches)

    def _distance(self, model: nn.Module) -> float:
        """Return the mean difference to the dense model on the last batches, those that were trained on last."""
        pairs = list(zip(self._batches, self._answers, strict=True))[-_TRIED:]
        differences = [_difference(batch.outputs(model), expected, every=True) for batch, expected in pairs]
        return float(torch.stack(differences).mean())


def _difference(got: Sequence[Tensor], expected: Sequence[Tensor], *, every: bool = False) -> Tensor:
    """Return the sum of the differences of the outputs that gradients flow from, or of `every` one of real numbers."""
    pairs = zip(got, expected, strict=True)
    known = [(one, other) for one, other in pairs if one.requires_grad or (every and one.is_floating_point())]
    return torch.stack([_of_one(one, other) for one, other in known]).sum()


def _of_one(got: Tensor, expected: Tensor) -> Tensor:
    if got.dim() == 2 and got.size(1) > 1:
        return nn.functional.kl_div(got.log_softmax(1), expected.softmax(1), reduction="batchmean")
    return nn.functional.mse_loss(got, expected)
