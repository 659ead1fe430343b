"""Which dimensions decide, by Optuna."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycompress.results.states import TrialState
from raycompress.results.study import to_optuna

if TYPE_CHECKING:
    from raycompress.results.record import Experiment

ENOUGH = 20
METHOD = (
    "PED-ANOVA (Watanabe, Bansal and Hutter, 2023; Optuna's evaluator): how much each dimension's values differ "
    "between the best tenth of the finished trials (at least five) and all of them. Shares add up to 1."
)


@dataclass(frozen=True)
class Importance:
    """What each dimension decides.

    Attributes
    ----------
    shares
        Dimension -> its share, the largest first; empty where nothing can be said.
    why
        Why nothing can be said; empty otherwise.
    """

    shares: dict[str, float]
    why: str = ""


def importance(record: Experiment) -> Importance:
    """Evaluate the importance of the dimensions of `record` for its score."""
    scores = [
        trial.score for trial in record.searched if trial.state is TrialState.FINISHED and trial.score is not None
    ]
    if not record.header.get("dimensions"):
        return Importance({}, "Nothing was searched: the experiment has no dimension.")
    if len(scores) < ENOUGH:
        return Importance({}, f"Too few trials: {len(scores)} finished, and {ENOUGH} are needed to say anything.")
    if len(set(scores)) == 1:
        return Importance({}, "All finished trials have the same score.")
    return _by_optuna(record, quantile=max(0.1, 5 / len(scores)))


def _by_optuna(record: Experiment, quantile: float) -> Importance:
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the evaluator is experimental
        study = to_optuna(record)
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile))
    if not any(found.values()):
        return Importance({}, "The proposals of the best trials are like those of all.")
    return Importance({name: float(share) for name, share in found.items()})
