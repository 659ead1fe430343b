"""How many trials a search makes, and how many at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping

from raycompress.errors import ExperimentError, Problem
from raycompress.experiment.schema import Experiment, Resources
from raycompress.experiment.search_space import SearchSpace
from raycompress.tuning.local_ray import machine_cpus, machine_gpus


def n_trials(experiment: Experiment, space: SearchSpace) -> int:
    """Return the number of all trials."""
    return space.n_samples(experiment) + (1 if experiment.baseline else 0)


def parallel(experiment: Experiment, offer: Mapping[str, float] | None = None) -> int:
    """Return how many trials run at a time.

    Parameters
    ----------
    offer
        What there is of each resource, as Ray says it; None for this machine, before Ray runs.

    Raises
    ------
    ExperimentError
        Not even one trial fits: Ray would wait for ever.
    """
    wanted = experiment.resources
    offer = _this_machine(wanted) if offer is None else offer
    problems = []
    bound = experiment.n_parallel
    for name, amount in request(wanted).items():
        have = offer.get(name, 0.0)
        if amount > have:
            what = f"a trial asks for {_amount(name, amount)}, and there is {_amount(name, have)}"
            problems.append(
                Problem(what, experiment.where(("resource",)), "ask for less, or launch on a larger machine")
            )
        else:
            bound = min(bound, int(have / amount + 1e-9))
    if problems:
        raise ExperimentError.of(problems)
    return max(1, bound)


def request(resources: Resources) -> dict[str, float]:
    """Return what one trial asks for, by Ray's names: cores, GPUs, bytes; what it does not ask for is left out."""
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
