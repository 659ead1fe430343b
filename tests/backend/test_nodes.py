"""A cluster of three nodes, all on this machine, of which one is killed in the middle of a search."""

import os
import subprocess
import sys

from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import REPOSITORY, number_experiment

SCRIPT = """
import sys, time
import raycompress as rc
config = rc.BasicConfig().load(sys.argv[1])
time.sleep(0.4)
rc.report(score=config.x)
"""

DRIVER = """
import os, sys, threading, time
from raycompress.cli.view.live import LiveView
from raycompress.config.experiment import Experiment
from raycompress.backend.ray import local as local_ray
from raycompress.backend.ray.cluster import node_offers
from raycompress.session.launch import launch

os.environ.update({name: value for name, value in local_ray.ENVIRONMENT.items() if name != "RAY_AUTH_MODE"})
os.environ["RAY_health_check_period_ms"] = "500"  # the lost node is missed sooner
import ray
from ray.cluster_utils import Cluster
from raycompress.backend.tune import backend

backend._LIVES = 0  # the loss of a node is no failure of its trial


class ThreeNodes:
    def __enter__(self):
        node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args=node)
        self.others = [self.cluster.add_node(**node) for _ in range(2)]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")
        return self

    def __exit__(self, *error):
        end = time.monotonic() + 60  # a search may be done before Ray has noticed
        while (alive := sum(node["Alive"] for node in ray.nodes())) == 3 and time.monotonic() < end:
            time.sleep(0.2)
        print("alive:", alive)
        ray.shutdown()
        self.cluster.shutdown()

    def nodes(self):
        return node_offers()


class View(LiveView):
    def event(self, event):
        super().event(event)
        if event["event"] == "started" and event["trial"] == 5:
            threading.Timer(0.2, nodes.cluster.remove_node, [nodes.others[0]], {"allow_graceful": False}).start()


nodes = ThreeNodes()
with View() as view:
    record = launch(Experiment.load(sys.argv[1]), view, ray=nodes)
print(record.folder.root)
"""


def test_a_node_that_is_killed_costs_no_trial(tmp_path):
    dimension = [{"name": "x", "type": "float", "range": [0, 1]}]
    more = {"parameter_config": dimension, "random_seed": 5, "n_samples": 10, "n_parallel": 3}
    path = number_experiment(tmp_path, SCRIPT, **more)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    record = SearchRecord.open(done.stdout.strip().splitlines()[-1])
    assert record.state == "complete"
    assert [trial.number for trial in record.searched] == list(range(1, 11))
    assert {trial.state for trial in record.searched} == {TrialState.FINISHED}
    assert "alive: 2" in done.stdout
