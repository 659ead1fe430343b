"""The compressor of mode ``survey``: it measures, without training, the prior of guided search."""

from __future__ import annotations

import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.catalog.entry import COMPENSATE
from raycompress.compressors.analysis.analyser import Analyser
from raycompress.compressors.analysis.imitation import STEPS, Imitation
from raycompress.compressors.analysis.inputs import inputs_of, watched
from raycompress.compressors.analysis.rounded import Rounding
from raycompress.compressors.analysis.sensitivity import number
from raycompress.compressors.compensation.compensate import compensate
from raycompress.compressors.compensation.in_pruner import WORK, affordable, is_quick
from raycompress.compressors.depth.dropped_block import drop_blocks
from raycompress.compressors.depth.finding import residual_blocks
from raycompress.compressors.engine import Engine, engine_of
from raycompress.compressors.engines.torch_pruning.group_targets import GroupTarget
from raycompress.compressors.engines.torch_pruning.obs import RemovalOrders
from raycompress.compressors.engines.torch_pruning.scored_layers import scored_layers
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import ChannelGraph, clean_copy
from raycompress.compressors.structure.groups import channel_groups
from raycompress.compressors.structure.slicing import Slicing
from raycompress.config.dimension import Dimension
from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace
from raycompress.errors import CompressionError
from raycompress.forecast.amounts import high, is_sparsity, options
from raycompress.forecast.candidates import guesses_at, score_at
from raycompress.forecast.forecast import Config, Forecast
from raycompress.forecast.prior import Curves, Prior
from raycompress.forecast.projection import Projection
from raycompress.forecast.round_to import with_round_to
from raycompress.model.groups import ChannelGroup
from raycompress.model.info import ModelInfo

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the largest sparsity of a dimension: where its curve is measured."""
_RANKED_ON = 128
"""Inputs that the channels of candidates are ranked on."""
_POINTS = 16
"""Sparsities of each dimension at which the error of the outputs is known."""
_WORK = WORK / 8
"""Multiply-adds that compensating one candidate may take: some seconds of a core."""


class Surveyor(Analyser):
    """Measures the curves of a share of the dimensions, or scores candidates, as ``trial.analysis`` asks for."""

    ANSWER = "prior"

    def _analysis(
        self,
        model: nn.Module,
        evaluate: Callable[[nn.Module], Any],
        metric: str,
        example: Callable[[], Example],
    ) -> Any:
        started, wanted = time.perf_counter(), self._wanted
        answer, seen = watched(model, evaluate)
        dense = number(answer)
        if not math.isfinite(dense):
            raise CompressionError(
                f"the evaluator returns {dense:g} for the dense model",
                where="create_compressor",
                fix="let evaluator(model) return a number",
            )
        batches = inputs_of(model, self._calibration, lambda: seen)
        first = self._dummy or Example.of_first_call(model, seen[0].args, seen[0].kwargs)
        experiment, space, forecast, projection = _search(wanted)
        worst = dense - 2 * abs(dense) if wanted["goal"] == "max" else dense + 2 * abs(dense)
        graph = ChannelGraph(model, first)
        known = {group.summary(): group for group in channel_groups(graph)}
        groups = [known[summary] for summary in forecast.costs.groups]
        entry = experiment.compression.entry
        ranked = _ranking(engine_of(entry), graph, groups, batches) if entry.removes_channels else None
        order = [_by_magnitude(graph, one) for one in groups] if ranked is None else _by_error(ranked, graph, groups)
        inputs = _to_refit_on(experiment, model, batches, forecast.dense["flops"])
        found = [] if experiment.compression.depth is None else residual_blocks(model, first)
        blocks = {block.name: block.returns for block in found}
        trimmer = _Trimmer(
            graph, dict(zip([group.root for group in groups], order, strict=True)), forecast, inputs, blocks
        )
        quantizer = forecast.quantizer
        ranges = batches if quantizer is not None and quantizer.name == "ptq_static" else ()
        scorer = _Scorer(evaluate, Imitation(model, batches), trimmer, space, worst, Rounding(ranges))
        prior = Prior(dense, _curves(space, wanted["curves"], scorer, self._progress))
        if wanted["prior"] is not None:
            errors = None if ranked is None else _error_curves(ranked, graph, space, forecast)
            prior = self._candidates(Prior.from_json(wanted["prior"]), space, projection, scorer, errors)
        return _Answer({**prior.to_json(), "metric": metric, "seconds": time.perf_counter() - started})

    def _candidates(
        self, prior: Prior, space: SearchSpace, projection: Projection, scorer: _Scorer, errors: Curves | None
    ) -> Prior:
        """Return the prior with candidates, scored after compensation and a few steps of training."""
        wanted, scored = self._wanted, itertools.count()
        whole = space.centre()

        def cheap(sample: dict[str, Any]) -> float:
            self._progress(next(scored), wanted["candidates"], "candidates")
            return scorer({**whole, **sample}, STEPS)

        levels = [projection.at(*level) for level in wanted["levels"]] or [projection]
        share = 1 if wanted["levels"] else wanted["parts"]
        found = []
        for place, level in enumerate(levels):
            first = guesses_at(level, prior, goal=wanted["goal"], errors=errors)
            if not place and space.sparsities:  # by the same model in every process that scores a part of them
                scorer.choose_rate({**whole, **first[-1]})
            found += score_at(
                level,
                first[wanted["part"] % share :: share],
                cheap=cheap,
                goal=wanted["goal"],
                number=wanted["candidates"] // len(levels),
                seed=wanted["seed"] + place,
            )
        return Prior(prior.dense, prior.curves, found)


class _Answer:
    """A prior as the analyser sends it: with the metric and the seconds."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def to_json(self) -> Mapping[str, Any]:
        """Return plain JSON data."""
        return self._data


