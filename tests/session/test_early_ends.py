"""Trials that are ended early, and trials with budgets, on real Ray: their processes, logs and models.

Which trials are ended is tested on the fake backend, in test_decisions.py.
"""

import psutil

from raycompress.states import TrialState
from tests.support.launching import DIGITS, digits_experiment, number_experiment

CURVES = """
import os, sys, time
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
print("iterations", config.get("n_iterations"))
for step in range(1, LAST + 1):
    time.sleep(0.02)
    rc.report(score=config.x * (1 - 0.7 ** step), pid=os.getpid())
"""
UNTIL_TWELVE = CURVES.replace("LAST", "12")
AS_LONG_AS_TOLD = CURVES.replace("LAST", "config.n_iterations")
SEARCH = {"parameter_config": [{"name": "x", "type": "float", "range": [0, 1]}], "random_seed": 1, "n_parallel": 2}


def test_poor_trials_are_ended_early_and_their_processes_too(tmp_path, launch):
    stop = {"resource_args": {"early_stop": {"aup_policy": "bandit", "aup_policy_steps": 2}}}
    script = UNTIL_TWELVE.replace("time.sleep(0.02)", "time.sleep(0.02 if config.x > 0.35 else 0.1)")
    done = launch(number_experiment(tmp_path, script, **SEARCH, n_samples=8, **stop))
    assert done.code == 0, done.err
    trials = done.record.searched
    early = [trial for trial in trials if trial.state is TrialState.ENDED_EARLY]
    assert early
    assert {trial.state for trial in trials} == {TrialState.FINISHED, TrialState.ENDED_EARLY}
    for trial in early:
        assert trial.score is None
        assert 2 <= len(trial.intermediate) < 12
        assert trial.cause == f"after {len(trial.intermediate)} results worse than 0.5 of the best trial's"
        assert not psutil.pid_exists(int(trial.values["pid"]))
    finished = [trial for trial in trials if trial.state is TrialState.FINISHED]
    assert all(len(trial.intermediate) == 12 for trial in finished)
    assert done.record.best.score == max(trial.score for trial in finished)
    assert "ended early" in done.err


def test_hyperband_runs_a_trial_with_growing_budgets(tmp_path, launch):
    done = launch(number_experiment(tmp_path, AS_LONG_AS_TOLD, **SEARCH, proposer="hyperband", max_iter=9, n_samples=8))
    assert done.code == 0, done.err
    record = done.record
    assert len(record.searched) == 8
    assert "n_iterations 1, 3, 9" in done.err
    runs = {trial.number: len(trial.intermediate) + 1 for trial in record.searched}
    assert set(runs.values()) <= {1, 2, 3}
    assert max(runs.values()) == 3  # whichever comes to a rung first
    assert min(runs.values()) == 1
    for trial in record.searched:
        budget = 3 ** (runs[trial.number] - 1)
        assert trial.state is TrialState.FINISHED
        assert trial.score == trial.sample["x"] * (1 - 0.7**budget)
        assert record.folder.log(trial.number).read_text() == f"iterations {budget}\n"
        whole = runs[trial.number] == 3
        assert trial.cause == ("" if whole else f"ended after {budget} of 9 iterations: not in the best 1/3")
        earlier = sorted(path.name for path in record.folder.trial(trial.number).glob("log.iterations-*.txt"))
        assert earlier == [f"log.iterations-{3**run}.txt" for run in range(runs[trial.number] - 1)]


def test_what_hyperband_ends_early_has_a_whole_model(tmp_path, launch):
    script = (DIGITS / "train.py").read_text().replace('config.get("epochs", 2)', "config.n_iterations")
    (tmp_path / "train.py").write_text(script.replace("__file__", repr(str(DIGITS / "train.py"))))
    path = digits_experiment(tmp_path, proposer="hyperband", max_iter=3, n_samples=4, workingdir=str(tmp_path))
    done = launch(path)
    assert done.code == 0, done.err
    record = done.record
    assert len(record.searched) == 4
    assert all(trial.after["params"] < trial.before["params"] for trial in record.searched)
    assert record.folder.candidates() == [record.best.number]
    assert record.verified["relative_difference"] < 1e-4
