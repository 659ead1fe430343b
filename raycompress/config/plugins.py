"""Which plug-ins an experiment needs."""

from __future__ import annotations

from raycompress.catalog import COMPRESSORS
from raycompress.catalog.exports import EXPORTS
from raycompress.catalog.plugins import Plugin
from raycompress.catalog.proposers import PROPOSERS
from raycompress.catalog.runtimes import RUNTIMES
from raycompress.config.experiment import Experiment


def plugins_of(experiment: Experiment, *, in_trials: bool = True) -> tuple[Plugin, ...]:
    """Return the plug-ins that an experiment names; raises PluginError on a clash of names.

    Parameters
    ----------
    in_trials
        Whether only those count that trials need: the proposer's work is done where the search is.
    """
    runtimes = dict.fromkeys(target.runtime for target in experiment.targets)
    found = [COMPRESSORS.plugin(stage.compressor) for stage in experiment.stages]
    found += map(EXPORTS.plugin, experiment.exports)
    found += map(RUNTIMES.plugin, runtimes)
    if not in_trials:
        found.append(PROPOSERS.plugin(experiment.proposer))
    return tuple(plugin for plugin in found if plugin is not None)
