"""What the trials of a node share is computed once, and lies in memory once."""

import pytest

from raycompress.runtime.client import Ending, WarmSpec, connect_or_start
from raycompress.states import TrialState
from tests.support.trials import STDLIB

LOAD = """
import random, re, sys
from pathlib import Path

import numpy as np
import torch

import raycompress as rc

config = rc.BasicConfig().load(sys.argv[1])


def load(size):
    with open("calls.txt", "a") as calls:
        calls.write("x")
    net = torch.nn.Sequential(torch.nn.Linear(size, size), torch.nn.BatchNorm1d(size))
    images = np.random.rand(size, 100)
    weights = torch.randn(size, size)
    views = weights, weights[3:, ::2]
    return {"images": images, "views": views, "net": net, "half": weights.bfloat16(), "no": torch.empty(0)}


torch.manual_seed(3)  # trials whose libraries are loaded before the fork are seeded by themselves
np.random.seed(3)
before = torch.rand(1), np.random.rand(), random.random()
"""


@pytest.fixture(scope="module")
def torch_worker(tmp_path_factory):
    worker = connect_or_start(WarmSpec(name="shared", workingdir=str(tmp_path_factory.mktemp("warm")), preload=STDLIB))
    yield worker
    worker.close()


def ran(worker, spec):
    """Run a trial to its end; gives its results and its ending."""
    *messages, ending = worker.run(spec)
    assert isinstance(ending, Ending)
    return [message["values"] for message in messages if message["type"] == "result"], ending


def test_a_value_is_computed_once_and_is_each_trials_own(torch_worker, spec, tmp_path):
    script = (
        LOAD
        + """
data = rc.shared(load, 60)
after = torch.rand(1), np.random.rand(), random.random()
weights, view = data["views"]
assert view.data_ptr() == weights[3:].data_ptr() and torch.equal(view, weights[3:, ::2])
assert torch.equal(data["half"], weights.bfloat16()) and data["no"].shape == (0,)
told = float(weights.sum()) + float(data["images"].sum()) + float(data["net"](torch.ones(2, 60)).sum().detach())
weights += 1
data["images"][:] = 0
data["net"][0].weight.data.zero_()
rc.report(told=told, torch=float(after[0]), numpy=after[1], random=after[2])
"""
    )
    runs = [ran(torch_worker, spec(script, folder=f"trial-{n}", seed=3)) for n in range(3)]
    assert [ending.state for _, ending in runs] == [TrialState.FINISHED] * 3, runs[0][1].cause
    assert runs[0][0] == runs[1][0] == runs[2][0]
    assert (tmp_path / "calls.txt").read_text() == "x"


def test_its_bytes_are_in_memory_once(torch_worker, spec):
    script = (
        LOAD
        + """
images = rc.shared(lambda size: np.ones((size, 1024, 1024), np.uint8), 64)
total = int(images.sum())
mappings = re.split(r"\\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
block = next(mapping for mapping in mappings if "/shared/" in mapping)
kib = {name: int(size) for name, size in re.findall(r"(\\w+): +(\\d+) kB", block)}
rc.report(total=total, rss=kib["Rss"], copied=kib["Anonymous"])
"""
    )
    for n in range(2):
        (values,), ending = ran(torch_worker, spec(script, folder=f"memory-{n}"))
        assert ending.state == TrialState.FINISHED
        assert values["total"] == 64 * 2**20
        assert values["rss"] >= 64 * 1024
        assert values["copied"] == 0


def test_other_arguments_and_other_closures_are_other_values(torch_worker, spec, tmp_path):
    script = (
        LOAD
        + """
sizes = [len(rc.shared(load, size)["images"]) for size in (5, 7, 5)]
told = [rc.shared(lambda: factor * 10) for factor in (1, 2)]
rc.report(sizes=sum(sizes), told=told[0] + told[1])
"""
    )
    (values,), _ = ran(torch_worker, spec(script))
    assert values == {"sizes": 17, "told": 30}
    assert (tmp_path / "calls.txt").read_text() == "xx"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("rc.shared(lambda: (x for x in (1, 2)))", "cannot be shared: cannot pickle 'generator' object"),
        ("rc.shared(lambda: Path(lines.name))", "cannot tell what main.<locals>.<lambda> depends on: cannot pickle"),
        ("rc.shared(len, open(__file__))", "cannot tell what len depends on: cannot pickle"),
        ("rc.shared(lambda: torch.empty(3, device='meta'))", "it holds a tensor on meta"),
    ],
)
def test_what_cannot_be_shared_is_told(torch_worker, spec, call, said):
    script = LOAD + f"\ndef main(lines):\n    {call}\nmain(open(__file__))\n"
    _, ending = ran(torch_worker, spec(script))
    assert ending.state == TrialState.FAILED
    assert said in ending.cause


def test_an_error_of_the_function_is_the_trials(torch_worker, spec):
    results, ending = ran(torch_worker, spec(LOAD + "rc.shared(lambda: 1 / 0)\n"))
    assert (results, ending.state) == ([], TrialState.FAILED)
    assert "ZeroDivisionError" in ending.cause
