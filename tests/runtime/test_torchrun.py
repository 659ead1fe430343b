"""Several workers of one trial, each a process of its own as torchrun starts it: one decision, one model."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from raycompress.backend.tune.workers import Place, specs_of
from raycompress.bundle import bundle
from raycompress.runtime import torchrun
from raycompress.runtime.client import Ending, WarmSpec, connect_or_start
from raycompress.runtime.protocol import Import
from raycompress.script.agreement import ENDED
from raycompress.states import TrialState
from tests.support.trials import TORCHRUN

MODULES = (
    "torch.distributed",
    "torch._dynamo",
    "raycompress.compressors.create",
    "raycompress.compressors.pruning.pruner",
)
HERE = Place("one", torchrun.LOOPBACK, {}, torchrun.interface(torchrun.LOOPBACK))
CONFIG = {
    "compressor": "random",
    "arguments": {"round_to": 1},
    "config_list": [{"op_types": ["Conv2d"], "sparsity": 0.5}],
}


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """Two clients of one warm process, as two actors on one machine are."""
    warm = WarmSpec("workers", str(tmp_path_factory.mktemp("warm")), tuple(Import(name) for name in MODULES))
    made = [connect_or_start(warm) for _ in range(2)]
    yield made
    for one in made:
        one.close()
    deadline = time.monotonic() + 20
    while warm.folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def run(client, spec, others=()):
    """Run one worker; what the first one decides goes to `others`, as the actors bring it."""
    for message in client.run(spec):
        if isinstance(message, Ending):
            for other in others:
                other.agreed_path.mkdir(parents=True, exist_ok=True)
                (other.agreed_path / ENDED).touch()
            return message
        if message["type"] == "agreed":
            for other in others:
                other.agreed_path.mkdir(parents=True, exist_ok=True)
                name = str(message["number"])
                shutil.copy(spec.agreed_path / name, other.agreed_path / f".{name}")
                (other.agreed_path / f".{name}").rename(other.agreed_path / name)
    raise AssertionError


def together(clients, specs):
    with ThreadPoolExecutor(len(specs)) as pool:
        return [*pool.map(run, clients, specs, [specs[1:], *[()] * (len(specs) - 1)])]


def cut(spec):
    return next(line for line in spec.log_path.read_text().splitlines() if line.startswith("cut"))


def test_two_workers_have_the_weights_of_one_with_twice_the_batch(clients, spec, tmp_path):
    script = TORCHRUN.replace("LOSE", "pass")
    more = {"config": CONFIG, "seed": 0, "threads": 1, "code": "1"}
    alone = spec(script, folder="alone", **more)
    assert run(clients[0], alone).state is TrialState.FINISHED, alone.log_path.read_text()
    specs = specs_of(spec(script, folder="both", **more), [HERE, HERE], "both")
    endings = together(clients, specs)
    assert [ending.state for ending in endings] == [TrialState.FINISHED] * 2, specs[1].log_path.read_text()
    one, two = (bundle.tensors(tmp_path / name / "candidate", bundle.WEIGHTS) for name in ("alone", "both"))
    # a mean of two means of half a batch each: floats are summed in another order, for four steps
    assert all(torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-6) for name in one)
    assert cut(specs[0]) == cut(specs[1]) == cut(alone)  # though each would have drawn other channels
    assert "rank 1 of 2 local 1 of 2" in specs[1].log_path.read_text()
    assert not specs[1].candidate_path.exists()
    other = spec(script.replace("seed=rank", "seed=1"), folder="other", **more)
    run(clients[0], other)
    assert cut(other) != cut(alone)


def test_workers_that_do_not_ask_for_the_same_are_told_of_it(clients, spec):
    script = "import os\nif os.environ['RANK'] == '1':\n    rc.checkpoint.load()\nelse:\n    rc.report(loss=1)\n"
    specs = specs_of(spec(script, folder="apart", code="1"), [HERE, HERE], "apart")
    first, second = together(clients, specs)
    assert first.state is TrialState.FINISHED
    assert second.cause.startswith("worker 1 waits for what worker 0 decides, which has ended")


def test_workers_see_the_devices_of_their_machine_and_take_their_own(spec):
    def place(node, device):
        return replace(HERE, node=node, devices={"CUDA_VISIBLE_DEVICES": device})

    places = [place("a", "2"), place("b", "0"), place("a", "5")]
    specs = specs_of(spec("", env={"CUDA_VISIBLE_DEVICES": "2"}, latency=True), places, "run")
    names = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
    assert [tuple(one.env[name] for name in names) for one in specs] == [
        ("0", "0", "2", "0", "3", "2,5"),
        ("1", "0", "1", "1", "3", "0"),
        ("2", "1", "2", "0", "3", "2,5"),
    ]
    assert len({one.env["MASTER_PORT"] for one in specs}) == 1
    assert [(one.save_model, one.latency) for one in specs] == [(True, True), (False, False), (False, False)]
    assert specs[2].checkpoint_path == specs[0].checkpoint_path
