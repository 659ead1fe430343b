"""What a search that is resumed knows of its past."""

import statistics

import pytest

from raycompress.config.objective import Objective
from raycompress.config.search_space import SearchSpace
from raycompress.results import store
from raycompress.results.journal.journal import Journal
from raycompress.results.record import SearchRecord
from raycompress.search.history import PastTrial, SearchHistory
from raycompress.search.outcome import NOTHING
from raycompress.search.proposals import Proposals
from raycompress.search.proposers.searchers import make_proposer
from raycompress.search.stopping.early_stopper import make_early_stopper
from raycompress.search.trials import Result, TrialRequest
from raycompress.states import TrialState
from tests.support.early_stopping import experiment_with

MODELS = ["hyperopt", "optuna", "spearmint", "bohb"]


@pytest.fixture
def space(tmp_path):
    return SearchSpace.of(experiment_with(tmp_path))


def score(sample):
    (x,) = sample.values()
    return -((x - 0.7) ** 2)


def trials(space, name, n, history=None, seed=3, lag=None, skip=()):
    """Propose trials up to number `n`, each with its score known before the next; return number -> sample."""
    history = history or SearchHistory()
    proposals = Proposals(
        make_proposer(name, space, objective=Objective.of_score("max"), seed=seed, history=history),
        n_samples=n,
        baseline=None,
        lag=lag,
        make_request=lambda number, sample: TrialRequest(number, sample, {}),
        history=history,
    )
    made = {}
    while (trial := proposals.propose()) is not None:
        made[trial.number] = trial.sample
        value = score(trial.sample)
        proposals.add_end(trial.number, value, 1, values={"score": value}, sizes=(None, None))
    assert proposals.is_over
    return made


def past_of(samples, *, ended=True):
    return SearchHistory(
        {
            number: PastTrial(sample, ended, score(sample) if ended else None, {1: score(sample)} if ended else {})
            for number, sample in samples.items()
        }
    )


@pytest.mark.parametrize("name", ["random", "hyperband", "sequence"])
def test_what_repeats_goes_on_as_if_it_had_not_been_broken(tmp_path, name):
    grid = {"op_names": ["c"], "sparsity": {"type": "choice", "range": [number / 20 for number in range(1, 20)]}}
    compression = {"framework": "torch", "type": "pruning", "compressor": "l1_filter", "config_list": [grid]}
    space = SearchSpace.of(experiment_with(tmp_path, compression=compression))
    unbroken = trials(space, name, 19)
    seen = past_of({number: unbroken[number] for number in (1, 2, 3, 5, 8)})
    rest = trials(space, name, 19, seen)
    assert rest == {number: sample for number, sample in unbroken.items() if number not in seen.ended}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_knows_every_result_of_the_past(space, name):
    known = past_of(trials(space, "random", 40))
    after = trials(space, name, 60, known)
    assert sorted(after) == list(range(41, 61))
    fresh = trials(space, name, 10)

    def distance(samples):
        return statistics.median(abs(next(iter(sample.values())) - 0.7) for sample in samples)

    assert distance(after.values()) < distance(fresh.values())
    past_samples = [trial.sample for trial in known.ended.values()]
    assert not any(sample in past_samples for sample in after.values())


@pytest.mark.parametrize("name", [*MODELS, "random"])
def test_a_trial_that_had_begun_is_made_with_its_own_sample(space, name):
    (dimension,) = space.dimensions
    begun = past_of({2: {dimension.name: 0.123}}, ended=False)
    both = SearchHistory({**past_of({1: {dimension.name: 0.5}}).trials, **begun.trials})
    after = trials(space, name, 4, both)
    assert sorted(after) == [2, 3, 4]
    assert after[2] == {dimension.name: 0.123}


