"""What is looked at on AWS before a dollar is spent: a good account, and everything that can be wrong in turn."""

import pytest

from raycompress.clusters.aws.checks import checks
from raycompress.clusters.aws.policies import policies
from raycompress.clusters.file.check import State
from tests.support.outside.aws_files import GOOD, STORAGE, changed, furnish, written
from tests.support.outside.aws_server import IMAGE

NODE = ("available_node_types", "gpu", "node_config")


@pytest.fixture
def account(aws, tmp_path):
    furnish(aws, tmp_path / "mine.pem")
    return aws


@pytest.fixture
def look(tmp_path):
    def look(data=GOOD, storage=STORAGE):
        return list(checks(written(tmp_path, data), storage))

    return look


def only(found, state=State.FAILED):
    """Return what the one check in that state says, with place and fix; the rest must be well or not checked."""
    (bad,) = [check for check in found if check.state is state]
    others = {check.state for check in found if check is not bad}
    assert others <= {State.OK, State.NOT_CHECKED}, found
    assert bad.problem.fix and bad.problem.where, bad
    return bad.name, bad.detail, bad.problem.where, bad.problem.fix


def test_all_is_well(account, look):
    found = look()
    assert {check.state for check in found} == {State.OK}, found
    said = {check.name: check.detail for check in found}
    assert said["identity"].endswith("account 123456789012")
    assert said["quota of G and VT instances on demand"] == "16 vCPUs are wanted, 0 run already, 64 are allowed"
    assert said["dry run of gpu"] == "EC2 would start it"
    assert account.client("s3").list_objects_v2(Bucket="results")["KeyCount"] == 0
    assert not account.client("ec2").describe_instances()["Reservations"]


