"""A search: what the next trial tries, which trials end early, which model is kept, and when all is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace
from raycompress.config.trial_config import trial_config
from raycompress.forecast.projection import Projection
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Journal
from raycompress.results.ranking import Ranking
from raycompress.search import plan as counts
from raycompress.search.findings import Findings
from raycompress.search.history import SearchHistory
from raycompress.search.keeper import BestKeeper
from raycompress.search.plan import BUDGETED
from raycompress.search.proposals import Proposals, Repeat, repeats_due
from raycompress.search.proposers.searchers import Proposer
from raycompress.search.recorder import Recorder
from raycompress.search.stopping.early_stopper import make_early_stopper
from raycompress.search.switch import StopSwitch
from raycompress.search.trials import Continued, Ended, Event, Lost, Result, Sample, Started, TrialPlan, TrialRequest
from raycompress.states import TrialState


@dataclass(frozen=True)
class SearchPlan:
    """What a search is to do.

    Attributes
    ----------
    experiment, space
        What to search.
    trials
        What the trials share.
    folder
        The experiment's.
    proposer
        Where samples come from.
    history
        What an earlier run of this search has left.
    projection
        Says what a sample costs, where that is known before its trial.
    """

    experiment: Experiment
    space: SearchSpace
    trials: TrialPlan
    folder: ExperimentFolder
    proposer: Proposer
    history: SearchHistory
    projection: Projection | None = None


class Search:
    """Decides, from the first trial to the last; who runs the trials is none of its business.

    Parameters
    ----------
    plan
        What to do.
    journal
        Takes every event.
    keeper
        Keeps the best candidate.
    switch
        Ends the search early.
    """

    def __init__(self, plan: SearchPlan, journal: Journal, keeper: BestKeeper, switch: StopSwitch) -> None:
        self._plan, self._keeper, self._switch = plan, keeper, switch
        experiment, history = plan.experiment, plan.history

        def notify(text: str) -> None:
            journal.append("note", text=text)

        self._notify, self._findings = notify, Findings(experiment)
        self._stopper = make_early_stopper(experiment, history, notify)
        self._recorder = Recorder(
            plan.folder,
            journal,
            keeper,
            stop=lambda why: switch.throw("failure", why),
            ignore_failures=experiment.ignore_failures,
            needs_dense=experiment.objective.needs_dense_result,
            samples={
                **dict.fromkeys(history.repeats),
                **{number: trial.sample for number, trial in history.trials.items()},
            },
            steps={number: trial.step for number, trial in history.unfinished.items()},
        )
        self._earlier = {number: trial.scores for number, trial in history.unfinished.items()}
        ranking = Ranking(experiment.objective)
        ranking.add_dense(history.dense)
        self._proposals = Proposals(
            plan.proposer,
            n_samples=plan.space.n_samples(experiment),
            baseline=plan.space.centre() if counts.has_dense_trial(experiment) else None,
            lag=None if experiment.seed is None else 2 * experiment.n_parallel,
            make_request=self._request,
            history=history,
            ranking=ranking,
            next_repeats=self._next_repeats,
            notify=notify,
        )
        self._climbs = experiment.proposer in BUDGETED and counts.reads_budget(experiment)
        self._requests: dict[int, TrialRequest] = {}

    def begin(self) -> None:
        """Begin to count the time that the search may take."""
        self._switch.start()

    @property
    def is_over(self) -> bool:
        """Whether no trial is left to be run, or the search was stopped."""
        return self._proposals.is_over or self._switch.is_thrown()

    def propose(self) -> TrialRequest | None:
        """Return the next trial; None where it has to wait for others, or where there is no more."""
        trial = self._proposals.propose()
        if trial is not None:
            self._requests[trial.number] = trial
            self._stopper.add(trial)
        return trial

    def why_stop(self, result: Result) -> str:
        """Take what a trial reports; return why the trial is to be stopped there, or an empty string."""
        if self._recorder.has(result):
            return ""
        why = self._stopper.judge(self._requests[result.number], result)
        if not why and not result.rung0:
            self._proposals.add_result(result.number, result.step, result.score)
        self._recorder.add_result(result, goes_on=not why)
        return why

    def end_early(self, result: Result, why: str) -> None:
        """Take that a trial was stopped at a result, and none of its processes is left."""
        self._recorder.end_early(result, why)
        facts = result.facts or {}
        self._add_end(
            self._requests.pop(result.number),
            None if result.rung0 else result.score,
            result.step,
            Ended(result.number, {"values": result.values, "before": None, "after": None, **facts}),
            finished=result.facts is not None,
        )

    def add(self, event: Event) -> None:
        """Take what has happened to a trial; of a `Result` see `why_stop`."""
        match event:
            case Started():
                self._recorder.start(self._requests[event.number], event.slot)
            case Continued():
                self._go_on(event)
            case Ended():
                self._end(event)
            case Lost():
                self._recorder.lose(event, self._requests[event.number])
                if not event.begins_again:
                    self._requests.pop(event.number)
                    self._proposals.add_end(event.number, None)
            case Result():
                raise AssertionError("a result asks whether its trial goes on")
            case _:
                assert_never(event)

    def conclude(self) -> None:
        """Write the end of what still runs, choose among the finalists, and leave nothing that is not worth keeping."""
        self._recorder.end_stopped(self._switch.detail)
        for note in self._findings.notes():
            self._notify(note)
        if self._switch.reason is None:
            self._keeper.conclude()
        self._plan.folder.remove_candidates_but(self._keeper.kept)
        self._plan.trials.folder.clear()

    def _go_on(self, event: Continued) -> None:
        self._recorder.go_on(event)
        if event.unused:
            return
        # what an earlier run of the search has seen of the trial; this run knows its own
        for step, score in sorted(self._earlier.pop(event.number, {}).items()):
            if step <= event.step:
                self._stopper.see(self._requests[event.number], step, score)
                self._proposals.add_result(event.number, step, score)

    def _end(self, ended: Ended) -> None:
        self._recorder.end(ended)
        state = TrialState(ended.facts["state"])
        trial = self._requests.pop(ended.number)
        if state is TrialState.FINISHED:
            self._findings.add(trial.number, trial.sample, ended.facts)
        self._add_end(
            trial,
            ended.facts["score"],
            ended.step,
            ended,
            finished=state is TrialState.FINISHED,
        )
        if state is TrialState.STOPPED:  # by whoever sits where the trial ran
            self._switch.throw("stopped", ended.facts["cause"])

    def _add_end(self, trial: TrialRequest, score: float | None, step: int, ended: Ended, *, finished: bool) -> None:
        facts = ended.facts
        self._stopper.add_end(trial, step, score, finished=finished)
        sizes = (facts["before"], facts["after"]) if finished else None
        self._proposals.add_end(trial.number, score, step, values=facts["values"], sizes=sizes)

    def _next_repeats(self) -> list[Repeat]:
        """Return the trials that train the finalists again, but for those of an earlier run."""
        repeats, samples = self._plan.experiment.repeats, self._recorder.samples
        if repeats == 1:
            return []
        due = repeats_due(self._keeper.finalists, repeats, self._plan.history.repeats, 1 + max(samples))
        return [Repeat(number, of, samples[of]) for number, of in due]

    def _request(self, number: int, sample: Sample) -> TrialRequest:
        experiment, trials, projection = self._plan.experiment, self._plan.trials, self._plan.projection
        built, seed, budgets = self._plan.space.build(sample), experiment.seed, experiment.budgets
        rungs = budgets.rungs(budgets.bracket_of(number)) if self._climbs and budgets is not None and number else ()
        config = trial_config(trials.compression, built, number=number, saves_into=trials.saves_into(number))
        if budgets is not None and experiment.proposer in BUDGETED:
            config["n_iterations"] = next(iter(rungs), budgets.max_iter)
        one_trial = experiment.proposer == "passive"  # which takes the seed as it stands
        return TrialRequest(
            number=number,
            sample=sample,
            config=config,
            seed=seed if seed is None or one_trial else seed + number,
            budgets=rungs,
            predicted=None if projection is None else projection.sizes(sample),
        )
