"""Experiment -> Ray Tune: run the trials of a search."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune.error import TuneError

from raycompress.backend.tune import slots
from raycompress.backend.tune.recorder import Recorder
from raycompress.backend.tune.scheduler import EarlyStopper, make_scheduler
from raycompress.backend.tune.searcher import Proposals, Repeat, repeats_due
from raycompress.backend.tune.stop import StopSwitch
from raycompress.backend.tune.trainable import TrialActor, TrialPlan
from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace
from raycompress.errors import ClusterError, RaycompressError
from raycompress.forecast.prior import Prior
from raycompress.forecast.projection import Projection
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Journal
from raycompress.results.ranking import Ranking
from raycompress.runtime.protocol import trial_config
from raycompress.search import plan as plans
from raycompress.search.history import SearchHistory
from raycompress.search.keeper import BestKeeper
from raycompress.search.plan import BUDGETED, n_trials
from raycompress.search.proposers.budget_enforcer import BudgetEnforcer
from raycompress.search.proposers.guided import GuidedProposer
from raycompress.search.proposers.searchers import Proposer, Sample, make_proposer

_LIVES = 3
"""How often a trial is begun again because its actor died, with its node or by itself."""


class Tuner:
    """One search, from its first trial to its last.

    Parameters
    ----------
    experiment, space
        What to search.
    plan
        What the trials share.
    folder
        The experiment's.
    journal
        Takes every event.
    switch
        Ends the search early.
    keeper
        Keeps the best candidate.
    past
        What an earlier run of this search has left.
    n_slots
        How many trials run at a time; more than Ray has resources for would never start.
    projection
        Tells what a sample costs, where that is known before its trial.
    prior
        What a guided search knows before its first trial.
    """

    def __init__(
        self,
        experiment: Experiment,
        space: SearchSpace,
        plan: TrialPlan,
        folder: ExperimentFolder,
        journal: Journal,
        switch: StopSwitch,
        *,
        keeper: BestKeeper,
        history: SearchHistory,
        n_slots: int,
        projection: Projection | None = None,
        prior: Prior | None = None,
    ) -> None:
        self._experiment = experiment
        self._space = space
        self._plan = plan
        self._folder = folder
        self._switch = switch
        self._history = history
        self._projection = projection
        self._prior = prior
        self._journal = journal
        self._n_slots = n_slots
        self._slots = slots.Slots(experiment.resources, n_slots, ray.available_resources)
        self._scheduler = make_scheduler(experiment, history)
        if isinstance(self._scheduler, EarlyStopper):
            self._scheduler.tell = lambda note: journal.append("note", text=note)
        self._climbs = experiment.proposer in BUDGETED and plans.reads_budget(experiment)
        self._keeper = keeper
        self._recorder = Recorder(
            folder,
            journal,
            keeper,
            stop=lambda why: switch.throw("failure", why),
            abandon=_abandon,
            lost=self._note_loss,
            why=self._why,
            ignore_failures=experiment.ignore_failures,
            needs_dense=experiment.objective.needs_dense_result,
            samples={
                **dict.fromkeys(history.repeats),
                **{number: trial.sample for number, trial in history.trials.items()},
            },
        )

    def run(self) -> None:
        """Run all trials; the journal then holds how each ended, and the folder the best candidate."""
        experiment = self._experiment
        self._switch.start(self._end_running_trials)
        trainable = tune.with_resources(
            tune.with_parameters(TrialActor, plan=self._plan),
            lambda config: slots.request(experiment.resources, config["slot"]),
        )
        trainable.__qualname__ = TrialActor.__qualname__  # in Ray's dashboard; Tune's own is of its wrapper
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric="score",
                mode=experiment.target,
                search_alg=self._proposals(),
                scheduler=self._scheduler,
                num_samples=n_trials(experiment, self._space) - len(self._history.ended),  # at most
                max_concurrent_trials=self._n_slots,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']:04d}",
                trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._folder.logs),
                verbose=0,
                stop=self._switch,
                callbacks=[self._recorder],
                failure_config=tune.FailureConfig(max_failures=_LIVES),  # no script's failure is one to Tune
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        # what it would print, with tracebacks, is told by the recorder, or is of Tune's own state, which nobody reads
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        with slots.kept_actors(self._slots), _told_by_us(), _uncounted():
            tuner.fit()
        self._recorder.end_stopped(self._switch.detail)
        if not self._switch.reason:
            self._keeper.conclude()
        self._folder.remove_candidates_but(self._keeper.kept)
        self._plan.folder.clear()

    def _note_loss(self) -> None:
        self._slots.has_lost_an_actor = True

    def _why(self, number: int) -> str:
        return self._scheduler.why.get(number, "") if isinstance(self._scheduler, EarlyStopper) else ""

    def _proposer(self) -> Proposer:
        experiment = self._experiment
        if self._prior is not None and self._projection is not None:
            return GuidedProposer(experiment, self._space, self._projection, self._prior, self._history)
        proposer = make_proposer(
            experiment.proposer,
            self._space,
            objective=experiment.objective,
            seed=experiment.seed,
            bohb=experiment.bohb,
            history=self._history,
        )
        if self._projection is not None and self._projection.ceilings:
            rejects = experiment.on_budget == "reject" or experiment.proposer == "sequence"
            where = experiment.where(("constraints", self._projection.ceilings[0].metric))
            return BudgetEnforcer(proposer, self._projection, experiment.objective, rejects=rejects, where=where)
        return proposer

    def _proposals(self) -> Proposals:
        experiment = self._experiment
        ranking = Ranking(experiment.objective)
        ranking.add_dense(self._history.dense)
        return Proposals(
            self._proposer(),
            n_samples=self._space.n_samples(experiment),
            baseline=self._space.centre() if experiment.baseline else None,
            lag=None if experiment.seed is None else 2 * experiment.n_parallel,
            slots=self._slots,
            make_config=self._config,
            history=self._history,
            ranking=ranking,
            next_repeats=self._next_repeats,
            tell=lambda note: self._journal.append("note", text=note),
        )

    def _next_repeats(self) -> list[Repeat]:
        """Return the trials that train the finalists again, but for those of an earlier run."""
        if self._experiment.repeats == 1:
            return []
        samples = self._recorder.samples
        due = repeats_due(self._keeper.finalists, self._experiment.repeats, self._history.repeats, 1 + max(samples))
        return [Repeat(number, of, samples[of]) for number, of in due]

    def _config(self, number: int, sample: Sample) -> dict[str, Any]:
        built = self._space.build(sample)
        seed, budgets = self._experiment.seed, self._experiment.budgets
        rungs = budgets.rungs(budgets.bracket_of(number)) if self._climbs and budgets is not None and number else ()
        predicted = None if self._projection is None else self._projection.sizes(sample)
        config = trial_config(self._plan.compression, built, number=number, saves_into=self._plan.saves_into(number))
        if budgets is not None and self._experiment.proposer in BUDGETED:
            config["n_iterations"] = next(iter(rungs), budgets.max_iter)
        return {
            "number": number,
            "sample": sample,
            "baseline": number == 0,
            "seed": None if seed is None else seed + number,
            "budgets": rungs,
            "config": config,
            "predicted": predicted,
        }

    def _end_running_trials(self) -> None:
        """Kill the trials' actors: a stop must not wait for a trial's end. Their children die with the connection."""
        for trial in self._recorder.running.values():
            actor = trial.temporary_state.ray_actor
            if actor is not None:
                ray.kill(actor)


@contextmanager
def _told_by_us() -> Iterator[None]:
    """Raise what a callback of ours raised, out of the error that Tune wraps around it."""
    try:
        yield
    except TuneError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, RaycompressError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise ClusterError(
                f"Ray Tune could not go on: {str(error).strip().splitlines()[-1]}",
                where="/tmp/ray/session_latest/logs",
                fix="read its logs there; `raycompress resume` goes on from here",
            ) from error
        raise cause from None


def _abandon(trial: Any) -> None:
    """Have the actor of one of Tune's trials kill the script that it runs, and wait for that."""
    ray.get(trial.temporary_state.ray_actor.abandon.remote())


@contextmanager
def _uncounted() -> Iterator[None]:
    """Keep Tune from counting callbacks for its telemetry, which is off: it imports MLflow and W&B for that."""
    from ray.air._internal import usage

    counted = usage.tag_callbacks
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = counted
