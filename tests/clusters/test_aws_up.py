"""The cluster file for AWS, brought up by Ray and by `launch` to the point where SSH would begin, with no way out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raycompress.clusters.file import files
from tests.support.outside import namespaces
from tests.support.outside.aws_server import IMAGE

REPOSITORY = Path(__file__).parents[2]
DIGITS = REPOSITORY / "configs" / "digits"
_ALONE = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--"]

pytestmark = pytest.mark.skipif(bool(namespaces.missing()), reason=f"ray up on AWS: {namespaces.missing()}")


def inside(home, experiment=None):
    """Bring up what cluster/aws.yaml says, by Ray or by an experiment's launch; return what happened."""
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
    command = [
        sys.executable,
        "-m",
        "tests.support.outside.aws_up_inside",
        str(file),
        *([experiment] if experiment else []),
    ]
    shell = ["sh", "-c", 'ip link set lo up && exec "$@"', "-", *command]
    made = subprocess.run([*_ALONE, *shell], env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return json.loads((home / "told.json").read_text()) | {"name": data["cluster_name"]}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return inside(tmp_path_factory.mktemp("home"))


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


def test_launch_says_what_is_wrong_and_leaves_nothing(tmp_path):
    experiment = json.loads((DIGITS / "auto_l1.json").read_text())
    (tmp_path / "train.py").write_text((DIGITS / "train.py").read_text())
    (tmp_path / "exp.json").write_text(json.dumps(experiment | {"storage": "s3://results/mine"}))
    told = inside(tmp_path, str(tmp_path / "exp.json"))
    said = told["said"]
    assert told["code"] == 3, said
    assert "ok  dry run of head: EC2 would start it" in said and "dollars an hour" in said
    assert "port 22: Network is unreachable" in told["log"]
    assert "error: the cluster does not come up" in said and "none of its nodes is left" in said
    (head,) = told["machines"]
    assert head["tags"]["ray-cluster-name"] == told["name"] and head["state"] == "terminated"
