"""When a pruner compensates, and with which inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example, device_of
from raycompress.catalog.entry import COMPENSATE
from raycompress.compressors.analysis.inputs import BATCH, SAMPLES, inputs_of, watched
from raycompress.compressors.compensation.compensate import STAGES, Compensation, compensate
from raycompress.compressors.create import Setup
from raycompress.compressors.structure.slicing import Slicing
from raycompress.errors import CompressionError

WORK = 2e12
"""Multiply-adds that the passes may take, where that leaves inputs enough: about a minute of a core."""
UNASKED = {"cpu": 4e12, "others": 4e14}
"""Multiply-adds that it may take where nobody asked for it, by the model's device: about two minutes there."""


def wants_compensation(setup: Setup) -> bool:
    """Tell whether a pruner is to compensate: as it is asked to, by default where there is a loader of inputs.

    An iterator, which can be read only once, is left for what else the script passes it for.

    Raises
    ------
    CompressionError
        It is asked for where no channels go, or without inputs.
    """
    asked, calibration = setup.arguments.get(COMPENSATE), setup.calibration
    if asked is None:
        return setup.entry.removes_channels and calibration is not None and not isinstance(calibration, Iterator)
    if asked and not setup.entry.removes_channels:
        raise CompressionError(
            f"{setup.entry.name} removes no channels here, so that there is nothing to compensate for",
            where="compensate",
            fix='remove "compensate"',
        )
    if asked and calibration is None and setup.evaluator is None:
        raise CompressionError(
            "compensation needs inputs to refit layers on, and the script gives none",
            where="compensate",
            fix="pass calibration= to create_compressor, a loader of inputs, or evaluator=",
        )
    return bool(asked)


def check_inputs(model: nn.Module, calibration: Iterable[Any] | None) -> None:
    """Raise CompressionError where `model` cannot be called with the first item of the loader."""
    if calibration is not None:
        inputs_of(model, calibration, list, samples=1)


def compensated(
    model: nn.Module,
    slicing: Slicing,
    calibration: Iterable[Any] | None,
    evaluator: Callable[[nn.Module], Any] | None,
    flops: int,
    earlier: Slicing | None = None,
    is_asked: bool = True,
) -> Compensation:
    """Compensate `model`, in place, with inputs of the loader, or with those that the evaluator calls it with.

    Parameters
    ----------
    flops
        Multiply-adds of one sample, by which a large model is given fewer inputs; see `affordable`.
    earlier
        What was masked of `model` already; see `compensate`.
    is_asked
        False where it is on by default; then it is left out where it would take longer than `UNASKED` says.

    Raises
    ------
    CompressionError
        The model cannot be called with what the loader gives.
    """
    if not is_asked and not is_quick(model, flops):
        work = f"{_least_work(flops):.1g} multiply-adds"
        return Compensation(why_not=f'{work} are too long for what nobody asked for; "compensate": true does it')
    otherwise = (lambda: []) if evaluator is None else (lambda: watched(model, evaluator)[1])
    with torch.random.fork_rng(devices=[]):  # a loader that shuffles draws numbers, with which the training goes on
        inputs = inputs_of(model, calibration, otherwise, samples=min(SAMPLES, math.ceil(_wanted(flops))))
    return compensate(model, slicing, affordable(inputs, flops), earlier)


def is_quick(model: nn.Module, flops: float) -> bool:
    """Tell whether compensation takes no longer on the model's device than may pass where nobody asked for it."""
    device = device_of(model)
    return _least_work(flops) <= UNASKED["cpu" if device is None or device.type == "cpu" else "others"]


def affordable(batches: Sequence[Example], flops: float, work: float = WORK) -> Sequence[Example]:
    """Return the first batches, with as many samples as `work` is enough for at `flops` each, and `BATCH` at least."""
    wanted = _wanted(flops, work)
    before = itertools.accumulate((batch.batch for batch in batches), initial=0)
    return [batch for batch, seen in zip(batches, before, strict=False) if seen < wanted]


def _wanted(flops: float, work: float = WORK) -> float:
    return max(BATCH, work / (2 * STAGES * max(1, flops)))


def _least_work(flops: float) -> float:
    return 2 * STAGES * BATCH * flops
