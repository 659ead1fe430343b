"""How many trials a search makes, and how many at a time."""

from __future__ import annotations

from raycompress.experiment.schema import Experiment
from raycompress.experiment.search_space import SearchSpace
from raycompress.tuning.local_ray import machine_cpus, machine_gpus


def n_trials(experiment: Experiment, space: SearchSpace) -> int:
    """Return the number of all trials."""
    return space.n_samples(experiment) + (1 if experiment.baseline else 0)


def parallel(experiment: Experiment) -> int:
    """Return how many trials run at a time on this machine."""
    wanted = experiment.resources
    bounds = [experiment.n_parallel]
    if wanted.cpu:
        bounds.append(int(machine_cpus() / wanted.cpu))
    if wanted.gpu:
        bounds.append(int(machine_gpus() / wanted.gpu))
    return max(1, min(bounds))
