"""Cluster files: found, read, and every mistake told with its line."""

import pytest

from raycompress.clusters import cloud
from raycompress.clusters.file import files
from raycompress.errors import ClusterError

GOOD = """\
cluster_name: mine
max_workers: 8
provider:
  type: aws
  region: us-east-1
  security_group:
    IpPermissions:
      - {FromPort: 22, ToPort: 22, IpProtocol: TCP, IpRanges: [{CidrIp: 1.2.3.4/32}]}
      - {FromPort: 0, ToPort: 65535, IpProtocol: TCP, IpRanges: [{CidrIp: 10.0.0.0/8}]}
auth: {ssh_user: ubuntu}
available_node_types:
  head: {resources: {}, node_config: {InstanceType: g5.xlarge}}
  gpu: {resources: {}, node_config: {InstanceType: g5.xlarge}, min_workers: 2, max_workers: 2}
head_node_type: head
head_start_ray_commands:
  - ray stop
  - ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1
worker_start_ray_commands: [ray stop, "RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379"]
"""


def load(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return files.load(path)


def problems(folder, text):
    with pytest.raises(ClusterError) as caught:
        load(folder, text)
    assert caught.value.exit_code == 3
    return caught.value.problems


def test_a_good_file(tmp_path):
    cluster = load(tmp_path, GOOD)
    assert (cluster.name, cluster.provider) == ("mine", "aws")
    assert cluster.where("provider", "region").endswith("mine.yaml:5  provider.region")
    assert cluster.where("provider", "nothing").endswith("mine.yaml:3  provider.nothing")


@pytest.mark.parametrize(
    ("before", "after", "line", "what", "fix"),
    [
        ("max_workers: 8\n", "max_wrokers: 8\n", 2, 'unknown key "max_wrokers"', 'did you mean "max_workers"'),
        ("max_workers: 8\n", "max_workers: two\n", 2, 'must be a whole number, not the text "two"', ""),
        ("  type: aws\n", "", 3, '"provider" has no "type"', "Ray needs it"),
        ("type: aws", "type: asw", 4, 'no provider "asw"', 'did you mean "aws"'),
        ("head_node_type: head", "head_node_type: haed", 14, 'no node type is named "haed"', 'did you mean "head"'),
        ("min_workers: 2", "min_workers: 3", 13, "min_workers is 3, max_workers only 2", "raise max_workers"),
        (
            " --autoscaling-config=~/ray_bootstrap_config.yaml",
            "",
            17,
            "head would start no workers",
            "--autoscaling-config",
        ),
        ("host=127.0.0.1", "host=0.0.0.0", 17, "open to the network: --dashboard-host=0.0.0.0", "tunnel"),
        ("host=127.0.0.1", "host '::'", 17, "open to the network: --dashboard-host=::", "tunnel"),
        (
            "MODE=token",
            "MODE=disabled",
            18,
            "without token authentication: RAY_AUTH_MODE=disabled",
            "RAY_AUTH_MODE=token",
        ),
        ("10.0.0.0/8", "0.0.0.0/0", 9, "every port would be open to 0.0.0.0/0", "leave it out"),
        ("1.2.3.4/32", "0.0.0.0/0", 8, "InvalidPermission.Duplicate", "leave this rule out"),
        ("ToPort: 22,", "ToPort: 8265,", 8, "ports 22 to 8265 would be open to 1.2.3.4/32", "leave it out"),
        (
            "auth:",
            "docker: {image: a, container_name: b, run_options: ['-p 8265:8265']}\nauth:",
            10,
            "a port of the container would be open",
            "leave it out",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, before, after, line, what, fix):
    assert before in GOOD
    (problem,) = problems(tmp_path, GOOD.replace(before, after, 1))
    assert what in problem.what
    assert f"mine.yaml:{line}" in problem.where
    assert fix in problem.fix


def test_all_mistakes_are_told_at_once(tmp_path):
    text = GOOD
    for before, after in (("host=127.0.0.1", "host=0.0.0.0"), ("10.0.0.0/8", "'::/0'"), ("MODE=token", "MODE=no")):
        text = text.replace(before, after)
    assert len(problems(tmp_path, text)) == 3


def test_what_is_no_cluster_file(tmp_path):
    (problem,) = problems(tmp_path, "a: [1\nb: 2\n")
    assert "no YAML" in problem.what
    assert "mine.yaml:2" in problem.where
    assert "holds no keys" in problems(tmp_path, "- a\n")[0].what
    assert "kubectl apply" in problems(tmp_path, "apiVersion: ray.io/v1\nkind: RayJob\n")[0].fix
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClusterError, match="cannot be read"):
        files.load(tmp_path / "mine.yaml")


def test_a_file_is_found_by_path_or_by_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert files.find(path) == path
    with pytest.raises(ClusterError, match="no cluster file"):
        files.find("nothing-like-it.yaml")
    for name, shipped in files.shipped().items():
        assert files.find(name) == files.find(shipped.stem) == shipped


def test_machines_that_do_not_answer_are_told(tmp_path):
    local = "cluster_name: mine\nprovider: {type: local, head_ip: 127.0.0.1, worker_ips: [127.1.2.3]}\n"
    text = local + GOOD[GOOD.index("head_start_ray_commands") :]
    found = list(cloud.checks(load(tmp_path, text), "/shared"))
    assert [check.name for check in found] == ["host 127.0.0.1", "host 127.1.2.3"]
    assert all(check.state == "ok" or "does not answer on port 22" in check.problem.what for check in found)
    (check,) = cloud.checks(load(tmp_path, GOOD.replace("type: aws", "type: gcp")), "/shared")
    assert check.state == "not checked"


def test_the_price_of_a_cluster_is_known_where_all_its_machines_prices_are():
    line = cloud.EstimateLine("head", "g5.xlarge", 1, 1.0)
    assert cloud.Estimate((line, cloud.EstimateLine("gpu", "g5.xlarge", 4, 0.5)), "").dollars_per_hour == 3
    assert cloud.Estimate((line, cloud.EstimateLine("gpu", "new", 4, None)), "").dollars_per_hour is None
