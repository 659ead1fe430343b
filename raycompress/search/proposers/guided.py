"""The proposer ``guided``: sparsities from measurements made before the search, other dimensions by Optuna's TPE."""

from __future__ import annotations

from raycompress.config.experiment import Experiment
from raycompress.config.objective import Judgement
from raycompress.config.search_space import SearchSpace
from raycompress.forecast.candidates import projected
from raycompress.forecast.prior import Goal, Prior, Scored, by_values
from raycompress.forecast.projection import Projection, has_one_size
from raycompress.search.history import SearchHistory
from raycompress.search.proposers.budget import BudgetProposer
from raycompress.search.proposers.optuna_proposer import OptunaProposer
from raycompress.search.proposers.searchers import Sample
from raycompress.search.proposers.tradeoff import TradeOffProposer
from raycompress.search.stopping.policies import Scores


class GuidedProposer:
    """Proposes sparsities by the measured prior, and every other dimension by Optuna's TPE.

    A `BudgetProposer` makes them under a budget, with one objective that the script reports; otherwise a
    `TradeOffProposer`.
    """

    repeats = False

    def __init__(
        self, experiment: Experiment, space: SearchSpace, projection: Projection, prior: Prior, history: SearchHistory
    ) -> None:
        objective, seed = experiment.objective, experiment.seed
        guided = space.guided
        names = {one.name for one in guided}
        rest = tuple(one for one in space.dimensions if one.name not in names)
        self._names = [one.name for one in space.dimensions]
        self._projection = projection
        self._rest = OptunaProposer("tpe", SearchSpace(rest, {}), objective, seed, SearchHistory()) if rest else None
        whole = space.centre()
        goal: Goal = objective.goal
        is_possible = projection.fits(space.smallest())
        if has_one_size(experiment, projection):
            self._guided: BudgetProposer | TradeOffProposer = BudgetProposer(
                guided,
                prior=prior,
                cost=lambda sample: projection.ratio({**whole, **sample}),
                project=lambda sample: projected(projection, sample),
                goal=goal,
                seed=seed,
                exploration=experiment.exploration,
                # what is searched beside the sparsities makes another trial of the same model
                alike=by_values if rest else lambda sample: projection.cuts({**whole, **sample}),
                # where nothing is predicted to fit, as a latency may be, trials tell
                fits=lambda sample: not is_possible or projection.fits({**whole, **sample}),
            )
        else:
            self._guided = TradeOffProposer(
                guided,
                whole,
                prior=prior,
                projection=projection,
                objective=objective,
                goal=goal,
                model=OptunaProposer("tpe", SearchSpace(guided, {}), objective, seed, SearchHistory()),
                seed=seed,
                exploration=experiment.exploration,
            )
        for number, trial in sorted({**history.results, **history.unfinished}.items()):
            self._add_proposed(number, trial.sample)
            if trial.ended:
                self.learn(number, trial.score, trial.scores, trial.judgement)

    @property
    def note(self) -> str:
        """Note for the user about the prior; empty where there is none."""
        return self._guided.note

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`, within the budgets; None where all that they leave was tried."""
        beside = (self._rest.propose(number) or {}) if self._rest is not None else {}
        guided = self._guided.propose(number)
        if guided is None:
            return None
        asked = {**guided, **beside}
        sample = asked
        if not self._projection.fits(asked):  # by what is beside, such as another round_to
            sample = self._projection.project(asked)
            self._guided.replace_proposed(number, {name: value for name, value in sample.items() if name not in beside})
        return {name: sample[name] for name in self._names}

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Learn the result of trial `number`."""
        self._guided.learn(number, score, scores, judgement)
        if self._rest is not None:
            self._rest.learn(number, score, scores, judgement)

    def _add_proposed(self, number: int, sample: Sample) -> None:
        """Take a sample that an earlier run of the search has proposed."""
        self._guided.add_proposed(number, sample)
        if self._rest is not None:
            self._rest.add_proposed(number, sample)


def negated(prior: Prior) -> Prior:
    """Return the prior with the sign of its metric flipped: agreement is maximised where the search minimises."""
    return Prior(
        -prior.dense,
        {name: [(sparsity, -value) for sparsity, value in curve] for name, curve in prior.curves.items()},
        tuple(Scored(one.sample, -one.score) for one in prior.candidates),
    )
