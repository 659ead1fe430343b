"""Every proposer by its name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from raycompress.catalog.catalogue import Catalogue
from raycompress.catalog.plugins import Plugin


@dataclass(frozen=True)
class ProposerEntry:
    """One proposer.

    Attributes
    ----------
    name
        The name in an experiment file.
    summary
        How it chooses, in a line.
    make
        ``module:callable`` that makes one, called with ``(space, objective=..., seed=..., history=...)``; see
        `raycompress.search.proposers.searchers.Proposer`. A plug-in leaves it out: its class is called.
    paper
        Where the method comes from.
    distribution
        Name and version of the distribution that a plug-in comes with; empty for our own.
    """

    name: str
    summary: str
    make: str = ""
    paper: str = ""
    distribution: str = ""

    def of_plugin(self, plugin: Plugin, _found: type) -> ProposerEntry:
        """Return the entry of a plug-in's class, complete."""
        return replace(self, make=plugin.value, distribution=plugin.distribution)


_TPE = "Watanabe, Tree-Structured Parzen Estimator, 2023"
_SEARCHERS = "raycompress.search.proposers.searchers"
_TUNE = "raycompress.backend.tune.proposers"
_OPTUNA = "raycompress.search.proposers.optuna_proposer"

_BUILT_IN = (
    ProposerEntry("random", "Draws each dimension by itself.", f"{_SEARCHERS}:random_samples"),
    ProposerEntry("sequence", "Goes through a grid, in order.", f"{_SEARCHERS}:grid"),
    ProposerEntry(
        "hyperopt",
        "hyperopt's TPE.",
        f"{_TUNE}:hyperopt",
        "Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011",
    ),
    ProposerEntry("optuna", "Optuna's TPE, of all dimensions together.", f"{_OPTUNA}:tpe", _TPE),
    ProposerEntry("tpe", "The same as optuna.", f"{_OPTUNA}:tpe", _TPE),
    ProposerEntry(
        "spearmint",
        "Optuna's Gaussian process.",
        f"{_OPTUNA}:gaussian_process",
        "Snoek et al., Practical Bayesian Optimization of Machine Learning Algorithms, NeurIPS 2012",
    ),
    ProposerEntry(
        "hyperband",
        "Random samples, each with a budget; the best of a bracket go on.",
        f"{_SEARCHERS}:random_samples",
        "Li et al., Hyperband, JMLR 2018",
    ),
    ProposerEntry(
        "bohb",
        "HyperBand's budgets, samples by a model of the results.",
        f"{_TUNE}:bohb",
        "Falkner et al., BOHB: Robust and Efficient Hyperparameter Optimization at Scale, ICML 2018",
    ),
    ProposerEntry(
        "guided",
        "Sparsities, bits and blocks by what each layer bears, measured before the search; else TPE.",
        f"{_OPTUNA}:tpe",
        _TPE,
    ),
    ProposerEntry("passive", "One trial in this very process, for debugging.", f"{_SEARCHERS}:centre"),
)

PROPOSERS = Catalogue("raycompress.proposers", ProposerEntry, _BUILT_IN)
"""All proposers, those of plug-ins too."""
