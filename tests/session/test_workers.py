"""Trials of several workers: what they compute together, and what becomes of a trial that loses one."""

import torch

from raycompress.bundle import bundle
from raycompress.results.journal import journal
from raycompress.states import TrialState
from tests.support.launching import number_experiment
from tests.support.shared_ray import run_here

SCRIPT = """
import os, signal, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
rank, world = 0, 1
if "RANK" in os.environ:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 4
torch.manual_seed(rank)
compressor = rc.create_compressor(model, config, dummy_input=images[:1], seed=rank)
model = compressor.compress()
small = compressor.apply_speedup()
trained = DistributedDataParallel(small) if "RANK" in os.environ else small
optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
state = rc.checkpoint.load(model=small, optimizer=optimizer)
print("rank", rank, "of", world, "local", os.environ.get("LOCAL_RANK"), "of", os.environ.get("LOCAL_WORLD_SIZE"))
for epoch in range(0 if state is None else state["epoch"] + 1, 4):
    print("epoch", epoch)
    own = slice(rank, None, world)
    loss = torch.nn.functional.cross_entropy(trained(images[own]), labels[own])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rc.checkpoint(model=small, optimizer=optimizer, epoch=epoch)
    if epoch == 2 and rank == 1 and state is None and config.get("tid") == 1:
        LOSE
rc.report(loss=float(torch.nn.functional.cross_entropy(small(images), labels)))
rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")
"""


def search(folder, workers, lose="pass", **more):
    entry = {"sparsity": {"type": "choice", "range": [0.5]}, "op_types": ["Conv2d"]}
    compression = {"framework": "torch", "type": "pruning", "compressor": "random", "config_list": [entry]}
    compression["arguments"] = {"round_to": 1}
    changes = {"compression": compression, "target": "min", "proposer": "sequence", "n_samples": 1, **more}
    resource = {"cpu": 0.5, "workers": workers}
    return number_experiment(folder, SCRIPT.replace("LOSE", lose), resource=resource, **changes)


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
        assert "epoch 3" in (folder / name).read_text() and "epoch 2" not in (folder / name).read_text()
    assert trial.continued == 0


def test_a_worker_that_fails_is_named_and_workers_without_room_are_told_of_before_the_first_trial(tmp_path):
    path = search(tmp_path, 2, 'raise ValueError("of the second")')
    done = run_here(tmp_path, "launch", path)
    trial = done.record.records[1]
    assert trial.state == TrialState.FAILED
    assert trial.cause.startswith("worker 1: ValueError: of the second (script.py:")
    (tmp_path / "more").mkdir()
    done = run_here(tmp_path / "more", "launch", search(tmp_path / "more", 500))
    assert done.code == 2
    assert "a trial has 500 workers with 0.5 CPUs each, and there is room for " in done.err
    assert not (tmp_path / "more" / "raycompress_results").exists()