class _Trimmer:
    """Removes channels from copies of a model, and refits what reads them.

    Compensation is done whether or not trials do it: it foretells what training makes of a model better than its metric
    as pruned.

    Parameters
    ----------
    graph
        The coupled channels of the model, which is left as it is.
    order
        Root of each group -> its blocks, in the order in which they go. A trial may remove other channels, by another
        method, but as many from each group.
    forecast
        Computes how many channels a config removes.
    inputs
        To refit on; none where that is not wanted.
    blocks
        The residual blocks that may go -> what each returns.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        order: Mapping[str, Sequence[tuple[int, ...]]],
        forecast: Forecast,
        inputs: Sequence[Example],
        blocks: Mapping[str, int],
    ) -> None:
        self._graph, self._order, self._forecast, self._inputs = graph, order, forecast, inputs
        self._blocks = blocks

    def small(self, config: Config, *, refits: bool) -> nn.Module:
        """Return a new model, in eval mode, without the channels that `config` asks to remove."""
        cut = Cut(self._graph)
        for (name, blocks), count in zip(self._order.items(), self._forecast.removed(config), strict=True):
            cut.remove(name, [channel for block in blocks[:count] for channel in block])
        if not (refits and self._inputs):
            return self._without_blocks(cut.small().eval(), config)
        model, slicing = clean_copy(self._graph.model), Slicing.of_cut(cut)
        compensate(model, slicing, self._inputs)
        slicing.apply(model)
        return self._without_blocks(model.eval(), config)

    def cuts(self, config: Config) -> bool:
        """Tell whether `config` asks to remove anything."""
        return any(self._forecast.removed(config)) or not all(self._forecast.kept_blocks(config))

    def bits(self, config: Config) -> Mapping[str, int]:
        """Return the bits of the layers that are quantized in the end."""
        return self._forecast.bits(config)

    def _without_blocks(self, model: nn.Module, config: Config) -> nn.Module:
        """Drop the residual blocks that a config asks for, in place."""
        if dropped := config.get("depth", {}).get("drop"):
            drop_blocks(model, {name: self._blocks[name] for name in dropped})
        return model


def _to_refit_on(
    experiment: Experiment, model: nn.Module, batches: Sequence[Example], flops: float
) -> Sequence[Example]:
    """Return the inputs that candidates are compensated on; none where the experiment or the time forbids it."""
    if experiment.compression.arguments.get(COMPENSATE) is False or not is_quick(model, flops):
        return []
    return affordable(batches, flops, _WORK)


def _by_magnitude(graph: ChannelGraph, group: ChannelGroup) -> list[tuple[int, ...]]:
    """Return the channels of the root in each block, those of least magnitude over all coupled layers first."""
    from torch_pruning.pruner.importance import GroupMagnitudeImportance

    values = GroupMagnitudeImportance(p=1)(scored_layers(graph, group.root, graph.model))
    known = torch.nan_to_num(values.detach().double().cpu())
    return sorted(group.root_blocks, key=lambda block: float(known[list(block)].mean()))


@dataclass(frozen=True)
class _Ranking:
    """The groups, and what makes the orders in which an engine removes their channels."""

    targets: Sequence[GroupTarget]
    orders: Callable[..., RemovalOrders]


def _ranking(
    engine: Engine, graph: ChannelGraph, groups: Sequence[ChannelGroup], batches: Sequence[Example]
) -> _Ranking | None:
    """Return the ranking of an engine that tells beforehand which channels it removes; None of another one."""
    orders = getattr(engine, "orders", None)
    if orders is None:
        return None
    seen = itertools.accumulate((batch.batch for batch in batches), initial=0)
    inputs = [batch for batch, before in zip(batches, seen, strict=False) if before < _RANKED_ON]
    targets = [GroupTarget(group, group.layers, 0, 0.0, 1) for group in groups]
    return _Ranking(targets, functools.partial(orders, clean_copy(graph.model), targets, inputs))


def _by_error(ranked: _Ranking, graph: ChannelGraph, groups: Sequence[ChannelGroup]) -> list[list[tuple[int, ...]]]:
    """Return the channels of each root in each block, in the order in which the engine removes them."""
    scores_of = ranked.orders(across=False)
    scores = [scores_of(Cut(graph), graph.model, target) for target in ranked.targets]
    return [
        [group.root_blocks[block] for block in sorted(found, key=found.__getitem__)]
        for group, found in zip(groups, scores, strict=True)
    ]


def _error_curves(ranked: _Ranking, graph: ChannelGraph, space: SearchSpace, forecast: Forecast) -> Curves:
    """Return what an error by each dimension alone changes in the model's outputs; see `RemovalOrders`."""
    orders = ranked.orders(across=True)
    added = [orders.errors(Cut(graph), graph.model, target) for target in ranked.targets]
    errors = [list(itertools.accumulate(sorted(one.values()), initial=0.0)) for one in added]
    none = space.largest()
    curves = {}
    for dimension in filter(is_sparsity, space.guided):
        shares = [dimension.nearest(high(dimension) * (place + 1) / _POINTS) for place in range(_POINTS)]
        removed = [forecast.removed(space.build({**none, dimension.name: share})) for share in shares]
        curves[dimension.name] = [
            (float(share), sum(known[count] for known, count in zip(errors, counts, strict=True)))
            for share, counts in zip(shares, removed, strict=True)
        ]
    return curves


