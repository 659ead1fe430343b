"""Proposals and budgets: the sizes of a sample before it is trained, and the nearest sample within a budget."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raycompress.config.dimension import Dimension
from raycompress.config.experiment import Experiment
from raycompress.config.objective import Bound, Objective, is_measured
from raycompress.config.search_space import SearchSpace
from raycompress.errors import Problem
from raycompress.forecast.forecast import Forecast
from raycompress.model.costs import SIZES
from raycompress.text import join_names

Sample = Mapping[str, Any]
_HALVINGS = 40
_LEAST_MARGIN, _ERRORS = 0.005, 2.0
"""A file is kept below its budget by so much at least, and by so many median errors of what predicts it."""
_SURELY = 1.25
"""So many times what is allowed a file is predicted to take before that is an error: a prediction may be too large."""


@dataclass(frozen=True)
class Projection:
    """The budgets of an experiment, and the projection of its samples onto them.

    Attributes
    ----------
    space
        What is searched.
    forecast
        Tells what a config costs.
    ceilings
        The upper bounds on the sizes, or the latency, of a model that can be predicted.
    fills
        Whether a sample below the budget is raised to it as well: where no size is wanted small for its own sake, a
        model that is smaller than it must be is but worse.
    margin
        What the predicted bytes of a file are multiplied by where a budget is kept to: it may be larger than predicted.
    must_remove
        Whether nothing but channels that go compresses the model: a trial in which none goes fails.
    """

    space: SearchSpace
    forecast: Forecast
    ceilings: tuple[Bound, ...]
    fills: bool
    margin: float
    must_remove: bool

    @classmethod
    def of(cls, experiment: Experiment, space: SearchSpace, forecast: Forecast) -> Projection:
        """Return the budgets of an experiment; there may be none."""
        objective = experiment.objective
        known = tuple(bound for bound in objective.bounds if bound.metric in forecast.dense and bound.is_ceiling)
        file = forecast.model.file_bytes if forecast.predicts_file else None
        margin = 1.0 if file is None else 1 + max(_LEAST_MARGIN, _ERRORS * file.error)
        fills = not any(is_measured(goal.metric) for goal in objective.goals)
        compression = experiment.compression
        is_alone = compression.entry.removes_channels and not experiment.later and compression.depth is None
        return cls(space, forecast, known, fills, margin, is_alone)

    def sizes(self, sample: Sample) -> dict[str, float]:
        """Return ``params``, ``flops`` and ``size_bytes`` of what `sample` asks for."""
        return self.forecast.sizes(self.space.build(sample))

    def fullness(self, sample: Sample) -> float:
        """Return the cost of `sample` as a share of what the budgets allow: of the one that is used up most.

        Without a budget it is the share of the dense model's multiply-adds.
        """
        sizes, dense = self.sizes(sample), self.forecast.dense
        if not self.ceilings:
            return sizes["flops"] / max(1.0, dense["flops"])
        sizes = {**sizes, "size_bytes": sizes.get("size_bytes", 0.0) * self.margin}
        return max(sizes[bound.metric] / max(1e-9, bound.end(dense[bound.metric])) for bound in self.ceilings)

    def fits(self, sample: Sample) -> bool:
        """Tell whether every budget allows `sample`, and a trial of it can end."""
        if self.must_remove and not any(self.forecast.removed(self.space.build(sample))):
            return False
        return not self.ceilings or self.fullness(sample) <= 1 + 1e-9

    def project(self, sample: Sample) -> dict[str, Any]:
        """Return the sample that the budgets allow and that keeps the proportions of `sample`; see `fits`.

        What stays of each layer is scaled by one factor, within its range: the largest that fits. What fits as it is
        stays so, unless `fills`. Where that is not enough, bits are lowered, those first that save most. Other
        dimensions are left alone.
        """
        found = self._scaled_to_fit(sample)
        lowered = dict(sample)
        while not self.fits(found) and (cheaper := self._with_fewer_bits(lowered)) is not None:
            lowered = cheaper
            found = self._scaled_to_fit(lowered)
        return found

    def _with_fewer_bits(self, sample: Sample) -> dict[str, Any] | None:
        """Return the sample with fewer bits in the one place where that saves most; None where none has fewer."""
        steps = [
            {**sample, one.name: max(fewer)}
            for one in self.space.bits
            if one.name in sample and (fewer := [bits for bits in one.choices or () if bits < sample[one.name]])
        ]
        return min(steps, key=self.fullness, default=None)

    def _scaled_to_fit(self, sample: Sample) -> dict[str, Any]:
        scaled = [dimension for dimension in self.space.sparsities if dimension.name in sample]
        raises = self.fills and bool(self.ceilings)
        if not scaled or (self.fits(sample) and not raises):
            return copy.deepcopy(dict(sample))
        low, high = 0.0, max(1.0, *(1 / max(1e-6, 1 - float(sample[one.name])) for one in scaled))
        if self.fits(_scaled(sample, scaled, high)):
            return _scaled(sample, scaled, high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.fits(_scaled(sample, scaled, middle)) else (low, middle)
        return _scaled(sample, scaled, low)

    def ratio(self, sample: Sample) -> float:
        """Return the cost of `sample` as a share of the dense model's, in the size that the first budget is about."""
        return self.share(sample, self.ceilings[0].metric if self.ceilings else "flops")

    def cuts(self, sample: Sample) -> tuple[int, ...]:
        """Return how many channels, or heads, `sample` removes of each group, which blocks it keeps, and each bits.

        They are equal for samples of the same model.
        """
        config = self.space.build(sample)
        kept = map(int, self.forecast.kept_blocks(config))
        return (*self.forecast.removed(config), *kept, *self.forecast.bits(config).values())

    def share(self, sample: Sample, metric: str) -> float:
        """Return one size of `sample` as a share of the dense model's."""
        return self.sizes(sample)[metric] / max(1e-9, self.forecast.dense[metric])

    def at(self, metric: str, ratio: float) -> Projection:
        """Return the projection onto another budget: so much of the dense model's `metric`, filled."""
        return replace(self, ceilings=(Bound(metric, "max_ratio", ratio),), fills=True, margin=1.0)

    def axis(self, objective: Objective) -> str:
        """Return the size, or the latency, that a search without one fixed budget goes along."""
        return next((metric for metric in objective.metrics if metric in self.forecast.dense), "flops")

    def span(self, metric: str) -> tuple[float, float]:
        """Return the smallest and the largest share of the dense model's `metric` that samples can have."""
        return self.share(self.space.smallest(), metric), self.share(self.project(self.space.largest()), metric)


