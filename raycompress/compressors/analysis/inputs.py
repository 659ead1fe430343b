"""Inputs for a few steps of distillation and for recomputing BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from raycompress.bundle.example import Example, device_of
from raycompress.compressors.analysis.calls import Calls
from raycompress.compressors.loaders import apart, calls_in
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError

SAMPLES = 512
BATCH = 64


def inputs_of(
    model: nn.Module,
    calibration: Iterable[Any] | None,
    otherwise: Callable[[], Sequence[Example]],
    samples: int = SAMPLES,
) -> list[Example]:
    """Return inputs of `model`, in batches of `BATCH`.

    Parameters
    ----------
    calibration
        A loader; its items are inputs, or tuples that begin with them.
    otherwise
        Gives the inputs where there is no `calibration`, or nothing in it.
    samples
        How many inputs of `calibration` are enough: the items that have them are read and kept, and no more.

    Raises
    ------
    CompressionError
        The model cannot be called with what `calibration` gives, or that is no loader.
    """
    found = _calibrating(model, calibration, samples) if calibration is not None else []
    return [piece for batch in found or otherwise() for piece in batch.pieces(BATCH)]


def need_loader(calibration: Any) -> None:
    """Raise CompressionError for what cannot be iterated over; no iterator is made, which may start processes."""
    if not hasattr(calibration, "__iter__") and not hasattr(calibration, "__getitem__"):
        raise CompressionError(
            f"calibration= is a {type(calibration).__name__}, which cannot be iterated over",
            where="create_compressor",
            fix="pass a loader, or a list of batches of inputs",
        )


def watched(model: nn.Module, evaluate: Callable[[nn.Module], Any]) -> tuple[Any, list[Example]]:
    """Return the answer of `evaluate` for a copy of `model`, which it may change, and the inputs that it calls it with.

    Raises
    ------
    CompressionError
        It never calls it.
    """
    copied = clean_copy(model)
    calls = Calls(SAMPLES).watch(copied)
    try:
        answer = evaluate(copied)
    finally:
        calls.cancel()
    if not calls.batches:
        raise CompressionError(
            "the evaluator never called the model that it was given, so that it cannot measure it",
            where="create_compressor",
            fix="let evaluator(model) call its argument, and no other model",
        )
    return answer, calls.batches


def _calibrating(model: nn.Module, calibration: Iterable[Any], samples: int) -> list[Example]:
    """Return the first inputs of a loader on the model's device; empty where the loader yields none."""
    need_loader(calibration)
    device = device_of(model)
    first = _first_of(calls_in(apart(calibration), model), samples)
    found = [batch if device is None else batch.to(device) for batch in first]
    try:
        for batch in found[:1]:
            batch.outputs(model)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CompressionError(
            f"{type(model).__name__} cannot be called with what calibration= gives: {reason}",
            where="create_compressor",
            fix="its items are inputs of the model, or tuples that begin with them; a tuple or a dict in that place "
            "holds all arguments",
        ) from error
    return found


def _first_of(batches: Iterable[Example], samples: int) -> Iterable[Example]:
    """Yield detached copies of the first batches."""
    seen = 0
    for batch in batches:
        yield batch.map(lambda tensor: tensor.detach().clone())
        seen += max(1, batch.batch)  # an empty batch counts too: a loader may have no end
        if seen >= samples:
            return
