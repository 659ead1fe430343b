"""How many trials a search makes, and how many at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from raycompress.config.experiment import Experiment
from raycompress.config.options import Resources
from raycompress.config.search_space import SearchSpace
from raycompress.errors import ExperimentError, Problem
from raycompress.runtime.machine import machine_cpus, machine_gpus
from raycompress.runtime.preload import local_files


def n_trials(experiment: Experiment, space: SearchSpace) -> int:
    """Return the number of all trials."""
    return space.n_samples(experiment) + has_dense_trial(experiment) + n_repeats(experiment, space)


def has_dense_trial(experiment: Experiment) -> bool:
    """Tell whether trial 0 runs the dense model."""
    return experiment.baseline and experiment.proposer != "passive"


def n_repeats(experiment: Experiment, space: SearchSpace) -> int:
    """Return how many trials train the sample of another one again."""
    return (experiment.repeats - 1) * min(experiment.finalists, space.n_samples(experiment))


BUDGETED = ("hyperband", "bohb")
"""The proposers that give each trial a budget, which its script finds in ``n_iterations``."""


def reads_budget(experiment: Experiment) -> bool:
    """Tell whether the script, or a local module that it imports, mentions ``n_iterations``."""
    files = local_files(experiment.script_path, experiment.workingdir, experiment.script_module)
    return any(re.search(rb"\bn_iterations\b", file.read_bytes()) for file in files)


def notes(experiment: Experiment, space: SearchSpace) -> Iterator[str]:
    """Yield notes for the user about the search before it starts."""
    budgets = experiment.budgets
    if budgets is not None and experiment.proposer in BUDGETED:
        if reads_budget(experiment):
            yield (
                f"each trial is run with n_iterations {', '.join(map(str, budgets.rungs(0)))}, one after another; "
                f"after each run about one of {budgets.eta} goes on"
            )
        else:
            yield (
                f"the script never reads n_iterations: each result that it reports counts as one of {budgets.max_iter} "
                "iterations, and a trial that reports but one is run to its end"
            )
        if experiment.seed is not None and experiment.n_parallel > 1:
            yield "which trials are ended depends on which come first, so that the same seed may give another search"
        if experiment.early_stop is not None:
            yield f'"early_stop" is left out: {experiment.proposer} itself ends poor trials'
    first = experiment.n_samples if experiment.proposer == "sequence" else None
    if first is not None and space.dimensions and space.grid_size > first:
        yield (
            f"the grid has {space.grid_size} points, and n_samples takes the first {first}; "
            "without n_samples all of them are tried"
        )


def parallel(experiment: Experiment, nodes: Sequence[Mapping[str, float]] | None = None) -> int:
    """Return how many trials run at a time.

    Parameters
    ----------
    nodes
        What each node has of each resource, as Ray says it; None for this machine alone, before Ray runs.

    Raises
    ------
    ExperimentError
        Not even one trial fits: Ray would wait for ever.
    """
    nodes = [_this_machine(experiment.resources)] if nodes is None else nodes
    wanted, workers = request(experiment.resources), experiment.resources.workers
    places = sum(_room(wanted, node, at_most=experiment.n_parallel * workers) for node in nodes)
    room = places // workers
    if room:
        return min(experiment.n_parallel, room)
    if places:
        raise _too_few(experiment, places)
    most = {name: max(node.get(name, 0.0) for node in nodes) for name in wanted}
    lacking = [name for name, amount in wanted.items() if amount > most[name]] or list(wanted)
    where = "and there is" if len(nodes) == 1 else f"and no one of the {len(nodes)} nodes has more than"
    raise ExperimentError.of(
        [
            Problem(
                f"a trial asks for {_amount(name, wanted[name])}, {where} {_amount(name, most[name])}",
                experiment.where(("resource",)),
                "ask for less, or launch on a larger machine",
            )
            for name in lacking
        ]
    )


def _too_few(experiment: Experiment, places: int) -> ExperimentError:
    workers = experiment.resources.workers
    wanted = " and ".join(_amount(name, amount) for name, amount in request(experiment.resources).items())
    return ExperimentError(
        f"a trial has {workers} workers with {wanted} each, and there is room for {places}",
        where=experiment.where(("resource", "workers")),
        fix=f'write "workers": {places}, ask for less for each, or launch on a larger machine or cluster',
    )


def _room(wanted: Mapping[str, float], node: Mapping[str, float], at_most: int) -> int:
    """Return how many trials fit into a node."""
    return min((int(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items()), default=at_most)


def request(resources: Resources) -> dict[str, float]:
    """Return the resources of one trial by Ray's names (``CPU``, ``GPU``, ``memory`` in bytes), zero ones left out."""
    named = {"CPU": resources.cpu, "GPU": resources.gpu, "memory": (resources.memory_gb or 0) * 2**30}
    if resources.accelerator_type is not None:
        named[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    return {name: amount for name, amount in named.items() if amount}


def _this_machine(wanted: Resources) -> dict[str, float]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    offer = {"CPU": float(machine_cpus()), "GPU": float(machine_gpus()), "memory": float(memory)}
    if wanted.accelerator_type is not None:  # only Ray knows which kind of GPU there is
        offer[f"accelerator_type:{wanted.accelerator_type}"] = offer["GPU"]
    return offer


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / 2**30:.3g} GiB of memory"
    if name.startswith("accelerator_type:"):
        return f"{'a' if amount else 'no'} GPU of the kind {name.partition(':')[2]}"
    return f"{amount:g} {name}{'s' * (amount != 1)}"