@pytest.mark.parametrize("name", MODELS)
def test_a_failure_of_the_past_is_known_as_one(space, name):
    (dimension,) = space.dimensions
    failed = {number: PastTrial({dimension.name: 0.1 * number}, ended=True) for number in range(1, 9)}
    assert sorted(trials(space, name, 12, SearchHistory(failed))) == [9, 10, 11, 12]


def test_policies_judge_by_the_past_too(tmp_path):
    stop = {"resource_args": {"early_stop": {"aup_policy": "bandit", "aup_policy_steps": 1, "bandit_factor": 0.1}}}
    experiment = experiment_with(tmp_path, **stop)
    history = SearchHistory({1: PastTrial({"x": 1}, True, 1.0, {1: 0.5, 2: 1.0})})

    for known, is_stopped in ((history, True), (SearchHistory(), False)):
        stopper = make_early_stopper(experiment, known)
        trial = TrialRequest(2, {}, {})
        stopper.add(trial)
        assert bool(stopper.judge(trial, Result(2, 1, {}, 0.01))) is is_stopped


@pytest.mark.parametrize("policy", [{"proposer": "hyperband", "max_iter": 9, "n_samples": 9}, "asha", "median"])
def test_rules_take_the_past(tmp_path, policy):
    keys = policy
    if isinstance(policy, str):
        keys = {"resource_args": {"early_stop": {"aup_policy": policy, "aup_policy_steps": 1}}}
    history = SearchHistory(
        {
            number: PastTrial({"x": 1}, True, 1.0, {step: 1.0 - 0.5**step for step in range(1, 4)})
            for number in (1, 2, 3, 4)
        }
    )
    stopper = make_early_stopper(experiment_with(tmp_path, **keys), history)
    trial = TrialRequest(5, {}, {})
    stopper.add(trial)
    for step in range(1, 4):
        if stopper.judge(trial, Result(5, step, {}, 0.0)):
            return
    pytest.fail("the worst trial of all goes on")


def written(folder, *, finished=None):
    """A journal with a trial of every kind of end, and one that was running."""
    journal = Journal(folder.journal)
    header = {"name": "x", "file": "exp.json", "script": "train.py", "compressor": "l1_filter", "proposer": "random"}
    counts = {"n_trials": 9, "n_parallel": 1, "dimensions": ["x"], "host": "here", "pid": 1}
    journal.append("experiment", version=1, id=folder.id, goal="max", **header, **counts)
    for number, state in enumerate(TrialState):
        journal.append("started", trial=number, attempt=1, sample={"x": number}, config={}, baseline=number == 0)
        if state == TrialState.RUNNING:
            continue
        journal.append("intermediate", trial=number, step=1, values={"score": 0.5})
        facts = {**NOTHING, "state": state, "cause": "", "seconds": 1.0}
        if state == TrialState.FINISHED:
            facts |= {"values": {"score": 0.9}, "score": 0.9}
        journal.append("ended", trial=number, log="", **facts)
    if finished:
        journal.append("finished", reason=finished, detail="")
    journal.close()
    return SearchRecord(folder)


def test_what_was_running_or_stopped_is_made_again_and_nothing_else(tmp_path):
    history = SearchHistory.of(written(store.create(tmp_path, "killed")))
    again = {list(TrialState)[number] for number, trial in history.trials.items() if not trial.ended}
    assert again == {TrialState.RUNNING, TrialState.STOPPED}
    by_state = {list(TrialState)[number]: trial for number, trial in history.trials.items()}
    assert by_state[TrialState.FINISHED].score == 0.9
    assert by_state[TrialState.FAILED].score is None
    assert by_state[TrialState.ENDED_EARLY].score == 0.5


def test_a_search_that_a_failure_ended_makes_that_trial_again(tmp_path):
    history = SearchHistory.of(written(store.create(tmp_path, "failed"), finished="failure"))
    again = {list(TrialState)[number] for number, trial in history.trials.items() if not trial.ended}
    assert TrialState.FAILED in again
    assert TrialState.FINISHED not in again
    assert TrialState.ENDED_EARLY not in again
