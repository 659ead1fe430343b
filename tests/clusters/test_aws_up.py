"""`ray up` of the cluster file for AWS, up to the point where SSH would begin: in a network with loopback only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raycompress.clusters import files
from tests.clusters import namespaces
from tests.clusters.aws_server import IMAGE

REPOSITORY = Path(__file__).parents[2]
_ALONE = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--"]

pytestmark = pytest.mark.skipif(bool(namespaces.missing()), reason=f"ray up on AWS: {namespaces.missing()}")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Bring up and down what cluster/aws.yaml says, as a person with our policy alone; return what happened."""
    home = tmp_path_factory.mktemp("home")
    data = yaml.safe_load((REPOSITORY / "cluster" / "aws.yaml").read_text())
    for kind in data["available_node_types"].values():
        kind["node_config"]["ImageId"] = IMAGE
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a-token")
    file = home / "aws.yaml"
    file.write_text(yaml.safe_dump(data))
    assert files.load(file).name == data["cluster_name"]
    # Ray keeps in the folder for temporary files what it once made for a cluster file, as security groups
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(REPOSITORY)}
    inside = [sys.executable, "-m", "tests.clusters.aws_up_inside", str(file)]
    shell = ["sh", "-c", 'ip link set lo up && exec "$@"', "-", *inside]
    made = subprocess.run([*_ALONE, *shell], env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return json.loads((home / "told.json").read_text()) | {"name": data["cluster_name"]}


def test_the_head_is_started_under_the_clusters_name(told):
    assert told["machines"], told["said"]
    (head,) = told["machines"]
    assert (head["type"], head["state"]) == ("g4dn.xlarge", "running")
    assert head["tags"]["ray-cluster-name"] == told["name"] and head["tags"]["ray-node-type"] == "head"
    assert head["profile"].endswith("instance-profile/raycompress-gpus")


def test_ssh_is_tried_and_reaches_nothing(told):
    (head,) = told["machines"]
    assert f"connect to host {head['address']} port 22: Network is unreachable" in told["said"]
    assert "SSH still not available" in told["said"]
    assert "Failed to setup head node" in told["said"] and told["code"] == 1


def test_the_security_group_opens_ssh_only(told):
    open_to_all = [rule for rule in told["rules"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in open_to_all] == [(22, 22, "tcp")]


def test_ray_down_ends_it(told):
    assert told["down_code"] == 0, told["down_said"]
    assert {machine["state"] for machine in told["after"]} <= {"shutting-down", "terminated"}
