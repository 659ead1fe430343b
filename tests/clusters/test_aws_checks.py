"""Each check of AWS, provoked to fail in turn, against moto's server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raycompress.clusters import cloud, files
from raycompress.clusters.check import Check
from tests.clusters.aws_server import ENVIRONMENT, REGION, client, moto, prepared_account, price, stand_in

STORAGE = "s3://results/searches"
QUOTA = {"Quota": {"Value": 64.0, "QuotaCode": "L-DB2E81BA", "ServiceCode": "ec2"}}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST")).close()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    with stand_in({"GetServiceQuota": QUOTA, "GetProducts": price(0.5)}) as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", other)
        monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", other)
        yield server


@pytest.fixture
def data(url: str, tmp_path: Path) -> dict[str, Any]:
    return prepared_account(url, tmp_path)


def load(data: dict[str, Any], tmp_path: Path) -> files.ClusterFile:
    path = tmp_path / "aws.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return files.load(path)


def look(data: dict[str, Any], tmp_path: Path, storage: str = STORAGE) -> list[Check]:
    return cloud.checks(load(data, tmp_path), storage)


def node(data: dict[str, Any], name: str = "gpu") -> dict[str, Any]:
    config: dict[str, Any] = data["available_node_types"][name]["node_config"]
    return config


def test_all_is_well(data: dict[str, Any], tmp_path: Path) -> None:
    found = look(data, tmp_path)
    assert {check.name: check.state for check in found if check.state != "ok"} == {
        "quota of standard instances, on demand": "ok"
    } or all(check.state == "ok" for check in found), found
    assert [check.name for check in found][-2:] == ["dry run of head", "dry run of gpu"]
    assert {"identity", "bucket results", "key pair raycompress", "instance profile raycompress"} <= {
        check.name for check in found
    }


def test_nothing_is_created_by_looking(data: dict[str, Any], url: str, tmp_path: Path) -> None:
    look(data, tmp_path)
    assert client("ec2", url).describe_instances()["Reservations"] == []
    assert "Contents" not in client("s3", url).list_objects_v2(Bucket="results")


Change = Callable[[dict[str, Any], str], None]


def edit(change: Callable[[dict[str, Any]], object]) -> Change:
    def made(data: dict[str, Any], url: str) -> None:
        change(data)

    return made


def no_role(data: dict[str, Any], url: str) -> None:
    client("iam", url).remove_role_from_instance_profile(InstanceProfileName="raycompress", RoleName="raycompress")


def open_group(data: dict[str, Any], url: str) -> None:
    ec2 = client("ec2", url)
    group = ec2.create_security_group(GroupName="open", Description="open")["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 8265, "ToPort": 8265, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    node(data)["SecurityGroupIds"] = [group]


def subnet_elsewhere(data: dict[str, Any], url: str) -> None:
    found = client("ec2", url).describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1d"]}])
    node(data)["SubnetIds"] = [found["Subnets"][0]["SubnetId"]]


def no_public_subnet(data: dict[str, Any], url: str) -> None:
    ec2 = client("ec2", url)
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.modify_subnet_attribute(SubnetId=subnet["SubnetId"], MapPublicIpOnLaunch={"Value": False})


def key_for_all(data: dict[str, Any], url: str) -> None:
    Path(data["auth"]["ssh_private_key"]).chmod(0o644)


def arm_type(data: dict[str, Any]) -> None:
    node(data)["InstanceType"] = "g5g.xlarge"
    data["provider"]["availability_zone"] = ""


FAILURES: dict[str, tuple[Change, str, str]] = {
    "region misspelt": (
        edit(lambda data: data["provider"].update(region="us-eest-1")),
        "region",
        'there is no region "us-eest-1"',
    ),
    "no region": (edit(lambda data: data["provider"].pop("region") and None), "region", "names no region"),
    "zone": (
        edit(lambda data: data["provider"].update(availability_zone="us-east-1z")),
        "availability zone",
        "us-east-1 has no zone us-east-1z",
    ),
    "image": (
        edit(lambda data: node(data).update(ImageId="ami-00000000000000000")),
        "image of gpu",
        "there is no image ami-00000000000000000",
    ),
    "architecture": (edit(arm_type), "image of gpu", "needs arm64"),
    "type unknown": (
        edit(lambda data: node(data).update(InstanceType="g4dn.huge")),
        "instance type of gpu",
        "g4dn.huge is not offered in us-east-1",
    ),
    "type not in the zone": (
        edit(lambda data: data["provider"].update(availability_zone="us-east-1e")),
        "instance type of gpu",
        "is not offered in us-east-1e",
    ),
    "quota": (
        edit(lambda data: (data.update(max_workers=40), data["available_node_types"]["gpu"].update(max_workers=40))),
        "quota of G and VT instances, on demand",
        "160 vCPUs are wanted, 0 run, 64 are allowed",
    ),
    "no key file named": (
        edit(lambda data: data["auth"].pop("ssh_private_key") and None),
        "key pair",
        "auth names no ssh_private_key",
    ),
    "key file missing": (
        edit(lambda data: data["auth"].update(ssh_private_key="/nowhere/key.pem")),
        "private key",
        "/nowhere/key.pem is not there",
    ),
    "key file open": (key_for_all, "private key", "mode 644"),
    "key pair": (
        edit(lambda data: node(data).update(KeyName="other")),
        "key pair other",
        'there is no key pair "other"',
    ),
    "no key name": (edit(lambda data: node(data).pop("KeyName") and None), "key pair", "gpu no KeyName"),
    "subnet": (
        edit(lambda data: node(data).update(SubnetIds=["subnet-12345678"])),
        "subnet subnet-12345678",
        "there is no subnet",
    ),
    "subnet in another zone": (subnet_elsewhere, "subnet subnet-", "is in us-east-1d"),
    "no public subnet": (no_public_subnet, "subnet", "no subnet of us-east-1 gives public addresses"),
    "security group": (
        edit(lambda data: node(data).update(SecurityGroupIds=["sg-12345678"])),
        "security group sg-12345678",
        "there is no security group",
    ),
    "security group open": (open_group, "security group sg-", "port 8265 would be open to 0.0.0.0/0"),
    "instance profile": (
        edit(lambda data: node(data).update(IamInstanceProfile={"Name": "other"})),
        "instance profile other",
        'there is no instance profile "other"',
    ),
    "instance profile without role": (no_role, "instance profile raycompress", "has no role"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_each_check_fails_in_turn(case: str, data: dict[str, Any], url: str, tmp_path: Path) -> None:
    change, name, words = FAILURES[case]
    change(data, url)
    found = look(data, tmp_path)
    bad = [check for check in found if check.state == "failed"]
    told = [check for check in bad if check.name.startswith(name) and words in check.detail]
    assert told, found
    assert all(check.problem is not None and check.problem.what for check in bad)
    assert told[0].problem is not None and told[0].problem.fix
    assert found[-1].state == "not checked", "no dry run where something failed"


@pytest.mark.parametrize(
    ("storage", "state", "words"),
    [
        ("s3://nobody-has-this/x", "failed", 'there is no bucket "nobody-has-this"'),
        ("/shared/results", "warning", "every node must see the same disk"),
    ],
)
def test_storage(data: dict[str, Any], tmp_path: Path, storage: str, state: str, words: str) -> None:
    told = [check for check in look(data, tmp_path, storage) if words in check.detail]
    assert [check.state for check in told] == [state]


def test_a_bucket_that_may_not_be_written(data: dict[str, Any], url: str, tmp_path: Path) -> None:
    """moto asks IAM for a user who may do everything but put objects."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "*", "Resource": "*"},
            {"Effect": "Deny", "Action": ["s3:PutObject", "ec2:DescribeKeyPairs"], "Resource": "*"},
        ],
    }
    with as_user(url, policy):
        found = {check.name: check for check in look(data, tmp_path)}
    assert found["bucket results"].state == "failed"
    assert "cannot be written to: AccessDenied" in found["bucket results"].detail
    assert found["key pair"].state == "not checked"
    assert "you may not call DescribeKeyPairs" in found["key pair"].detail


