"""The sparsities that make NNI remove as many filters as `raycompress.catalog.rounding.removable` returns.

NNI removes ``int(channels * sparsity)`` filters of a layer: it knows no multiples, and 28 of 100 at 0.29.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from raycompress.catalog.rounding import removable
from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.nni.library import asked_of, channels_of, removed_channels
from raycompress.errors import ExperimentError


def rounded(request: Request) -> Request:
    """Return the request with the sparsities to pass to NNI; equal ones of layers of one width stay equal.

    Raises
    ------
    ExperimentError
        ``round_to`` is no number of channels, or the method does not remove filters layer by layer.
    """
    round_to = request.arguments["round_to"]
    if type(round_to) is not int or round_to < 1:
        raise ExperimentError(
            f'"round_to" is a whole number from 1 on, not {round_to!r}', where="arguments.round_to", fix="write 8"
        )
    if "Conv2d" not in request.compressor.layer_types:
        if round_to == 1:
            return request
        raise ExperimentError(
            f"{request.compressor.name} takes round_to with methods that remove filters layer by layer alone",
            where="arguments.round_to",
            fix="leave it out, or choose another method, such as l1",
        )
    modules = dict(request.model.named_modules())
    return replace(
        request,
        targets={
            name: replace(target, sparsity=_sparsity(channels_of(modules[name]), target.sparsity, round_to))
            for name, target in request.targets.items()
        },
    )


def _sparsity(channels: int, sparsity: float, round_to: int) -> float:
    removed = removable(channels, sparsity, round_to)
    if round_to == 1 and removed == int(channels * sparsity):
        return sparsity
    return (removed + 0.5) / channels if removed else 0.0  # the half: int() of a product may be one too few


def decided(request: Request, removed: Mapping[str, Tensor]) -> PruningDecision:
    """Return the channels that bool tensors of shape (channels,) mark, as what a rounded request has asked for."""
    return PruningDecision(
        channels={name: tuple(torch.nonzero(mask).flatten().tolist()) for name, mask in removed.items()},
        asked=asked_of(request),
        round_to=request.arguments["round_to"],
    )


def chosen(request: Request, masks: Mapping[str, Tensor]) -> PruningDecision:
    """Return the channels that NNI's weight masks remove, as what a rounded request has asked for."""
    return PruningDecision(
        channels={name: removed_channels(mask) for name, mask in masks.items()},
        asked=asked_of(request),
        round_to=request.arguments["round_to"],
    )