def test_no_credentials(account, look, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    identity, rest = look()[-2:]
    assert (identity.state, rest.state) == (State.FAILED, State.NOT_CHECKED)
    assert "no AWS credentials" in identity.detail and "aws configure" in identity.problem.fix


def test_credentials_that_aws_does_not_know(account, look):
    account.post("reset-auth", "0")
    identity, rest = look()[-2:]
    assert "does not take these credentials" in identity.detail and rest.state is State.NOT_CHECKED


def test_a_profile_that_is_not_there(account, look, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "elsewhere")
    (check, _) = look()
    assert "elsewhere" in check.detail and check.problem.where == "AWS_PROFILE"


def test_no_network(account, look, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    identity = look()[-2]
    assert identity.state is State.FAILED and "cannot be reached" in identity.detail


@pytest.mark.parametrize(
    ("region", "what", "fix"),
    [
        ("us-eastt-1", 'no region "us-eastt-1"', 'did you mean "us-east-1"?'),
        ("usa", 'no region "usa"', "describe-regions"),
        ("ap-east-1", "not switched on", "enable-region"),
    ],
)
def test_regions(account, look, region, what, fix):
    name, said, where, mend = only(look(changed("provider", "region", region)))
    assert name == "region" and what in said and fix in mend and where.endswith("provider.region")


def test_a_node_config_that_ec2_would_not_understand(look, aws):
    _, what, where, fix = only(look(changed(*NODE, "InstanceTyp", "g5.xlarge")))
    assert what == 'EC2 knows no "InstanceTyp"' and fix == 'did you mean "InstanceType"?' and ":" in where
    _, what, _, fix = only(look(changed(*NODE, "SubnetIds", "subnet-1")))
    assert what == "SubnetIds must be a list" and fix == "write a list: SubnetIds: [subnet-1]"
    _, what, _, _ = only(look(changed(*NODE, "IamInstanceProfile", "raycompress-mine")))
    assert "Invalid type for parameter IamInstanceProfile" in what


@pytest.mark.parametrize(
    ("change", "name", "what", "fix"),
    [
        (
            (*NODE, "InstanceType", "g5.xlarg"),
            "instance type of gpu",
            "g5.xlarg is not offered in us-east-1",
            "did you",
        ),
        ((*NODE, "InstanceType", None), "instance type of gpu", "no instance type", "InstanceType:"),
        ((*NODE, "ImageId", "ami-00000000000000000"), "image of gpu", "no image ami-00000000000000000", "aws ssm"),
        ((*NODE, "ImageId", "nonsense"), "image of gpu", "no image nonsense", "aws ssm"),
        ((*NODE, "InstanceType", "t4g.large"), "image of gpu", "is for x86_64, t4g.large needs arm64", "aws ssm"),
        ((*NODE, "KeyName", "other"), "key pair other", 'no key pair "other"', "describe-key-pairs"),
        ((*NODE, "KeyName", None), "key pair", "gpu no KeyName", "KeyName:"),
        (("auth", "ssh_private_key", "~/lost.pem"), "private key", "lost.pem is not there", "key pair"),
        ((*NODE, "SubnetIds", ["subnet-01234567"]), "subnet subnet-01234567", "no subnet", "describe-subnets"),
        ((*NODE, "SecurityGroupIds", ["sg-01234567"]), "security group sg-01234567", "no security group", "describe"),
        (
            (*NODE, "IamInstanceProfile", {"Name": "x"}),
            "instance profile x",
            'no instance profile "x"',
            "docs/clusters/aws.md",
        ),
        ((*NODE, "IamInstanceProfile", None), "instance profile", "could not write to s3://results", "policy aws"),
    ],
)
def test_everything_in_turn(account, look, change, name, what, fix):
    found = look(changed(*change))
    title, said, _, mend = only(found)
    assert title == name and what in said and fix in mend
    assert found[-1].detail == "first mend what failed"


def test_a_key_that_others_can_read(account, look, tmp_path):
    (tmp_path / "mine.pem").chmod(0o644)
    _, what, _, fix = only(look())
    assert "mode 644" in what and fix == "chmod 600 ~/mine.pem"


def test_rays_own_key_pair(account, look):
    data = changed("auth", "ssh_private_key", None)
    assert "of its own" in only(look(data), State.WARNING)[1]
    for kind in data["available_node_types"].values():
        del kind["node_config"]["KeyName"]
    found = look(data)
    assert {check.state for check in found} == {State.OK}
    assert "Ray makes one" in next(check.detail for check in found if check.name == "key pair")


def test_no_image_is_rays_old_one(account, look):
    assert "Ubuntu 18.04" in only(look(changed(*NODE, "ImageId", None)), State.WARNING)[1]


def test_a_zone_that_is_not_there(account, look):
    said = {check.name: check for check in look(changed("provider", "availability_zone", "us-east-1z"))}
    zone = said["availability zone"]
    assert (zone.state, zone.detail) == (State.FAILED, "us-east-1 has no zone us-east-1z")
    assert "us-east-1a" in zone.problem.fix and zone.problem.where.endswith("provider.availability_zone")


def test_a_zone_without_the_type(account, look):
    offered = account.client("ec2").describe_instance_type_offerings(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["g5.xlarge"]}]
    )["InstanceTypeOfferings"]
    (without, *_) = {f"us-east-1{letter}" for letter in "abcdef"} - {offer["Location"] for offer in offered}

    def of_gpu(zones):
        (found,) = [
            check
            for check in look(changed("provider", "availability_zone", zones))
            if check.name == "instance type of gpu"
        ]
        return found

    assert of_gpu(without).state is State.FAILED and f"is not offered in {without}" in of_gpu(without).detail
    assert of_gpu(f"us-east-1a,{without}").state is State.WARNING


@pytest.mark.parametrize(
    ("allowed", "state", "what"),
    [(15, State.WARNING, "not all workers would come"), (3, State.FAILED, "not even head and min_workers")],
)
def test_quotas(account, look, allowed, state, what):
    account.answers["GetServiceQuota"] = lambda asked: {
        "Quota": {"Value": float(allowed if asked["QuotaCode"] == "L-DB2E81BA" else 64)}
    }
    name, said, where, fix = only(look(), state)
    assert name == "quota of G and VT instances on demand" and what in said
    assert where.endswith("max_workers") and "quotas/L-DB2E81BA" in fix


def test_what_runs_already_counts_unless_it_is_the_clusters_own(account, look):
    def run(tags):
        tags = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
        account.client("ec2").run_instances(
            ImageId=IMAGE, InstanceType="g5.xlarge", MinCount=2, MaxCount=2, TagSpecifications=tags
        )

    run({"ray-cluster-name": "mine"})
    run({"ray-cluster-name": "another"})
    said = {check.name: check.detail for check in look()}["quota of G and VT instances on demand"]
    assert said == "16 vCPUs are wanted, 8 run already, 64 are allowed"


