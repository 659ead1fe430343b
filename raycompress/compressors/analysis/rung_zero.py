"""A trial's score before it trains: of its small model, after a few steps towards the dense one's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from raycompress.compressors.analysis.imitation import Imitation
from raycompress.compressors.analysis.inputs import inputs_of, watched
from raycompress.compressors.analysis.sensitivity import number
from raycompress.compressors.structure.graph import clean_copy
from raycompress.compressors.structure.slicing import Slicing


def score(
    dense: nn.Module,
    model: nn.Module,
    slicing: Slicing,
    evaluate: Callable[[nn.Module], Any],
    calibration: Iterable[Any] | None,
) -> float:
    """Return what `evaluate` says of the sliced model; `dense` and `model` are left as they are.

    Parameters
    ----------
    dense
        The model before its channels were chosen.
    model
        The masked model that the trial will train.
    slicing
        How it is cut.
    calibration
        Inputs, in batches; without it those that `evaluate` calls the model with.
    """
    small = clean_copy(model)
    slicing.apply(small)
    Imitation(dense, inputs_of(dense, calibration, lambda: watched(dense, evaluate)[1]))(small)
    return number(evaluate(small))
