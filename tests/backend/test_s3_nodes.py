"""Trials on a node that shares no disk with the driver: what they make reaches it through S3 alone."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from raycompress.bundle import bundle
from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import REPOSITORY, digits_experiment
from tests.support.outside.s3server import BUCKET

NODE = """
import os, sys
from raycompress.backend.ray import local as local_ray
os.environ.update({name: value for name, value in local_ray.ENVIRONMENT.items() if name != "RAY_AUTH_MODE"})
from ray.cluster_utils import Cluster
node = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=node)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

DRIVER = """
import os, sys
from raycompress.cli.view.live import LiveView
from raycompress.config.experiment import Experiment
from raycompress.backend.ray import local as local_ray
from raycompress.session.launch import launch
os.environ.update({name: value for name, value in local_ray.ENVIRONMENT.items() if name != "RAY_AUTH_MODE"})
import ray


class Elsewhere:
    def __enter__(self):
        ray.init(address=sys.argv[2], log_to_driver=False, logging_level="ERROR")
        return self

    def __exit__(self, *error):
        ray.shutdown()

    def nodes(self):
        return [ray.cluster_resources()]


with LiveView() as view:
    record = launch(Experiment.load(sys.argv[1]), view, ray=Elsewhere())
print(sorted(path.name for path in record.bundle.iterdir()))
"""
# the driver's own disks: nobody outside of its namespace sees what it writes there
ALONE = 'mount -t tmpfs none "$XDG_CACHE_HOME" && mount -t tmpfs none "$TMPDIR" && exec "$@"'


def may_mount():
    return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="no mount namespaces here")
def test_the_driver_and_the_trials_need_no_disk_in_common(tmp_path, s3):
    short = tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp")  # sockets are made in it
    (tmp_path / "cache").mkdir()
    storage = f"s3://{BUCKET}/x"
    path = digits_experiment(tmp_path, n_samples=2, proposer="random", random_seed=3, storage=storage)
    python = {"text": True, "env": {**os.environ, "PYTHONPATH": str(REPOSITORY)}, "cwd": tmp_path}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with short as temporary, subprocess.Popen([sys.executable, "-c", NODE], **pipes, **python) as node:
        address = node.stdout.readline().strip()
        words = [
            "env",
            f"TMPDIR={temporary}",
            "unshare",
            "-m",
            "sh",
            "-c",
            ALONE,
            "sh",
            sys.executable,
            "-c",
            DRIVER,
            str(path),
            address,
        ]
        done = subprocess.run(words, capture_output=True, timeout=200, **python)
        node.stdin.close()
        assert not list(Path(temporary).rglob("candidate"))  # delivered, and gone
    assert done.returncode == 0, done.stderr
    assert bundle.MANIFEST in done.stdout
    assert not list((tmp_path / "cache").iterdir())  # as a trial saw it
    (name,) = {key.split("/")[1] for key in s3.names()}
    record = SearchRecord.open(f"{storage}/{name}")
    assert record.state == "complete"
    assert {trial.state for trial in record.searched} == {TrialState.FINISHED}
    assert record.folder.candidates() == [record.best.number]
    bundle.check_hashes(record.bundle)
    assert record.folder.fetch_log(2).exists()