def has_one_size(experiment: Experiment, projection: Projection) -> bool:
    """Return whether all models are to be of one size: a budget, and one objective that the script reports."""
    goals = experiment.objective.goals
    return bool(projection.ceilings) and len(goals) == 1 and not is_measured(goals[0].metric)


def ceilings(experiment: Experiment) -> tuple[Bound, ...]:
    """Return the constraints that are upper bounds on sizes that are known exactly before a model is trained."""
    return tuple(bound for bound in experiment.objective.bounds if bound.is_ceiling and _is_exact(bound, experiment))


def _is_exact(bound: Bound, experiment: Experiment) -> bool:
    """Tell whether the size is known exactly: not of a file whose weights may be int8, as one for a target."""
    is_other = bool(experiment.targets) or experiment.ends_quantized
    return bound.metric in SIZES and not (is_other and bound.metric == "size_bytes")


def _scaled(sample: Sample, dimensions: list[Dimension], factor: float) -> dict[str, Any]:
    return {
        **copy.deepcopy(dict(sample)),
        **{one.name: one.nearest(1 - (1 - float(sample[one.name])) * factor) for one in dimensions},
    }


def check_budgets(experiment: Experiment, projection: Projection) -> Iterator[Problem]:
    """Yield what is wrong with a budget: that no sample can meet it, or that a floor is above it."""
    yield from _check_floors(experiment, projection)
    smallest = projection.space.smallest()
    sizes, dense = projection.sizes(smallest), projection.forecast.dense
    for bound in projection.ceilings:
        is_exact = _is_exact(bound, experiment)
        if not is_exact and not (bound.metric == "size_bytes" and projection.forecast.predicts_file):
            continue  # it is predicted roughly only
        size, end = sizes[bound.metric], bound.end(dense[bound.metric])
        if size <= end * ((1 + 1e-9) if is_exact else _SURELY):
            continue
        left, allowed = size / max(1.0, dense[bound.metric]), end / max(1.0, dense[bound.metric])
        where = experiment.where(("constraints", bound.metric, bound.limit))
        if not projection.space.dimensions:
            what = f"{left:.3g} of the dense model's {bound.metric} would be left, and {allowed:.3g} are allowed"
            yield Problem(
                what, where, 'write larger sparsities, or search ranges: {"type": "float", "range": [0.1, 0.9]}'
            )
            continue
        what = (
            f"no sample can keep to it: with {_ends(projection)}, {left:.3g} of the dense model's "
            f"{bound.metric} are left, and {allowed:.3g} are allowed"
        )
        wider = f"widen the ranges upwards, {_untouched(projection)}or " if projection.space.sparsities else ""
        yield Problem(what, where, f"{wider}allow at least {left:.3g}")


def _ends(projection: Projection) -> str:
    """Return what makes the smallest sample: of sparsities, bits and blocks those that are searched."""
    space = projection.space
    ends = {
        "every sparsity at its largest": space.sparsities or not (space.bits or space.depths),
        "the fewest bits": space.bits,
        "as few blocks as may stay": space.depths,
    }
    return join_names([end for end, is_searched in ends.items() if is_searched])


def _check_floors(experiment: Experiment, projection: Projection) -> Iterator[Problem]:
    """Yield each floor of a size that is above a ceiling of it, now that the dense model's size is known."""
    dense = projection.forecast.dense
    floors = [one for one in experiment.objective.bounds if one.metric in SIZES and not one.is_ceiling]
    for floor in floors:
        size = dense[floor.metric]
        for ceiling in projection.ceilings:
            low, high = floor.end(size), ceiling.end(size)
            if ceiling.metric == floor.metric and low > high * (1 + 1e-9):
                what = f'"{floor.limit}" is {low:,.0f} {floor.metric}, above "{ceiling.limit}", which is {high:,.0f}'
                where = experiment.where(("constraints", floor.metric, floor.limit))
                yield Problem(what, where, f"lower it, or raise the other: the dense model has {size:,.0f}")


def _untouched(projection: Projection) -> str:
    """Return which layers could be named as well, for a fix; empty where there are none."""
    named = projection.forecast.sparsities(projection.space.build(projection.space.centre())["config_list"])
    others = [group.layers[0] for group in projection.forecast.costs.groups if not set(group.layers) & set(named)]
    return f"name more layers ({join_names(others, 4)}), " if others else ""
