"""Trials of several workers: what they compute together, and what becomes of a trial that loses one."""

import torch

from raycompress.bundle import bundle
from raycompress.config.experiment import Experiment
from raycompress.results.journal import journal
from raycompress.session.script_run import trial_template
from raycompress.states import TrialState
from tests.support.launching import number_experiment
from tests.support.shared_ray import run_here
from tests.support.trials import TORCHRUN


def search(folder, workers, lose="pass", **more):
    entry = {"sparsity": {"type": "choice", "range": [0.5]}, "op_types": ["Conv2d"]}
    compression = {"framework": "torch", "type": "pruning", "compressor": "random", "config_list": [entry]}
    compression["arguments"] = {"round_to": 1}
    changes = {"compression": compression, "target": "min", "proposer": "sequence", "n_samples": 1, **more}
    resource = {"cpu": 0.5, "workers": workers}
    return number_experiment(folder, TORCHRUN.replace("LOSE", lose), resource=resource, **changes)


def weights(record):
    return bundle.tensors(record.bundle, bundle.WEIGHTS)


def test_two_workers_have_the_weights_of_one_with_twice_the_batch(tmp_path):
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        done = run_here(folder, "launch", search(folder, workers))
        assert done.code == 0, done.err
        found.append(weights(done.record))
    one, two = found
    # a mean of two means of half a batch each: floats are summed in another order, for four steps
    assert all(torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-6) for name in one)
    assert one["0.weight"].shape[0] == 4


KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def test_a_trial_that_loses_a_worker_goes_on_from_its_checkpoint(tmp_path):
    done = run_here(tmp_path, "launch", search(tmp_path, 2, KILLED))
    assert done.code == 0, done.err
    record = done.record
    trial, folder = record.records[1], record.folder.trial(1)
    assert (trial.state, trial.attempts, trial.starts) == (TrialState.FINISHED, 2, 1)
    (retried,) = [event for event in journal.read(record.folder.journal) if event["event"] == "retried"]
    assert retried["state"] == TrialState.KILLED
    assert (
        retried["cause"].startswith("worker 1: killed by signal 9") and "the trial is lost with it" in retried["cause"]
    )
    for name in ("log.txt", "log.worker-1.txt"):
        lines = (folder / name).read_text().splitlines()
        assert [line for line in lines if line.startswith("epoch")] == ["epoch 3"]
    assert trial.continued == 0


def test_a_worker_that_fails_is_named_and_workers_without_room_are_told_of_before_the_first_trial(tmp_path):
    path = search(tmp_path, 2, 'raise ValueError("of the second")')
    done = run_here(tmp_path, "launch", path)
    trial = done.record.records[1]
    assert trial.state == TrialState.FAILED
    assert trial.cause.startswith("worker 1: ValueError: of the second (script.py:")
    assert trial_template(Experiment.load(path))["env"]["ACCELERATE_USE_CPU"] == "true"  # or Accelerator() joins nobody
    (tmp_path / "more").mkdir()
    done = run_here(tmp_path / "more", "launch", search(tmp_path / "more", 500))
    assert done.code == 2
    assert "a trial has 500 workers with 0.5 CPUs each, and there is room for " in done.err
    assert not (tmp_path / "more" / "raycompress_results").exists()
