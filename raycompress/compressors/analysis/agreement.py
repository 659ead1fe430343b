"""A metric that needs no labels: the agreement of a model's outputs with those of the dense model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.measure.difference import relative_difference


class Agreement:
    """Compares a model's outputs on given inputs with the current ones of `model`.

    Of a classifier (one output of shape [samples, classes], two classes or more) it is the share of samples with the
    same greatest output; of any other model it is 1 minus the norm of the difference over the norm of the outputs, and
    at least 0.

    Parameters
    ----------
    model
        The dense model, as it is at this moment.
    batches
        What to call it with.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Example]) -> None:
        self._batches = batches
        self._expected = [batch.outputs(model) for batch in batches]
        self._place = classes_at(self._expected[0])
        self.samples = sum(answers[0].size(0) if answers and answers[0].dim() else 1 for answers in self._expected)

    @property
    def is_share(self) -> bool:
        """Whether the model is treated as a classifier."""
        return self._place is not None

    def __call__(self, model: nn.Module) -> float:
        """Return the agreement of `model`, from 0 to 1."""
        if self._place is None:
            return self._closeness(model)
        same = total = 0
        for batch, expected in zip(self._batches, self._expected, strict=True):
            got = batch.outputs(model)[self._place]
            same += int((got.argmax(dim=1) == expected[self._place].argmax(dim=1)).sum())
            total += got.size(0)
        return same / total

    def _closeness(self, model: nn.Module) -> float:
        got = [tensor for batch in self._batches for tensor in batch.outputs(model)]
        difference = relative_difference([tensor for answers in self._expected for tensor in answers], got)
        return max(0.0, 1.0 - difference) if math.isfinite(difference) else 0.0


def classes_at(outputs: Sequence[Tensor]) -> int | None:
    """Return the index of the one output of shape [samples, classes]; None where there is none, or several."""
    alike = [
        place
        for place, tensor in enumerate(outputs)
        if tensor.dim() == 2 and tensor.size(1) > 1 and tensor.is_floating_point()
    ]
    return alike[0] if len(alike) == 1 else None