def test_a_quota_that_aws_does_not_tell(account, look):
    del account.answers["GetServiceQuota"]
    quota = [check for check in look() if check.name.startswith("quota")]
    assert {check.state for check in quota} == {State.NOT_CHECKED} and "vCPUs are wanted" in quota[0].detail


def test_subnets(account, look):
    ec2 = account.client("ec2")
    ids = {each["AvailabilityZone"]: each["SubnetId"] for each in ec2.describe_subnets()["Subnets"]}
    elsewhere, here = (changed(*NODE, "SubnetIds", [ids[zone]]) for zone in ("us-east-1c", "us-east-1a"))
    assert "is in us-east-1c" in only(look(elsewhere))[1]
    assert {check.state for check in look(here)} == {State.OK}
    for subnet in ids.values():
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": False})
    said = [check.detail for check in look(here) if check.state is State.FAILED]
    assert any("gives no public addresses" in each for each in said)
    name, what, _, fix = only(look())
    assert name == "subnet" and "no subnet of us-east-1" in what and "create-default-vpc" in fix
    assert {check.state for check in look(changed("provider", "use_internal_ips", True))} == {State.OK}


def group(account, name, port, block):
    ec2 = account.client("ec2")
    made = ec2.create_security_group(GroupName=name, Description="of the test")["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": block}]}
    ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=[rule])
    return made


def test_security_groups(account, look):
    made = group(account, "open", 8265, "0.0.0.0/0")
    assert "port 8265 would be open to 0.0.0.0/0" in only(look(changed(*NODE, "SecurityGroupIds", [made])))[1]
    closed = group(account, "closed", 443, "10.0.0.0/8")
    assert "lets no SSH in" in only(look(changed(*NODE, "SecurityGroupIds", [closed])), State.WARNING)[1]


def test_the_group_of_an_earlier_cluster_of_this_name(account, look):
    group(account, "ray-autoscaler-mine", 6379, "0.0.0.0/0")
    _, what, where, _ = only(look())
    assert "port 6379 would be open" in what and where.endswith("cluster_name")


def test_a_profile_without_a_role(account, look):
    account.client("iam").create_instance_profile(InstanceProfileName="bare")
    assert "has no role" in only(look(changed(*NODE, "IamInstanceProfile", {"Name": "bare"})))[1]


def test_a_head_without_a_profile(account, look):
    data = changed("available_node_types", "head", "node_config", "IamInstanceProfile", None)
    assert "everything with EC2 and S3" in only(look(data), State.WARNING)[1]


@pytest.mark.parametrize(
    ("storage", "state", "what"),
    [
        ("s3://nowhere-at-all/mine", State.FAILED, "no such bucket"),
        ("s3://Results!", State.FAILED, "s3://bucket/prefix"),
        ("/mnt/shared", State.WARNING, "the same disk"),
        ("s3://far-away/mine", State.WARNING, "in eu-west-1, the cluster in us-east-1"),
    ],
)
def test_buckets(account, look, storage, state, what):
    account.client("s3", "eu-west-1").create_bucket(
        Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    assert what in only(look(storage=storage), state)[1]


PERSON = policies("mine", "results", "mine", "us-east-1", "123456789012")["person"]
# moto reckons the signatures of S3's requests otherwise than boto3: who may do what is asked of the rest
SHARED = "/mnt/shared"


def as_person(account, monkeypatch, *denied):
    statements = [*PERSON["Statement"], *({"Effect": "Deny", "Action": [each], "Resource": "*"} for each in denied)]
    for name, value in account.user("person", PERSON | {"Statement": statements}).items():
        monkeypatch.setenv(name, value)


def test_the_persons_policy_allows_every_check(account, look, monkeypatch):
    as_person(account, monkeypatch)
    assert only(look(storage=SHARED), State.WARNING)[0] == "storage"


def test_a_person_who_may_not_start_machines(account, look, monkeypatch):
    as_person(account, monkeypatch, "ec2:RunInstances")
    failed = [check for check in look(storage=SHARED) if check.state is State.FAILED]
    assert [check.name for check in failed] == ["dry run of head", "dry run of gpu"]
    assert "you may not start it" in failed[0].detail and "cluster policy aws" in failed[0].problem.fix


def test_a_person_who_may_not_even_look(account, look, monkeypatch):
    as_person(account, monkeypatch, "ec2:DescribeImages")
    (check,) = [check for check in look(storage=SHARED) if check.state is State.NOT_CHECKED]
    assert check.name == "image" and "you may not call DescribeImages" in check.detail
