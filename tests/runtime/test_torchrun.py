"""Several workers of one trial, each a process of its own as torchrun starts it: one decision, one model."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raycompress.backend.tune.workers import Place, specs_of
from raycompress.bundle import bundle
from raycompress.errors import ScriptError
from raycompress.runtime import torchrun
from raycompress.runtime.client import Ending, WarmSpec, connect_or_start
from raycompress.runtime.protocol import Import
from raycompress.script.workers import process_group
from raycompress.script.workers.agreement import ENDED
from raycompress.states import TrialState
from tests.support.trials import TORCHRUN

MODULES = (
    "torch.distributed",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.state_dict",
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


def lines(spec, begins):
    return [line for line in spec.log_path.read_text().splitlines() if line.startswith(begins)]


def cut(spec):
    return lines(spec, "cut")[0]


def alone(clients, spec):
    """Run a script by one worker; return what it printed."""
    run(clients[0], spec)
    return spec.log_path.read_text()


def trained_weights(spec):
    return bundle.tensors(spec.candidate_path, bundle.WEIGHTS)


def are_close(one, two):
    """Tell whether weights are equal but for the order in which floats were summed."""
    return all(torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-6) for name in one)


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


BEFORE = """
import copy, os, random, sys, time
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 4
"""
"""What the scripts below begin with."""


@pytest.mark.parametrize(("mode", "is_equal"), [("eval", True), ("train", False)])
def test_batch_norm_sees_the_part_of_its_worker_alone(clients, spec, mode, is_equal):
    """So that two workers have the weights of one only where its statistics are frozen."""
    layers = "torch.nn.Conv2d(1, 8, 3), torch.nn.Tanh()"
    script = TORCHRUN.replace("LOSE", "pass").replace(layers, f"{layers}, torch.nn.BatchNorm2d(8)")
    script = script.replace("for epoch in", f"small.{mode}()\nfor epoch in")
    more = {"config": CONFIG, "seed": 0, "threads": 1, "code": "1"}
    one = spec(script, folder="alone", **more)
    specs = specs_of(spec(script, folder="both", **more), [HERE, HERE], "both")
    assert "epoch 3" in alone(clients, one)
    assert together(clients, specs)[0].state is TrialState.FINISHED, specs[0].log_path.read_text()
    found = [
        {name: one for name, one in trained_weights(each).items() if "running" not in name} for each in (one, specs[0])
    ]
    assert are_close(*found) == is_equal


DRAWS = (
    BEFORE
    + """
torch.manual_seed(rank)
random.seed(rank)
own = torch.Generator().manual_seed(10 + rank)
state = rc.checkpoint.load(own=own)
for epoch in range(0 if state is None else state["epoch"] + 1, 4):
    print("drawn", epoch, torch.rand(1).item(), random.random(), torch.rand(1, generator=own).item())
    rc.checkpoint(epoch=epoch, own=own)
    dist.barrier()
    if epoch == 1 and "LOST" in os.environ:
        sys.exit(3)
rc.report(loss=1)
"""
)


def test_each_worker_goes_on_with_its_own_random_numbers(clients, spec):
    drawn = []
    for folder, starts in (("whole", [{}]), ("lost", [{"LOST": "1"}, {}])):
        found = [[], []]
        for env in starts:
            specs = specs_of(spec(DRAWS, folder=folder, env=env, code="1"), [HERE, HERE], folder)
            for one in specs:
                shutil.rmtree(one.agreed_path, ignore_errors=True)
            together(clients, specs)
            for rank, one in enumerate(specs):
                found[rank] += lines(one, "drawn")
        drawn.append(found)
    whole, lost = drawn
    assert [len(one) for one in whole] == [4, 4] and not set(whole[0]) & set(whole[1])
    assert lost == whole
    # a file of an earlier raycompress, or of a worker on a machine that is gone
    (Path(specs[0].folder) / "checkpoint.worker-1").unlink()
    for one in specs:
        shutil.rmtree(one.agreed_path, ignore_errors=True)
    together(clients, specs)
    assert "the random numbers of worker 1 begin anew" in specs[1].log_path.read_text()


SLOW_TO_LOAD = DRAWS.replace(
    "state = rc",
    """saved = "SAVED" + os.environ.get("LOST", "")
