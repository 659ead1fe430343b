"""Importance of the search dimensions, by Optuna's PED-ANOVA."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raycompress.results.study import to_optuna
from raycompress.states import TrialState

if TYPE_CHECKING:
    import optuna

    from raycompress.results.record import SearchRecord

ENOUGH = 10
SHUFFLES = 19
METHOD = (
    "PED-ANOVA (Watanabe, Bansal and Hutter, 2023; Optuna's evaluator): how much each dimension's values differ "
    "between the best tenth of the finished trials (at least five) and all of them. Shares add up to 1. The dotted "
    f"line is the level of chance, the most that {SHUFFLES} shuffles of the scores gave: a dimension below it may "
    "decide nothing."
)
_COMPARED = 30
"""Among how many dimensions the level of chance is looked for: a shuffle of a hundred takes half a second."""


@dataclass(frozen=True)
class Importance:
    """What each dimension decides.

    Attributes
    ----------
    shares
        Dimension -> its share, the largest first; empty where nothing can be said.
    chance
        The share that the first one would also have, once in twenty searches, where the scores had nothing to do with
        the proposals.
    why
        Why nothing can be said; empty otherwise.
    """

    shares: dict[str, float]
    chance: float = 0.0
    why: str = ""


def importance(record: SearchRecord) -> Importance:
    """Evaluate the importance of the dimensions of `record` for its score."""
    scores = [
        trial.score for trial in record.searched if trial.state is TrialState.FINISHED and trial.score is not None
    ]
    if not record.header.get("dimensions"):
        return Importance({}, why="Nothing was searched: the experiment has no dimension.")
    if len(scores) < ENOUGH:
        return Importance({}, why=f"Too few trials: {len(scores)} finished, and {ENOUGH} are needed to say anything.")
    if len(set(scores)) == 1:
        return Importance({}, why="All finished trials have the same score.")
    return _by_optuna(record, quantile=max(0.1, 5 / len(scores)))


def _by_optuna(record: SearchRecord, quantile: float) -> Importance:
    study = to_optuna(record)
    found = _divergences(study, quantile)
    total = sum(found.values())
    if not total:
        return Importance({}, why="The proposals of the best trials are like those of all.")
    chance = _chance(study, quantile, list(found)[:_COMPARED])
    if max(found.values()) <= chance:
        why = (
            f"Nothing can be said yet: none of the {len(found)} dimensions stands out from chance. Scores that are "
            f"shuffled give as much, in {SHUFFLES} shuffles at least once; more trials tell more."
        )
        return Importance({}, why=why)
    return Importance({name: each / total for name, each in found.items()}, chance / total)


def _chance(study: optuna.Study, quantile: float, names: list[str]) -> float:
    """Return the largest divergence of `names` where the scores are dealt out to the trials at random."""
    scores = {trial.number: trial.value for trial in study.trials if trial.value is not None}
    dealt, order = list(scores.values()), random.Random(0)
    largest = 0.0
    for _ in range(SHUFFLES):
        order.shuffle(dealt)
        found = _divergences(study, quantile, names, dict(zip(scores, dealt, strict=True)))
        largest = max(largest, *found.values())
    return largest


def _divergences(
    study: optuna.Study, quantile: float, names: list[str] | None = None, scores: dict[int, float] | None = None
) -> dict[str, float]:
    """Return dimension -> how much the best trials differ from all, the largest first; by the study's own scores."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the evaluator is experimental, and takes the smaller `scores` for better
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile),
            params=names,
            target=None if scores is None else lambda trial: scores[trial.number],
            normalize=False,
        )
    return {name: float(each) for name, each in found.items()}