class _Scorer:
    """Scores samples without a trial; a model whose metric is no number counts as `worst`."""

    def __init__(
        self,
        evaluate: Callable[[nn.Module], Any],
        imitation: Imitation,
        trimmer: _Trimmer,
        space: SearchSpace,
        worst: float,
        rounding: Rounding,
    ) -> None:
        self._evaluate, self._imitation, self._trimmer, self._space = evaluate, imitation, trimmer, space
        self._worst, self._rounding = worst, rounding

    def choose_rate(self, sample: Mapping[str, Any]) -> None:
        """Choose the learning rate of the training by the model that `sample` asks for."""
        self._imitation.choose_rate(self._trimmer.small(self._space.build(sample), refits=True))

    def __call__(self, sample: Mapping[str, Any], steps: int) -> float:
        """Return the metric of the model that `sample` asks for, after compensation and so many steps of training.

        Without steps it is as pruned, with BatchNorm's statistics new: refitted curves give no better first guesses. A
        model that loses nothing but bits is not trained: no trial need train it.
        """
        config = self._space.build(sample)
        small = self._trimmer.small(config, refits=steps > 0)
        if self._trimmer.cuts(config):
            self._imitation(small, steps)
        with self._rounding(small, self._trimmer.bits(config)) as rounded:
            found = number(self._evaluate(rounded))
        return found if math.isfinite(found) else self._worst


def _curves(
    space: SearchSpace, names: Sequence[str], scorer: _Scorer, progress: Callable[[int, int, str], None]
) -> dict[str, list[tuple[Any, float]]]:
    """Return the metric with each dimension alone at some values, and nothing else pruned or quantized.

    Of a sparsity these are some shares of its largest value, of bits and blocks all values but what leaves most.
    """
    whole = {**space.largest(), **{dimension.name: 0.0 for dimension in space.sparsities}}
    chosen = [dimension for dimension in space.guided if dimension.name in names]
    points = {one.name: _shares(one) if is_sparsity(one) else options(one)[1:] for one in chosen}
    total, curves = sum(map(len, points.values())), dict[str, list[tuple[Any, float]]]()
    for name, values in points.items():
        curves[name] = []
        for value in values:
            progress(sum(map(len, curves.values())), total, name)
            curves[name].append((value, scorer({**whole, name: value}, 0)))
    return curves


def _shares(dimension: Dimension) -> list[float]:
    return [share * float(dimension.nearest(1.0)) for share in SHARES]


def _search(wanted: Mapping[str, Any]) -> tuple[Experiment, SearchSpace, Forecast, Projection]:
    """Return the experiment, its search space, forecast and projection, as the driver built them."""
    experiment = Experiment.from_text(wanted["text"], Path(wanted["file"]), home=Path(wanted["home"]))
    model = ModelInfo.from_json(json.loads(wanted["model"]))
    experiment = with_round_to(experiment, model)
    assert model.costs is not None
    space = SearchSpace.of(experiment, model)
    forecast = Forecast.of(experiment, model, model.costs)
    return experiment, space, forecast, Projection.of(experiment, space, forecast)
