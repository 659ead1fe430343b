"""Export of an experiment as an Optuna study."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raycompress.errors import MissingDependencyError, StorageError
from raycompress.states import TrialState

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from raycompress.results.record import SearchRecord
    from raycompress.results.trial import TrialRecord

Direction = Literal["maximize", "minimize"]


def to_optuna(record: SearchRecord, study_name: str | None = None, storage: str | Path | None = None) -> optuna.Study:
    """Copy the trials of `record` into a new Optuna study.

    Each trial keeps its proposal, its score (of several objectives the value of each), by how much it breaks each
    constraint, its times and, as user attributes, its number here (``trial``), ``state``,
    ``cause``, ``seconds``, ``values``, ``before`` and ``after``. Finished trials are ``COMPLETE``, those ended early
    ``PRUNED``, failures ``FAIL``. Left out are trials that run, since nothing would ever end them in the copy, those
    that a person or the time budget stopped, which say nothing of their proposals, and the dense model, which
    proposes nothing: its values are the study's attribute ``baseline``, how many are left out is ``left_out``.

    The journal has no ranges, so distributions span what was proposed: a dimension of whole numbers is an
    ``IntDistribution`` from the smallest to the largest, one of other numbers a ``FloatDistribution``, and any other a
    ``CategoricalDistribution`` of the values as JSON.

    Parameters
    ----------
    record
        What is copied.
    study_name
        The experiment's id by default.
    storage
        An Optuna storage URL such as ``sqlite:///study.db``, or a path, which becomes an SQLite file; in memory by
        default.

    Raises
    ------
    StorageError
        There is a study of that name already, which is left as it is, or the storage cannot be written.
    MissingDependencyError
        The driver of a database other than SQLite is not installed.
    """
    import optuna

    name = study_name or record.id
    trials = [trial for trial in record.searched if _state(trial) is not None]
    distributions = {name: _distribution(values) for name, values in _proposed(trials).items()}
    directions: list[Direction] = [
        "maximize" if goal.direction == "max" else "minimize" for goal in record.objective.goals
    ]
    study = _created(name, directions, storage)
    try:
        study.set_user_attr("experiment", record.folder.reference)
        study.set_user_attr("left_out", len(record.searched) - len(trials))
        if record.baseline is not None:
            study.set_user_attr("baseline", record.baseline.values)
        study.add_trials([_trial(trial, distributions, record) for trial in trials])
    except BaseException:
        optuna.delete_study(study_name=name, storage=study._storage)  # half a study would pass for a whole one
        raise
    return study


def _created(name: str, directions: list[Direction], storage: str | Path | None) -> optuna.Study:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    url = None if storage is None else _url(storage)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(study_name=name, directions=directions, storage=url)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise StorageError(
            f'there is a study "{name}" already', where=str(url), fix="name another file, or delete that study first"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError, ValueError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise StorageError(f"the study cannot be written: {reason}", where=str(url)) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"the driver of this database is not installed: {error}", where=str(url)
        ) from error
    finally:
        optuna.logging.set_verbosity(before)


def _url(storage: str | Path) -> str:
    return str(storage) if "://" in str(storage) else f"sqlite:///{Path(storage).resolve()}"


def _state(trial: TrialRecord) -> str | None:
    """Return Optuna's word for how `trial` ended; None for what is left out."""
    if trial.state.is_failure:
        return "FAIL"
    if trial.state is TrialState.FINISHED:
        return "COMPLETE" if trial.score is not None else "FAIL"
    return "PRUNED" if trial.state in (TrialState.ENDED_EARLY, TrialState.OVER_BUDGET) else None


def _proposed(trials: list[TrialRecord]) -> dict[str, list[Any]]:
    """Return every value that was proposed, by dimension."""
    values: dict[str, list[Any]] = {}
    for trial in trials:
        for name, value in trial.sample.items():
            values.setdefault(name, []).append(value)
    return values


def _distribution(values: list[Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return IntDistribution(min(values), max(values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return FloatDistribution(float(min(values)), float(max(values)))
    return CategoricalDistribution(sorted({_as_choice(value) for value in values}))


def _as_choice(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _trial(trial: TrialRecord, distributions: dict[str, BaseDistribution], record: SearchRecord) -> FrozenTrial:
    import optuna
    from optuna.distributions import CategoricalDistribution

    word = _state(trial)
    assert word is not None
    params = {
        name: _as_choice(value) if isinstance(distributions[name], CategoricalDistribution) else value
        for name, value in trial.sample.items()
    }
    attributes = ("state", "cause", "seconds", "values", "before", "after")
    frozen = optuna.trial.create_trial(
        state=optuna.trial.TrialState[word],
        values=_values(trial, record) if word == "COMPLETE" else None,
        constraints=_excesses(trial, record),
        params=params,
        distributions={name: distributions[name] for name in params},
        intermediate_values=_intermediate(trial),
        user_attrs={"trial": trial.number, **{name: getattr(trial, name) for name in attributes}},
    )
    frozen.datetime_start = datetime.fromtimestamp(trial.started)
    frozen.datetime_complete = datetime.fromtimestamp(trial.started + (trial.last_start_seconds or 0.0))
    return frozen


def _values(trial: TrialRecord, record: SearchRecord) -> list[float]:
    """Return the value of each objective."""
    goals = record.objective.goals
    if len(goals) == 1:
        assert trial.score is not None
        return [trial.score]
    metrics = record.ranking.metrics(trial.number)
    return [metrics[goal.metric] for goal in goals]


def _excesses(trial: TrialRecord, record: SearchRecord) -> dict[str, float]:
    """Return by how much the trial breaks each constraint, 0 and less where it holds; nothing of one not judged."""
    judged = record.ranking.judged.get(trial.number)
    if judged is None:
        return {}
    return {
        str(bound): min(excess, sys.float_info.max)
        for bound, excess in zip(record.objective.bounds, judged.excesses, strict=True)
    }


def _intermediate(trial: TrialRecord) -> dict[int, float]:
    """Return step -> the first value of each result that came on the way, which is the one that is compared."""
    firsts = (next(iter(values.values()), None) if values else None for values in trial.intermediate)
    return {step: value for step, value in zip(trial.steps, firsts, strict=True) if value is not None}
