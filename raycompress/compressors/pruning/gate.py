"""Checks before the training: the sizes of the sliced model against the budget, and its rung-0 score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.imitation import Imitation
from raycompress.compressors.analysis.inputs import inputs_of, watched
from raycompress.compressors.analysis.sensitivity import number
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.graph import clean_copy
from raycompress.compressors.structure.slicing import Slicing
from raycompress.config.objective import Bound, metrics_of
from raycompress.errors import BudgetError
from raycompress.script.context import Trial


def check(model: nn.Module, example: Example, slicing: Slicing, before: measure.Sizes, bounds: Sequence[Bound]) -> None:
    """Raise BudgetError where `model`, sliced, would break one of `bounds`, which are about sizes.

    `model` is left as it is.
    """
    if not bounds:
        return
    small = clean_copy(model)
    slicing.apply(small)
    after = measure.sizes(small, example)
    dense, left = metrics_of(None, before.to_json()), metrics_of(None, after.to_json())
    for bound in bounds:
        if bound.excess(left[bound.metric], dense[bound.metric]) > 0:
            share = left[bound.metric] / max(1.0, dense[bound.metric])
            raise BudgetError(
                f"{bound.metric} would be {left[bound.metric]:,.0f}, {share:.3g} of the dense model's, and the budget "
                f"is {bound}",
                where="constraints",
                fix="the trial ends before it trains",
            )


def send_score(
    trial: Trial,
    dense: nn.Module | None,
    model: nn.Module,
    slicing: Slicing,
    evaluate: Callable[[nn.Module], Any] | None,
    calibration: Iterable[Any] | None,
) -> None:
    """Send the rung-0 score of a trial, where its script passes an evaluator; see `score`."""
    if dense is not None and evaluate is not None:
        trial.send({"type": "rung0", "score": score(dense, model, slicing, evaluate, calibration)})


def score(
    dense: nn.Module,
    model: nn.Module,
    slicing: Slicing,
    evaluate: Callable[[nn.Module], Any],
    calibration: Iterable[Any] | None,
) -> float:
    """Return the rung-0 score: the metric of the sliced model after a few steps that imitate the dense one.

    `dense` and `model` are left as they are.

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
