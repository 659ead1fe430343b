import json

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from raycompress.errors import StorageError
from raycompress.results import store
from raycompress.results.journal.journal import Journal
from raycompress.results.record import SearchRecord
from tests.support.searches import BEGAN, header, searched, without_waiting
from tests.support.shared_ray import run_here


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    without_waiting(monkeypatch)


def test_a_study_says_what_the_journal_says(tmp_path):
    record = searched(tmp_path, 40)
    study = record.to_optuna()
    assert study.study_name == record.id
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.user_attrs["trial"] for trial in study.trials] == [trial.number for trial in record.searched]
    for copied, trial in zip(study.trials, record.searched, strict=True):
        assert copied.user_attrs["state"] == trial.state
        assert copied.user_attrs["after"] == trial.after
        assert copied.value == trial.score
        assert copied.params["layer0.conv1.sparsity"] == trial.sample["layer0.conv1.sparsity"]
        assert json.loads(copied.params["optimizer"]) == trial.sample["optimizer"]
        assert copied.duration.total_seconds() == pytest.approx(trial.seconds, abs=1e-3)
    words = {"finished": TrialState.COMPLETE, "ended early": TrialState.PRUNED}
    assert [trial.state for trial in study.trials] == [
        words.get(trial.state, TrialState.FAIL) for trial in record.searched
    ]
    assert study.best_trial.user_attrs["trial"] == record.best.number
    assert study.user_attrs["baseline"] == record.baseline.values


def test_several_objectives_and_what_is_broken(tmp_path):
    goals = {"accuracy": "max", "flops": "min"}
    record = searched(tmp_path, 20, objectives=goals, constraints={"params": {"max_ratio": 0.4}})
    study = record.to_optuna()
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert finished
    for trial in finished:
        after = trial.user_attrs["after"]
        assert trial.values == [trial.user_attrs["values"]["accuracy"], after["flops"]]
        (excess,) = trial.constraints.values()
        assert (excess <= 0) == (after["params"] <= 0.4 * trial.user_attrs["before"]["params"])
    assert {trial.user_attrs["trial"] for trial in study.best_trials} == {trial.number for trial in record.pareto}


def test_distributions_span_what_was_proposed(tmp_path):
    record = searched(tmp_path, 20)
    distributions = record.to_optuna().trials[0].distributions
    proposed = [trial.sample["layer0.conv1.sparsity"] for trial in record.searched]
    assert distributions["layer0.conv1.sparsity"] == FloatDistribution(min(proposed), max(proposed))
    assert isinstance(distributions["epochs"], IntDistribution)
    assert distributions["optimizer"] == CategoricalDistribution(('"adam"', '"sgd"'))


def told(folder, *events):
    journal = Journal(folder.journal)
    journal.append("experiment", t=BEGAN, **header(folder, ["a"]))
    for name, fields in events:
        journal.append(name, t=BEGAN, **fields)
    journal.close()
    return SearchRecord.open(folder.root)


def started(number, **sample):
    return "started", {"trial": number, "sample": sample, "config": {}, "baseline": False}


def ended(number, state):
    nothing = {"cause": "", "score": None, "before": None, "after": None, "removed": {}, "saved": False}
    return "ended", {"trial": number, "state": state, "values": {"accuracy": 0.2}, "seconds": 1.0, **nothing}


def test_what_came_on_the_way_and_what_is_left_out(tmp_path):
    record = told(
        store.create(tmp_path, "x"),
        started(1, a=0.5),
        ("intermediate", {"trial": 1, "values": {"accuracy": 0.1, "loss": 3.0}, "step": 1}),
        ("intermediate", {"trial": 1, "values": {"accuracy": 0.2, "loss": 2.0}, "step": 3}),
        ended(1, "ended early"),
        started(2, a=[1, {"b": None}]),
        ended(2, "failed"),
        started(3, a=True),
        started(4, a=0.5),
        ended(4, "stopped"),
    )
    study = record.to_optuna()
    pruned, failed = study.trials
    assert pruned.state == TrialState.PRUNED
    assert pruned.intermediate_values == {1: 0.1, 3: 0.2}
    assert failed.params["a"] == '[1, {"b": null}]'
    assert study.user_attrs["left_out"] == 2


def test_nothing_is_copied_of_a_search_that_has_just_begun(tmp_path):
    assert told(store.create(tmp_path, "x")).to_optuna().trials == []


def test_a_second_export_changes_nothing(tmp_path):
    record = searched(tmp_path, 5)
    file = tmp_path / "study.db"
    record.to_optuna(storage=f"sqlite:///{file}")
    with pytest.raises(StorageError, match="already"):
        record.to_optuna(storage=file)
    assert len(optuna.load_study(study_name=record.id, storage=f"sqlite:///{file}").trials) == 5
    record.to_optuna("another", file)
    assert len(optuna.get_all_study_names(f"sqlite:///{file}")) == 2


@pytest.mark.parametrize("storage", ["/nowhere/at/all/study.db", "nosuch://database"])
def test_where_nothing_can_be_written(tmp_path, storage):
    with pytest.raises(StorageError, match="cannot be written"):
        searched(tmp_path, 2).to_optuna(storage=storage)


def test_half_a_study_is_taken_away(tmp_path, monkeypatch):
    record = searched(tmp_path, 3)
    storage = f"sqlite:///{tmp_path / 'study.db'}"

    def fail(self, trials):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(optuna.Study, "add_trials", fail)
    with pytest.raises(RuntimeError, match="disk"):
        record.to_optuna(storage=storage)
    assert optuna.get_all_study_names(storage) == []


def test_the_command(tmp_path):
    record = searched(tmp_path, 3)
    done = run_here(tmp_path, "report", record.folder.root, "--optuna", "study.db")
    assert (done.code, done.err) == (0, "")
    assert record.id in done.out
    assert len(optuna.load_study(study_name=record.id, storage=f"sqlite:///{tmp_path / 'study.db'}").trials) == 3
    again = run_here(tmp_path, "report", record.folder.root, "--optuna", f"sqlite:///{tmp_path / 'study.db'}")
    assert again.code == 1
    assert "there is a study" in again.err
    assert "Traceback" not in again.err
