"""Where the samples of an experiment come from."""

from __future__ import annotations

from raycompress.forecast.prior import Prior
from raycompress.results.folder import ExperimentFolder
from raycompress.search.history import SearchHistory
from raycompress.search.proposers.budget_enforcer import BudgetEnforcer
from raycompress.search.proposers.guided import GuidedProposer, negated
from raycompress.search.proposers.searchers import Proposer, make_proposer
from raycompress.search.watch.view import SearchView
from raycompress.session.prepare import Prepared
from raycompress.session.survey import survey


def proposer_of(
    ready: Prepared, folder: ExperimentFolder, view: SearchView, n_slots: int, history: SearchHistory
) -> Proposer:
    """Return the proposer that an experiment names, its budgets kept.

    Parameters
    ----------
    n_slots
        A guided search measures the model first, in so many processes at a time.

    Raises
    ------
    CompressionError, ScriptError
        The model cannot be measured.
    """
    experiment, projection = ready.experiment, ready.projection
    prior = _prior(ready, folder, view, n_slots)
    if prior is not None and projection is not None:
        return GuidedProposer(experiment, ready.space, projection, prior, history)
    proposer = make_proposer(
        experiment.proposer,
        ready.space,
        objective=experiment.objective,
        seed=experiment.seed,
        bohb=experiment.bohb,
        history=history,
    )
    if projection is None or not projection.ceilings:
        return proposer
    rejects = experiment.on_budget == "reject" or experiment.proposer == "sequence"
    where = experiment.where(("constraints", projection.ceilings[0].metric))
    return BudgetEnforcer(proposer, projection, experiment.objective, rejects=rejects, where=where)


def _prior(ready: Prepared, folder: ExperimentFolder, view: SearchView, n_slots: int) -> Prior | None:
    """Return what a guided search knows before its first trial; None for other searches."""
    if ready.experiment.proposer != "guided" or not ready.space.dimensions:
        return None
    assert ready.model is not None, "checked in preflight"
    found = survey(ready, folder, view, n_slots)
    return negated(found) if ready.experiment.target == "min" and not ready.model.has_evaluator else found