while rank and not os.path.exists(saved):  # by then the first worker has saved once more
    time.sleep(0.01)
state = rc""",
).replace("    dist.barrier()", "    open(saved, 'w').close()\n    dist.barrier()")


def test_a_worker_may_load_after_the_first_one_has_saved_again(clients, spec, tmp_path):
    script = SLOW_TO_LOAD.replace('"SAVED"', repr(str(tmp_path / "saved")))
    for env in ({"LOST": "1"}, {}):
        specs = specs_of(spec(script, folder="lost", env=env, code="1"), [HERE, HERE], "lost")
        shutil.rmtree(specs[0].agreed_path, ignore_errors=True)
        shutil.rmtree(specs[1].agreed_path, ignore_errors=True)
        endings = together(clients, specs)
    assert [ending.state for ending in endings] == [TrialState.FINISHED] * 2, specs[1].log_path.read_text()
    assert [len(lines(one, "drawn")) for one in specs] == [2, 2]


BY_HAND = (
    BEFORE
    + """
from raycompress.script import context
context.enter(None)  # as a script that torchrun starts, and no search
config = {"compressor": "COMPRESSOR", "config_list": [{"op_types": ["Conv2d"], "sparsity": 0.5}]}
given = {"seed": rank, "round_to": 1} if config["compressor"] == "random" else {}
while rank and not os.path.exists("MODEL_PATH"):  # by then the first one, whose process holds the store, is at its end
    time.sleep(0.01)
with torch.no_grad():
    model[0].weight += rank  # a worker's own, which level would decide by
compressor = rc.create_compressor(model, config, dummy_input=images[:1], **given)
model = compressor.compress()
if given:
    model = compressor.apply_speedup()
print("cut", (model[0].weight - rank * (model[0].weight != 0)).double().sum().item())
rc.report(loss=1.5)
dist.destroy_process_group()
rc.save_model(compressor.export_model, model_path=f"{os.path.dirname(sys.argv[1])}/model.pth")
"""
)


@pytest.mark.parametrize("compressor", ["random", "level"])
def test_workers_that_no_search_has_started_agree_and_the_first_reports_and_saves(clients, spec, compressor):
    saved = Path(spec("").folder, "model.pth")
    script = BY_HAND.replace("COMPRESSOR", compressor).replace("MODEL_PATH", str(saved))
    specs = specs_of(spec(script), [HERE, HERE], "hand")
    together(clients, specs)
    assert float(cut(specs[0]).split()[1]) == pytest.approx(float(cut(specs[1]).split()[1]), abs=1e-4)
    assert [lines(one, "loss") for one in specs] == [["loss: 1.5"], []]
    assert [Path(one.folder, "model.pth").exists() for one in specs] == [True, False]


def test_a_worker_without_a_process_group_decides_by_itself_and_says_so(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for _ in range(2):
        assert process_group.agreed(lambda: {"own": 1}) == {"own": 1}
    assert capsys.readouterr().err.count("this is one of 2 workers, and decides by itself") == 1


def test_what_the_store_brings_is_whole_and_does_not_stay_in_it():
    store = torch.distributed.HashStore()
    first, second, third = (process_group._Channel(store, "decision/1", rank) for rank in range(3))
    data = bytes(range(256)) * (40 << 10)  # 10 MiB, more than a value may have
    first.send(data)
    kept = store.num_keys()
    assert second.receive(3) == data and third.receive(3) == data
    assert store.num_keys() == kept - 3 + 2
    process_group._Channel(store, "decision/2", 0).fail("no channel is left")
    assert first.is_read
    with pytest.raises(ScriptError, match="worker 0 failed: no channel is left"):
        process_group._Channel(store, "decision/2", 1).receive(3)


WRAPPED = (
    BEFORE
    + """
from raycompress.errors import RaycompressError
from torch.nn.parallel import DistributedDataParallel
config = rc.BasicConfig().load(sys.argv[1])
try:
    rc.create_compressor(DistributedDataParallel(copy.deepcopy(model)), config, dummy_input=images[:1])
except RaycompressError as error:
    print("refused", error.problems[0].fix)
