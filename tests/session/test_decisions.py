"""What a search decides, whoever runs its trials: whole searches on the fake backend, through launch and resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raycompress.backend.fake import FakeRun, LostProcessError
from raycompress.cli.view.conclusion import summary
from raycompress.errors import UsageError
from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.fake_search import Notes, X, go_on, killed_at, search, written

pytestmark = pytest.mark.unit

TWO_AT_A_TIME = {"parameter_config": X, "random_seed": 1, "n_parallel": 2}
DENSE = {"params": 100, "flops": 1000, "size_bytes": 400}


def curve(sample: dict[str, Any], last: int = 12) -> list[float]:
    return [sample["x"] * (1 - 0.7**step) for step in range(1, last + 1)]


def pruned(sample: dict[str, Any]) -> FakeRun:
    """A trial that saves a model: the more is cut, the worse it is."""
    left = 1 - sample["x"]
    after = {name: round(left * size) for name, size in DENSE.items()}
    return FakeRun([{"accuracy": round(0.9 - 0.5 * sample["x"] ** 2, 3)}], before=DENSE, after=after)


def events(record: SearchRecord) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.folder.journal.read_text().splitlines()]


def kinds(record: SearchRecord, trial: int) -> list[str]:
    return [event["event"] for event in events(record) if event.get("trial") == trial]


@pytest.mark.parametrize("proposer", ["random", "optuna", "spearmint", "hyperopt"])
def test_equal_seeds_give_equal_searches(proposer: str, tmp_path: Path) -> None:
    keys = {**TWO_AT_A_TIME, "proposer": proposer, "n_samples": 8}
    first, second = (search(tmp_path / name, lambda sample: sample["x"], **keys) for name in "ab")
    assert [trial.sample for trial in first.searched] == [trial.sample for trial in second.searched]
    other = search(tmp_path / "c", lambda sample: sample["x"], **{**keys, "random_seed": 2})
    assert [trial.sample for trial in other.searched] != [trial.sample for trial in first.searched]


@pytest.mark.parametrize("proposer", ["optuna", "hyperopt"])
def test_a_seed_gives_one_search_however_fast_each_trial_is(proposer: str, tmp_path: Path) -> None:
    """The more a trial reports, the later it ends among those that run beside it."""
    keys = {"parameter_config": X, "random_seed": 1, "proposer": proposer, "n_samples": 30, "n_parallel": 3}
    keys["resource_args"] = {"track_intermediate_results": True}

    def slow_below(sample: dict[str, Any]) -> list[float]:
        return [sample["x"]] * (1 + 20 * (sample["x"] < 0.5))

    def slow_above(sample: dict[str, Any]) -> list[float]:
        return [sample["x"]] * (1 + 20 * (sample["x"] > 0.5))

    first, second = search(tmp_path / "a", slow_below, **keys), search(tmp_path / "b", slow_above, **keys)
    ends = [[event["trial"] for event in events(one) if event["event"] == "ended"] for one in (first, second)]
    assert ends[0] != ends[1]
    assert [trial.sample for trial in first.searched] == [trial.sample for trial in second.searched]


def test_the_dense_model_comes_first_and_is_no_sample(tmp_path: Path) -> None:
    record = search(tmp_path, lambda sample: sample["x"], parameter_config=X, n_samples=3, baseline=True)
    assert record.baseline is not None
    assert record.baseline.number == 0
    assert [trial.number for trial in record.searched] == [1, 2, 3]
    assert record.header["n_trials"] == 4


def test_poor_trials_end_early_and_their_last_result_counts(tmp_path: Path) -> None:
    stop = {"early_stop": {"aup_policy": "bandit", "aup_policy_steps": 2}}
    record = search(tmp_path, curve, **TWO_AT_A_TIME, n_samples=8, resource_args=stop)
    early = [trial for trial in record.searched if trial.state is TrialState.ENDED_EARLY]
    finished = [trial for trial in record.searched if trial.state is TrialState.FINISHED]
    assert early
    assert len(early) + len(finished) == 8
    for trial in early:
        assert trial.score is None
        assert trial.cause == f"after {len(trial.intermediate)} results worse than 0.5 of the best trial's"
        assert 2 <= len(trial.intermediate) < 12
        assert trial.values == trial.intermediate[-1]
    assert all(len(trial.intermediate) == 12 for trial in finished)
    assert record.best is not None
    assert record.best.score == max(trial.score or 0 for trial in finished)


def test_hyperband_runs_a_trial_with_growing_budgets(tmp_path: Path) -> None:
    keys = {**TWO_AT_A_TIME, "proposer": "hyperband", "max_iter": 9, "n_samples": 9}
    record = search(tmp_path, curve, script="n_iterations", **keys)
    for trial in record.searched:
        assert trial.state is TrialState.FINISHED
        budget = 3 ** len(trial.intermediate)
        assert trial.score == curve(trial.sample)[budget - 1]
        assert trial.config["n_iterations"] == 1
        assert trial.cause == ("" if budget == 9 else f"ended after {budget} of 9 iterations: not in the best 1/3")
    budgets = {len(trial.intermediate) for trial in record.searched}
    assert budgets == {0, 1, 2}


def test_bohb_with_a_script_that_knows_no_budget(tmp_path: Path) -> None:
    keys = {**TWO_AT_A_TIME, "proposer": "bohb", "max_iter": 12, "num_samples": 4, "n_samples": 10}
    record = search(tmp_path, curve, **keys)
    assert len(record.searched) == 10
    assert any(trial.state is TrialState.ENDED_EARLY for trial in record.searched)
    assert all(trial.config["n_iterations"] == 12 for trial in record.searched)


def test_a_trial_that_reports_once_is_never_ended_early(tmp_path: Path) -> None:
    keys = {**TWO_AT_A_TIME, "proposer": "hyperband", "max_iter": 1, "n_samples": 6}
    record = search(tmp_path, lambda sample: sample["x"], **keys)
    assert {trial.state for trial in record.searched} == {TrialState.FINISHED}
    assert all(len(trial.intermediate) == 1 for trial in record.searched)


def test_rung_zero_ends_the_worst_before_they_train(tmp_path: Path) -> None:
    def run(sample: dict[str, Any]) -> FakeRun:
        return FakeRun(curve(sample, 9), rung0=sample["x"])

    keys = {**TWO_AT_A_TIME, "n_samples": 24, "scheduler": {"type": "asha", "rung0": True}}
    record = search(tmp_path, run, **keys)
    trials = record.searched
    assert all(trial.rung0 == trial.sample["x"] for trial in trials)
    ended = [trial for trial in trials if trial.cause.startswith("before training")]
    assert ended
    assert all(trial.state is TrialState.ENDED_EARLY and trial.values is None for trial in ended)
    assert all(trial.number > 8 for trial in ended)


def test_the_best_model_alone_is_kept(tmp_path: Path) -> None:
    record = search(tmp_path, pruned, **TWO_AT_A_TIME, n_samples=6, objectives={"accuracy": "max"})
    assert record.best is not None
    assert record.best.number == min(record.searched, key=lambda trial: trial.sample["x"]).number
    assert record.folder.candidates() == [record.best.number]
    assert record.best_number == record.best.number
    removed = {event["trial"] for event in events(record) if event["event"] == "pruned"}
    assert removed == {1, 2, 3, 4, 5, 6} - {record.best.number}


def test_finalists_are_trained_again_and_the_choice_is_by_all_runs(tmp_path: Path) -> None:
    runs = iter(range(100))

    def noisy(sample: dict[str, Any]) -> FakeRun:
        run = pruned(sample)
        return FakeRun([{"accuracy": run.values[0]["accuracy"] + 0.01 * next(runs)}], run.before, run.after)

    keys = {"objectives": {"accuracy": "max"}, "repeats": 3, "finalists": 2, "n_samples": 3}
    record = search(tmp_path, noisy, parameter_config=X, random_seed=1, **keys)
    repeats = [trial for trial in record.searched if trial.repeat_of is not None]
    assert [trial.number for trial in repeats] == [4, 5, 6, 7]
    assert len({trial.repeat_of for trial in repeats}) == 2
    assert len({trial.config["random_seed"] for trial in repeats}) == 4
    verdict = record.repeated
    assert verdict is not None
    for one in verdict["finalists"]:
        scores = [record.records[number].score or 0 for number in one["runs"]]
        assert len(scores) == 3
        assert one["means"]["accuracy"] == pytest.approx(sum(scores) / 3)
    assert record.best_number == verdict["run"]
    assert record.folder.candidates() == [record.best_number]
    assert "±" in summary(record)
    more = go_on(record, noisy, n_samples=4)
    assert [trial.number for trial in more.searched if trial.repeat_of is None] == [1, 2, 3, 8]
    again = more.repeated
    assert again is not None
    known = next(one for one in again["finalists"] if one["trial"] == verdict["chosen"])
    assert len(known["runs"]) == 3
    assert more.best_number == again["run"]


def fails_above(limit: float) -> Any:
    def function(sample: dict[str, Any]) -> float:
        if sample["x"] > limit:
            raise RuntimeError("too large")
        return float(sample["x"])

    return function


def test_a_failure_ends_the_search_and_is_made_again_once_it_is_mended(tmp_path: Path) -> None:
    record = search(tmp_path, fails_above(0.5), **TWO_AT_A_TIME, n_samples=6)
    assert record.finished == "failure"
    assert "too large" in record.finished_detail
    states = [trial.state for trial in record.searched]
    assert TrialState.FAILED in states
    done = go_on(record, lambda sample: sample["x"])
    assert done.finished == "complete"
    assert [trial.state for trial in done.searched] == [TrialState.FINISHED] * 6
    unbroken = search(tmp_path / "unbroken", lambda sample: sample["x"], **TWO_AT_A_TIME, n_samples=6)
    assert [trial.sample for trial in done.searched] == [trial.sample for trial in unbroken.searched]


def test_a_failure_that_is_ignored_is_one_all_the_same(tmp_path: Path) -> None:
    keys = {"n_samples": 6, "job_failure": {"ignore_fail": True, "job_retries": 1}}
    record = search(tmp_path, fails_above(0.5), **TWO_AT_A_TIME, **keys)
    assert record.finished == "complete"
    failed = [trial for trial in record.searched if trial.state is TrialState.FAILED]
    assert failed
    assert kinds(record, failed[0].number) == ["started", "retried", "ended"]
    assert failed[0].cause == "RuntimeError: too large"


def test_a_metric_that_is_not_reported_fails_the_trial(tmp_path: Path) -> None:
    keys = {"parameter_config": X, "n_samples": 1, "objectives": {"accuracy": "max"}}
    record = search(tmp_path, lambda sample: FakeRun([{"top1": 0.5}]), **keys)
    assert record.searched[0].state is TrialState.BAD_RESULT
    assert 'the script reports no "accuracy"' in record.searched[0].cause


def test_a_process_that_is_lost_costs_no_trial(tmp_path: Path) -> None:
    lost: set[float] = set()

    def function(sample: dict[str, Any]) -> float:
        if sample["x"] not in lost:
            lost.add(sample["x"])
            raise LostProcessError("with its node")
        return float(sample["x"])

    record = search(tmp_path, function, **TWO_AT_A_TIME, n_samples=3)
    assert [trial.state for trial in record.searched] == [TrialState.FINISHED] * 3
    assert kinds(record, 1) == ["started", "retried", "started", "ended"]
    assert all(trial.starts == 2 for trial in record.searched)


def test_a_process_that_is_lost_again_and_again_is_a_failure(tmp_path: Path) -> None:
    def function(sample: dict[str, Any]) -> float:
        raise LostProcessError("with its node")

    record = search(tmp_path, function, parameter_config=X, n_samples=2)
    assert record.finished == "failure"
    assert record.searched[0].state is TrialState.KILLED
    assert kinds(record, 1) == ["started", *["retried", "started"] * 3, "ended"]


@pytest.mark.parametrize("proposer", ["random", "sequence", "optuna", "hyperopt"])
@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_killed_search_goes_on_where_it_was(proposer: str, at: int, tmp_path: Path) -> None:
    x = {"name": "x", "type": "float", "range": [0, 1], "n": 8}
    keys = {"parameter_config": [x], "random_seed": 1, "proposer": proposer, "n_samples": 8, "n_parallel": 2}
    before = killed_at(written(tmp_path / "killed", **keys), at, lambda sample: sample["x"])
    assert before.state == "interrupted"
    ended = {trial.number for trial in before.searched if trial.state is TrialState.FINISHED}
    begun = {trial.number: trial.sample for trial in before.searched if trial.state is TrialState.RUNNING}
    assert len(ended) < at
    view = Notes()
    done = go_on(before, lambda sample: sample["x"], view=view)
    assert done.finished == "complete"
    assert [trial.number for trial in done.searched] == list(range(1, 9))
    assert {trial.number for trial in done.searched if trial.starts == 2} == set(begun)
    assert {number: done.records[number].sample for number in begun} == begun
    again = {event["trial"] for event in view.events[len(events(before)) :] if event["event"] == "started"}
    assert not again & ended
    if proposer in ("random", "sequence"):  # whose proposals do not hang on what they learn
        unbroken = search(tmp_path / "unbroken", lambda sample: sample["x"], **keys)
        assert [trial.sample for trial in done.searched] == [trial.sample for trial in unbroken.searched]


def test_a_killed_search_keeps_the_best_of_both_runs(tmp_path: Path) -> None:
    keys = {**TWO_AT_A_TIME, "n_samples": 8, "objectives": {"accuracy": "max"}}
    before = killed_at(written(tmp_path, **keys), 5, pruned)
    done = go_on(before, pruned)
    assert done.best is not None
    assert done.best.score == max(trial.score or 0 for trial in done.searched)
    assert done.folder.candidates() == [done.best.number]


def test_a_best_model_that_is_lost_is_made_again(tmp_path: Path) -> None:
    keys = {"parameter_config": X, "random_seed": 3, "n_samples": 3, "objectives": {"accuracy": "max"}}
    record = search(tmp_path, pruned, **keys)
    assert record.best is not None
    assert record.bundle is not None
    (record.bundle / "weights.safetensors").write_bytes(b"rotten")
    view = Notes()
    after = go_on(record, pruned, view=view)
    assert any(f"the model of trial {record.best.number} is no longer whole" in note for note in view.notes)
    assert after.records[record.best.number].starts == 2
    assert after.best is not None
    assert after.best.score == record.best.score
    after.folder.check_candidate(after.best.number)


def test_a_complete_search_is_extended(tmp_path: Path) -> None:
    record = search(tmp_path, lambda sample: sample["x"], parameter_config=X, random_seed=3, n_samples=2)
    journal = record.folder.journal.read_bytes()
    view = Notes()
    assert go_on(record, fails_above(-1), view=view).searched == record.searched
    assert any("--n-samples adds some" in note for note in view.notes)
    assert record.folder.journal.read_bytes() == journal
    done = go_on(record, lambda sample: sample["x"], n_samples=4)
    assert [trial.number for trial in done.searched] == [1, 2, 3, 4]
    assert done.searched[:2] == record.searched
    with pytest.raises(UsageError, match="the search has 4 samples"):
        go_on(done, fails_above(-1), n_samples=3)


def test_a_grid_has_an_end(tmp_path: Path) -> None:
    x = [{"name": "x", "type": "choice", "range": [0.1, 0.2, 0.3]}]
    record = search(tmp_path, lambda sample: sample["x"], parameter_config=x, proposer="sequence", n_samples=2)
    more = go_on(record, lambda sample: sample["x"], n_samples=9)
    assert [trial.sample["x"] for trial in more.searched] == [0.1, 0.2, 0.3]
    with pytest.raises(UsageError, match="every point of the search space has been tried"):
        go_on(more, fails_above(-1), n_samples=12)


def test_a_search_ends_when_its_time_is_spent(tmp_path: Path) -> None:
    record = search(tmp_path, lambda sample: sample["x"], parameter_config=X, n_samples=4, time_budget_s=1e-9)
    assert record.finished == "time budget"
    assert record.searched == []


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    (example,) = [block for block in page.split("```python\n")[1:] if "FakeBackend(" in block]
    written(tmp_path, parameter_config=X, n_samples=20, random_seed=1)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example.partition("```")[0], names)
    assert abs(names["record"].best.sample["x"] - 0.5) < 0.1
