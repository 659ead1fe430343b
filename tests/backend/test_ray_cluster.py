"""A search as a job of a Ray cluster that runs already, of two nodes on this machine."""

import json
import os
import subprocess
import sys

import pytest

from raycompress.errors import ExperimentError
from raycompress.results.record import SearchRecord
from raycompress.search.watch.relay import replay
from tests.support.launching import REPOSITORY, number_experiment

SCRIPT = """
import os, sys, time
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
time.sleep(0.2)
rc.report(score=config.x)
"""

SEARCH = {
    "parameter_config": [{"name": "x", "type": "float", "range": [0, 1]}],
    "random_seed": 5,
    "n_samples": 6,
    "n_parallel": 4,
}

CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=node)
try:
    cluster.add_node(**node)
    print(cluster.address, flush=True)
    sys.stdin.read()
finally:
    cluster.shutdown()
"""

PROBE = """
import os, sys
from pathlib import Path
from raycompress.errors import ClusterError
from raycompress.backend.ray.cluster import ClusterRay, check_nodes

os.dup2(os.open("/dev/null", os.O_RDONLY), 200)
with ClusterRay(sys.argv[1]):
    print(len(check_nodes({Path(__import__("raycompress").__file__): "no"})))
    for path in ("/proc/self/status", "/proc/self/fd/200"):
        try:
            check_nodes({Path(path): "share it"})
        except ClusterError as error:
            print(error.problems[0].what, "|", error.problems[0].where, "|", error.problems[0].fix)
"""


@pytest.fixture(scope="module")
def cluster():
    """Start the cluster; gives its address and the environment of its jobs."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-this-test" * 4}
    env["RAY_USAGE_STATS_ENABLED"] = "0"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([sys.executable, "-c", CLUSTER], env=env, **pipes)
    try:
        yield process.stdout.readline().strip(), env
    finally:
        process.stdin.close()
        process.wait(60)


class Seen:
    """A view that keeps everything."""

    def __init__(self):
        self.phases, self.notes, self.past, self.events = [], [], [], []

    def phase(self, text):
        self.phases.append(text)

    def note(self, text):
        self.notes.append(text)

    def history(self, events):
        self.past += events

    def event(self, event):
        self.events.append(event)


def job(cluster, *words, cwd):
    address, env = cluster
    command = [sys.executable, "-m", "raycompress", *words, "--on-ray", address, "--events"]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=200)
    view = Seen()
    left = [replay(line, view) for line in done.stdout.split("\n")[:-1]]
    return done, view, [item for item in left if item is not None]


def test_a_search_runs_on_all_nodes_and_is_seen_from_outside(cluster, tmp_path):
    path = number_experiment(tmp_path, SCRIPT, **SEARCH)
    done, view, left = job(cluster, "launch", str(path), "--id", "mine", cwd=tmp_path)
    assert (done.returncode, left) == (0, []), done.stderr
    record = SearchRecord.open(next(tmp_path.rglob("journal.jsonl")).parent)
    assert record.id == "mine"
    assert record.header["n_parallel"] == 2  # a CPU a trial, and a CPU a node
    lines = record.folder.journal.read_text().splitlines()
    assert view.events == [json.loads(line) for line in lines]
    assert view.phases[0] == "loading the script's libraries"
    assert len(record.searched) == 6

    done, view, left = job(cluster, "resume", str(record.folder.root), "--n-samples", "7", cwd=tmp_path)
    assert (done.returncode, left) == (0, []), done.stderr
    assert view.past == [json.loads(line) for line in lines]
    assert view.events[0]["event"] == "resumed"
    assert len(SearchRecord.open(record.folder.root).searched) == 7


def test_an_error_comes_back_as_what_it_is(cluster, tmp_path):
    path = number_experiment(tmp_path, SCRIPT, **SEARCH, resource={"cpu": 2})  # two CPUs, but not on one node
    done, _, left = job(cluster, "launch", str(path), cwd=tmp_path)
    assert done.returncode == 2
    (error,) = left
    assert type(error) is ExperimentError
    assert error.problems[0].what == "a trial asks for 2 CPUs, and no one of the 2 nodes has more than 1 CPU"
    assert str(error) in done.stderr
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_what_a_node_does_not_share_is_told(cluster, tmp_path):
    address, env = cluster
    done = subprocess.run([sys.executable, "-c", PROBE, address], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    same, other, gone = done.stdout.splitlines()
    assert same == "0"
    assert "does not share this file: it is another one there than here | /proc/self/status | share it" in other
    assert "does not share this file: it is not there | /proc/self/fd/200 | share it" in gone
