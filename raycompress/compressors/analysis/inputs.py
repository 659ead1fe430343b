"""The inputs that small models are taught with, and that BatchNorm's statistics are recomputed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from raycompress.compressors.analysis.calls import Calls
from raycompress.compressors.example import Example, tensors_in
from raycompress.errors import CompressionError

SAMPLES = 512
BATCH = 64


def inputs_of(
    model: nn.Module, evaluate: Callable[[nn.Module], Any], calibration: Iterable[Any] | None
) -> list[Example]:
    """Return inputs of `model`, in batches of `BATCH`.

    Parameters
    ----------
    evaluate
        Called with the model where there is no `calibration`: what it calls it with are the inputs.
    calibration
        A loader; its items are inputs, or tuples that begin with them.

    Raises
    ------
    CompressionError
        The evaluator never calls the model.
    """
    found = list(_first_of(calibration)) if calibration is not None else []
    if not found:
        calls = Calls(SAMPLES).watch(model)
        try:
            evaluate(model)
        finally:
            calls.cancel()
        found = calls.batches
    if not found:
        raise CompressionError(
            "the evaluator never called the model, so that no input of it is known",
            where="create_compressor",
            fix="let evaluator(model) call its argument, or pass calibration=, a loader of inputs",
        )
    return [piece for batch in found for piece in batch.pieces(BATCH)]


def _first_of(loader: Iterable[Any]) -> Iterable[Example]:
    """Yield the inputs of the first batches of a loader."""
    seen = 0
    for item in loader:
        inputs = item[0] if isinstance(item, (tuple, list)) else item
        yield Example.from_dummy(inputs)
        sizes = [tensor.size(0) for tensor in tensors_in([inputs]) if tensor.dim()]
        seen += sizes[0] if sizes else 1
        if seen >= SAMPLES:
            return