def test_a_start_that_is_not_allowed(data: dict[str, Any], url: str, tmp_path: Path) -> None:
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "*", "Resource": "*"},
            {"Effect": "Deny", "Action": "ec2:RunInstances", "Resource": "*"},
        ],
    }
    with as_user(url, policy):
        found = look(data, tmp_path)
    assert [check.detail for check in found if check.state == "failed"] == ["you may not start it (RunInstances)"] * 2


class as_user:
    """Within it, calls are made as an IAM user with `policy`, which moto enforces."""

    def __init__(self, url: str, policy: dict[str, Any]) -> None:
        self.url, self.policy = url, policy
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        import json

        iam = client("iam", self.url)
        iam.create_user(UserName="someone")
        iam.put_user_policy(UserName="someone", PolicyName="p", PolicyDocument=json.dumps(self.policy))
        key = iam.create_access_key(UserName="someone")["AccessKey"]
        self.patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        self.patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        self._free_calls(0)

    def __exit__(self, *_: object) -> None:
        self._free_calls(float("inf"))
        self.patch.undo()

    def _free_calls(self, count: float) -> None:
        import urllib.request

        body = str(count if count != float("inf") else 10**9).encode()
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", data=body, method="POST", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()


def test_no_credentials(data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    found = look(data, tmp_path)
    assert found[1].detail == "there are no AWS credentials on this machine"
    assert found[-1].state == "not checked"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in look(data, tmp_path)[0].detail


def test_aws_out_of_reach(data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    found = look(data, tmp_path)
    assert found[1].state == "failed" and "AWS cannot be reached" in found[1].detail


def test_what_runs_counts_against_the_quota(data: dict[str, Any], url: str, tmp_path: Path) -> None:
    image = node(data)["ImageId"]
    client("ec2", url).run_instances(ImageId=image, InstanceType="g4dn.xlarge", MinCount=2, MaxCount=2)
    quota = next(check for check in look(data, tmp_path) if check.name.startswith("quota of G"))
    assert "8 vCPUs wanted" in quota.detail and ", 0 run" not in quota.detail


def test_a_quota_that_is_not_told(data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in({}) as refusing:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", refusing)
        quota = next(check for check in look(data, tmp_path) if check.name.startswith("quota of G"))
    assert quota.state == "not checked" and "AccessDenied" in quota.detail


def test_the_price_list(data: dict[str, Any], tmp_path: Path) -> None:
    estimate = cloud.estimate(load(data, tmp_path))
    assert estimate is not None
    assert estimate.source == "pricing API"
    assert estimate.dollars_an_hour == pytest.approx(0.5 * 3)


def test_the_table_where_the_list_is_not_to_be_had(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in({}) as refusing:
        monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", refusing)
        estimate = cloud.estimate(load(data, tmp_path))
        node(data)["InstanceType"] = "x99.huge"
        unknown = cloud.estimate(load(data, tmp_path))
    assert estimate is not None and estimate.dollars_an_hour == pytest.approx(0.096 + 2 * 0.526)
    assert "built-in table of 2026-11" in estimate.source and REGION in estimate.source
    assert unknown is not None and unknown.dollars_an_hour is None


def test_a_spot_price_is_none_of_the_list(url: str, tmp_path: Path) -> None:
    spot = prepared_account(url, tmp_path, "aws-gpu-spot")
    estimate = cloud.estimate(load(spot, tmp_path))
    assert estimate is not None
    head, worker = estimate.nodes
    assert (head.spot, head.source) == (False, "pricing API")
    assert worker.spot and worker.source in ("spot price of now", "spot price not known")
