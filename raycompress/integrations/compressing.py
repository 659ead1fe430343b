"""What all trainers share: the compressor of a model, sliced before the training where that can be."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from raycompress.bundle.example import Example
from raycompress.catalog import CompressorEntry
from raycompress.compressors.create import later_stages
from raycompress.errors import CompressionError, UsageError
from raycompress.script import context
from raycompress.script.config import SLICE_KEY


def refuse_rounds(entry: CompressorEntry | None, where: str, fix: str) -> None:
    """Raise CompressionError for a compressor that prunes in rounds: a trainer's ``train()`` is one training."""
    if entry is not None and "prune_iterations" in entry.needs:
        raise CompressionError(
            f"{entry.name} prunes in rounds, with a training in each, and train() is one training",
            where=where,
            fix=fix,
        )


def refuse_stages(config: Any, where: str, fix: str) -> None:
    """Raise UsageError for a configuration of several stages: a trainer's ``train()`` is one training of one."""
    if later_stages(config):
        raise UsageError(
            "what a trainer trains is compressed in one stage, and the configuration has several",
            where=where,
            fix=f"name one compressor, or {fix}",
        )


def cuts_channels(entry: CompressorEntry | None) -> bool:
    """Tell whether a compressor's model can be sliced."""
    return entry is not None and entry.kind == "pruning" and entry.removes_channels


def slices_now(compressor: Any, entry: CompressorEntry | None, config: Mapping[str, Any]) -> bool:
    """Tell whether a compressed model is to be sliced before it is trained: what goes is known, and nobody says after.

    Parameters
    ----------
    config
        As of `raycompress.create_compressor`; in a trial the trial's own counts.
    """
    trial = context.current()
    own = config if trial is None or trial.config is None else trial.config
    return cuts_channels(entry) and compressor.is_decided and own.get(SLICE_KEY) != "after"


def as_dummy(first: Example) -> Any:
    """Return an input as ``dummy_input`` is given."""
    if not first.args:
        return dict(first.kwargs)
    return (*first.args, dict(first.kwargs)) if first.kwargs else first.args


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put the state of the random number generators back."""
    before, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(before)
        np.random.set_state(of_numpy)
