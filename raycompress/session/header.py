"""The first event of a journal: what is searched, by which process."""

from __future__ import annotations

import os
import platform
from typing import Any

from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import VERSION


def header(
    experiment: Experiment, space: SearchSpace, folder: ExperimentFolder, *, n_trials: int, n_slots: int
) -> dict[str, Any]:
    """Return the fields of the journal's first event."""
    return {
        "version": VERSION,
        "id": folder.id,
        "name": experiment.name,
        "file": str(experiment.path),
        "script": str(experiment.script_path),
        "compressor": experiment.compression.compressor,
        "seed": experiment.seed,
        "proposer": experiment.proposer,
        "n_trials": n_trials,
        "n_samples": space.n_samples(experiment),
        "n_parallel": n_slots,
        "goal": experiment.target,
        **experiment.objective.to_header(),
        **({"rung0": experiment.evaluated} if experiment.rung0 else {}),
        "dimensions": [dimension.name for dimension in space.dimensions],
        **process(),
    }


def process() -> dict[str, Any]:
    """Return where the search is run from."""
    return {"host": platform.node(), "pid": os.getpid()}
