"""Importance that sees data: group_wanda, group_flap and group_fisher, by calibration inputs and without training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.inputs import inputs_of, need_loader
from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.torch_pruning.engine import check_arguments, removed_by, when_known
from raycompress.compressors.engines.torch_pruning.fisher import group_fisher, mask_gradients, samples_in
from raycompress.compressors.engines.torch_pruning.input_moments import flap, moments_of, wanda
from raycompress.compressors.engines.torch_pruning.ranking import block_scores
from raycompress.compressors.engines.torch_pruning.scored_layers import ScoredLayer
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError

_OF_MOMENTS = {"group_wanda": wanda, "group_flap": flap}


class Calibrated:
    """group_wanda, group_flap and group_fisher."""

    def choose(self, request: Request) -> PruningDecision:
        """Return what goes, by the weights as they are now and the inputs of ``calibration``; see `Engine`."""
        check_arguments(request.arguments)
        return when_known(request, lambda example: _chosen(request, example))


def _chosen(request: Request, example: Example) -> PruningDecision:
    importance = _Importance(request, clean_copy(request.model))
    scores_of = functools.partial(block_scores, importance=importance)
    return removed_by(request, example, importance.model, scores_of, importance.renew)


class _Importance:
    """The importance of channels by what is measured of a model, measured when it is first asked for.

    Parameters
    ----------
    request
        What is asked for; its ``calibration`` and ``samples`` are read.
    model
        A copy of the model, in which what is removed in several steps is set to zero.
    """

    def __init__(self, request: Request, model: nn.Module) -> None:
        self.model = model
        self._name, self._arguments = request.compressor.name, request.arguments
        self._score: Callable[[Sequence[ScoredLayer]], Tensor | None] | None = None
        self._inputs: list[Any] = []

    def __call__(self, layers: Sequence[ScoredLayer]) -> Tensor | None:
        if self._score is None:
            self._score = self._measured()
        return self._score(layers)

    def renew(self) -> None:
        """Measure again before the next answer: the model has changed."""
        self._score = None

    def _measured(self) -> Callable[[Sequence[ScoredLayer]], Tensor | None]:
        number = self._arguments["samples"]
        calibration = self._arguments["calibration"]
        if self._name in _OF_MOMENTS:
            self._inputs = self._inputs or calibration_inputs(self.model, calibration, number)
            moments = moments_of(self.model, self._inputs)
            score = _OF_MOMENTS[self._name]
            return lambda layers: score(layers, moments)
        need_loader(calibration)
        self._inputs = self._inputs or list(samples_in(calibration, self.model, number))
        gradients = mask_gradients(self.model, _some(self._inputs), self._arguments["criterion"])
        return lambda layers: group_fisher(layers, gradients)


def calibration_inputs(model: nn.Module, calibration: Any, number: int) -> list[Example]:
    """Return the first so many samples of a loader, in batches.

    Raises
    ------
    CompressionError
        There are none, or the model cannot be called with them.
    """
    found = []
    for batch in inputs_of(model, calibration, list, number):
        if number > 0:
            found.append(batch.part(0, number) if batch.batch > number else batch)
        number -= batch.batch
    return _some(found)


def _some(inputs: list[Any]) -> list[Any]:
    if not inputs:
        raise CompressionError(
            "calibration= yields no inputs",
            where="create_compressor",
            fix="pass calibration= a loader, or a list of inputs, that can be read more than once",
        )
    return inputs
