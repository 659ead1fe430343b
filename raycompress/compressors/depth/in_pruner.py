"""What a pruner does before it chooses channels: it drops blocks, and has the optimizers follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.inputs import inputs_of, watched
from raycompress.compressors.create import Setup
from raycompress.compressors.depth.depth import Dropping, choose_blocks
from raycompress.compressors.depth.proof import prove
from raycompress.compressors.structure.optimizers import forget
from raycompress.compressors.wrappers import refuse_replicas
from raycompress.script.context import Trial
from raycompress.script.workers.agreement import agreed

_SAMPLES = 128
"""Inputs that the influence of blocks is measured on."""


def drop_asked(setup: Setup, example: Example, trial: Trial | None, before: Mapping[str, Any] | None) -> Dropping:
    """Drop the blocks that `setup` asks for, in place, once it is proved that the model computes the same as masked.

    Parameters
    ----------
    example
        An input, by which the blocks are found.
    trial
        The trial of this process; its first worker decides.
    before
        What a run that goes on here had decided, in the place of choosing anew.

    Raises
    ------
    CompressionError
        A block that is to go is none, or there are fewer than are to go.
    SpeedupError
        The model cannot run without the blocks, or computes something else.
    """
    model, depth = setup.model, setup.depth

    def decide() -> dict[str, Any]:
        if before is not None:
            return {"blocks": dict(before["dropped"])}
        inputs = influence_inputs(model, setup.calibration, setup.evaluator) if isinstance(depth.drop, int) else []
        blocks = choose_blocks(model, depth, example, inputs)
        if blocks:
            prove(model, blocks, example)
        return {"blocks": blocks}

    dropping = Dropping.of(model, agreed(trial, decide)["blocks"])
    optimizer = setup.optimizer if isinstance(setup.optimizer, torch.optim.Optimizer) else None
    forget(dropping.apply(model), optimizer)
    if dropping.blocks:
        refuse_replicas(model)
    return dropping


def influence_inputs(
    model: nn.Module, calibration: Iterable[Any] | None, evaluator: Callable[[nn.Module], Any] | None
) -> list[Example]:
    """Return the inputs that the influence of blocks is measured on: of the loader, or those of the evaluator's calls.

    There are none where the script passes neither. A loader that can be read only once is left for what else it is for.
    """
    otherwise = (lambda: []) if evaluator is None else (lambda: watched(model, evaluator)[1])
    loader = None if isinstance(calibration, Iterator) else calibration
    with torch.random.fork_rng(devices=[]):  # a loader that shuffles draws numbers, with which the training goes on
        return inputs_of(model, loader, otherwise, _SAMPLES)