compressor = rc.create_compressor(model, config, dummy_input=images[:1])
compressor.compress()
trained = DistributedDataParallel(model)
cross_entropy(trained(images), labels).backward()  # masked
compressor.apply_speedup()
with torch.no_grad():
    print("evaluated", trained(images).shape)
trained(images)
"""
)
SHARDED = (
    BEFORE
    + """
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
config = rc.BasicConfig().load(sys.argv[1])
mesh = init_device_mesh("cpu", (world,))
def local(parameter):
    return parameter.to_local().numel()
def shard(whole):
    for layer in (whole[0], whole[3], whole):
        fully_shard(layer, mesh=mesh)
    return whole
compressor = rc.create_compressor(model, config, dummy_input=images[:1], teacher=True)
compressor.compress()
small = compressor.apply_speedup()
teacher = compressor.teacher
trained = small
if world > 1:
    shard(teacher)
    trained = shard(copy.deepcopy(small))
optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
for epoch in range(4):
    own = slice(rank, None, world)
    loss = rc.distill(trained, teacher, (images[own], labels[own]), cross_entropy, features=["0"])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
if world > 1:
    parts, whole = (sum(map(size, one.parameters())) for size, one in ((local, trained), (torch.numel, small)))
    assert world == 1 or parts < whole
    small.load_state_dict(get_model_state_dict(trained, options=StateDictOptions(full_state_dict=True)))
rc.report(loss=float(cross_entropy(small(images), labels)))
rc.save_model(compressor.export_model, model_path="model.pth")
"""
)


def in_a_world_of_one(spec, script, **more):
    return spec(script, env=torchrun.alone("alone"), config={**CONFIG, "arguments": {"round_to": 1, "seed": 3}}, **more)


def test_a_model_that_was_wrapped_before_it_was_made_small_is_not_trained(clients, spec):
    one = in_a_world_of_one(spec, WRAPPED)
    message = run(clients[0], one)
    assert "made small after it was wrapped as DistributedDataParallel" in message.cause
    assert "create_compressor before DistributedDataParallel(model)" in lines(one, "refused")[0]
    assert lines(one, "evaluated") == ["evaluated torch.Size([32, 4])"]


def test_a_model_that_its_first_call_makes_small_is_not_trained_by_a_wrapper_made_before(clients, spec):
    """Where no input is known, "slice": "before" cuts it inside the wrapper's first call."""
    script = WRAPPED.replace(
        "create_compressor(model, config, dummy_input=images[:1])", "create_compressor(model, config)"
    )
    one = in_a_world_of_one(
        spec, script.replace("compressor.apply_speedup()\n", "print('small', len(model[0].weight))\n")
    )
    one = replace(one, config={**one.config, "compression_slice": "before"})
    assert "made small after it was wrapped as DistributedDataParallel" in run(clients[0], one).cause
    assert lines(one, "small") == ["small 4"]


def test_a_sharded_copy_of_the_small_model_learns_from_a_sharded_teacher(clients, spec):
    one = in_a_world_of_one(spec, SHARDED, folder="alone")
    two = spec(SHARDED, folder="both", config=one.config)
    specs = specs_of(two, [HERE, HERE], "both")
    assert run(clients[0], one).state is TrialState.FINISHED, one.log_path.read_text()
    assert together(clients, specs)[0].state is TrialState.FINISHED, specs[0].log_path.read_text()
    assert are_close(trained_weights(one), trained_weights(specs[0]))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"compressor = rc": "shard(model)\ncompressor = rc"}, "is sharded over the workers (a DTensor"),
        ({"small = comp": "shard(model)\nsmall = comp"}, "the compressed model was sharded over the workers"),
        (
            {"trained = small": "trained = shard(small)"},
            "is sharded over the workers (fully_shard), so that none has it",
        ),
        (
            {"if world > 1": "if True", "(small(images)": "(trained.eval().requires_grad_(False)(images)"},
            "evaluated before its report is sharded",
        ),
    ],
)
def test_a_sharded_model_is_refused_with_the_reason(clients, spec, changes, what):
    script = SHARDED
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    message = run(clients[0], in_a_world_of_one(spec, script))
    assert what in message.cause
