"""What can be better in an experiment that came from the old tool: suggestions, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from raycompress.config.compression import Compression
from raycompress.config.experiment import Experiment
from raycompress.config.schema.ranges import find_ranges
from raycompress.config.search_space import SearchSpace
from raycompress.config.stopping import Budgets
from raycompress.config.text.reader import JsonPath


class Advice(NamedTuple):
    """A suggestion: the key that it is about, the reason, and what to write."""

    path: JsonPath
    why: str
    write: str


def advice_on(experiment: Experiment) -> list[Advice]:
    """Return what can be better in an experiment; of a one-time experiment, only what is not about searching."""
    every: tuple[Callable[[Experiment], Iterator[Advice]], ...] = (
        _entries,
        _slice,
        _proposer,
        _samples,
        _keys_left_out,
        _model,
    )
    rules = every if experiment.is_automatic else (_model,)
    return [advice for rule in rules for advice in rule(experiment)]


def _entries(experiment: Experiment) -> Iterator[Advice]:
    """Dimensions: one per layer, or one for layers that are tied."""
    for stage in experiment.each_stage():
        home = ("compression",) if stage.stage is None else ("compression", stage.stage)
        yield from _entries_of_stage(stage.compression, (*home, "config_list"))


def _entries_of_stage(compression: Compression, home: JsonPath) -> Iterator[Advice]:
    for index, entry in enumerate(compression.config_list):
        path = (*home, index)
        if not any(True for _ in find_ranges(dict(entry))):
            continue
        expand = entry.get("expand_op_names", True)
        if "op_names" not in entry and expand is True:
            why = "a range for layer types is one dimension for each of their layers now, not one for all"
            write = 'leave it, for the finer search, or add "expand_op_names": false for one dimension'
            yield Advice((*path, "op_types"), why, write)
        several = len(entry.get("op_names", (None, None))) > 1
        if expand is False and several and compression.entry.removes_channels:
            why = "one value for all of these layers; where that was to keep tied layers alike, only those need it"
            write = '"expand_op_names": "dependency": one dimension for each set of tied layers'
            yield Advice((*path, "expand_op_names"), why, write)


def _slice(experiment: Experiment) -> Iterator[Advice]:
    """Where what goes is known before the training, only the small model need be trained."""
    compression = experiment.compression
    if compression.slice is None and not experiment.later and not compression.entry.why_not_sliced("before")[0]:
        why = "masked channels are computed all the same, so that a trial costs as much as the dense model's training"
        write = '"slice": "before": each trial trains the small model alone, and its optimizer follows'
        yield Advice(("compression", "slice"), why, write)


_SUCCESSORS = {
    "random": "random sampling learns nothing from the trials before",
    "hyperopt": "the same method, TPE, is in optuna, the proposer of raycompress's own examples",
    "spearmint": "a Gaussian process takes longer over each proposal, the more trials and layers there are",
}


def _proposer(experiment: Experiment) -> Iterator[Advice]:
    if why := _SUCCESSORS.get(experiment.proposer):
        yield Advice(("proposer",), why, '"proposer": "optuna"')


def _samples(experiment: Experiment) -> Iterator[Advice]:
    """How many trials: the old tool passed over n_samples with hyperband, bohb and sequence."""
    if experiment.budgets is not None and experiment.proposer in ("hyperband", "bohb"):
        yield from _bracketed(experiment, experiment.budgets)
    if experiment.proposer == "sequence":
        yield from _gridded(experiment)


def _bracketed(experiment: Experiment, budgets: Budgets) -> Iterator[Advice]:
    full = sum(budgets.size(bracket) for bracket in range(budgets.brackets))
    if experiment.n_samples != full:
        given = "" if experiment.n_samples_given else " where it is absent"
        why = f"{experiment.n_samples} trials run{given}; the old tool filled every bracket, whatever n_samples said"
        write = f'"n_samples": {full} fills every bracket of eta {budgets.eta} and max_iter {budgets.max_iter}'
        yield Advice(("n_samples",), why, write)


def _gridded(experiment: Experiment) -> Iterator[Advice]:
    size = None if SearchSpace.needs_model(experiment) else SearchSpace.of(experiment).grid_size
    n_samples, points = experiment.n_samples, "" if size is None else f", {size} points"
    if n_samples is None and (size is None or size > _MANY):
        why = f"where it is absent the whole grid runs{points}"
        yield Advice(("n_samples",), why, f'"n_samples": {_MANY} for its first {_MANY} points')
    elif n_samples is not None and (size is None or n_samples < size):
        why = f"the first {n_samples} points of the grid run; the old tool ran all of it, whatever n_samples said"
        yield Advice(("n_samples",), why, f"remove it for the whole grid{points}")


_MANY = 10
"""A grid of so many points is run as a matter of course."""


def _keys_left_out(experiment: Experiment) -> Iterator[Advice]:
    if experiment.n_parallel == 1 and experiment.proposer != "passive":
        yield Advice(
            ("n_parallel",), "the trials run one after another", '"n_parallel": 2, or as many as the machine has cores'
        )
    if experiment.seed is None and experiment.proposer not in ("sequence", "passive"):
        yield Advice(("random_seed",), "each launch proposes other values", '"random_seed": 0')
    if not experiment.is_written(("job_failure",)) and experiment.proposer != "passive":
        write = '"job_failure": {"job_retries": 1, "ignore_fail": true}'
        yield Advice(("job_failure",), "the first trial that fails ends the search", write)


def _model(experiment: Experiment) -> Iterator[Advice]:
    if experiment.save_model:
        why = "the best model and its mask are kept without it; false keeps none"
        yield Advice(("resource_args", "save_model"), why, "remove it")
