"""The policies give what a cluster needs, of this cluster, this region and this prefix, and nothing beyond."""

import fnmatch
import json

import pytest

from raycompress.clusters.aws.policies import WITHOUT_RESOURCES, policies

ACCOUNT = "123456789012"
TAG = "ray-cluster-name"
MOST = 6144  # characters of a managed policy, white space not counted


@pytest.fixture(scope="module")
def made():
    return policies("mine", "results", "some/prefix", "eu-west-1", ACCOUNT)


def statements(policy):
    return policy["Statement"]


def each(made):
    return [(who, statement) for who in ("person", "nodes") for statement in statements(made[who])]


def having(policy, action):
    return [statement for statement in statements(policy) if action in statement["Action"]]


def test_no_action_has_a_star(made):
    for _, statement in each(made):
        assert statement["Effect"] == "Allow" and "NotAction" not in statement and "NotResource" not in statement
        assert not any("*" in action for action in statement["Action"]), statement


def test_every_resource_is_only_allowed_where_aws_cannot_limit_it(made):
    reading = {f"{service}:{operation}" for operation, service in WITHOUT_RESOURCES.items()}
    assert all(action.partition(":")[2].startswith(("Describe", "Get")) for action in reading)
    for _, statement in each(made):
        everything = statement["Resource"] == "*"
        assert everything == (set(statement["Action"]) <= reading), statement


def test_every_resource_is_of_the_account_and_the_region(made):
    for _, statement in each(made):
        for name in statement["Resource"] if statement["Resource"] != "*" else ():
            _, partition, service, region, account, _ = name.split(":", 5)
            assert partition == "aws"
            assert region == {"ec2": "eu-west-1"}.get(service, "")
            assert account == ("" if service == "s3" or ":image/" in name else ACCOUNT), name


@pytest.mark.parametrize("who", ["person", "nodes"])
def test_machines_are_ended_by_their_tag(made, who):
    for action in ("ec2:TerminateInstances", "ec2:StopInstances", "ec2:StartInstances"):
        (statement,) = having(made[who], action)
        assert statement["Condition"] == {"StringEquals": {f"aws:ResourceTag/{TAG}": "mine"}}


@pytest.mark.parametrize("who", ["person", "nodes"])
def test_machines_are_started_with_the_tag_and_in_the_region(made, who):
    found = having(made[who], "ec2:RunInstances")
    (machines,) = [each for each in found if any(":instance/" in name for name in each["Resource"])]
    assert machines["Condition"]["StringEquals"] == {
        f"aws:RequestTag/{TAG}": "mine",
        "aws:RequestedRegion": "eu-west-1",
    }
    assert machines["Resource"] == [f"arn:aws:ec2:eu-west-1:{ACCOUNT}:instance/*"]
    assert all(each["Condition"]["StringEquals"]["aws:RequestedRegion"] == "eu-west-1" for each in found)


@pytest.mark.parametrize("who", ["person", "nodes"])
def test_the_tag_cannot_be_put_on_machines_of_others(made, who):
    for statement in having(made[who], "ec2:CreateTags"):
        equals = statement["Condition"]["StringEquals"]
        assert equals.get("ec2:CreateAction") == "RunInstances" or equals.get(f"aws:ResourceTag/{TAG}") == "mine"


@pytest.mark.parametrize("who", ["person", "nodes"])
def test_one_role_is_passed_and_to_machines_only(made, who):
    (statement,) = having(made[who], "iam:PassRole")
    assert statement["Resource"] == [f"arn:aws:iam::{ACCOUNT}:role/raycompress-mine"]
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


@pytest.mark.parametrize("who", ["person", "nodes"])
@pytest.mark.parametrize(
    ("key", "allowed"),
    [("some/prefix/a", True), ("some/prefix/a/b", True), ("some/prefixes/a", False), ("some/a", False), ("a", False)],
)
def test_one_prefix_of_one_bucket(made, who, key, allowed):
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        (statement,) = having(made[who], action)
        (name,) = statement["Resource"]
        assert fnmatch.fnmatchcase(f"arn:aws:s3:::results/{key}", name) is allowed
    (listing,) = having(made[who], "s3:ListBucket")
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["some/prefix", "some/prefix/*"]}}


def test_nodes_make_no_keys_groups_or_policies(made):
    actions = {action for statement in statements(made["nodes"]) for action in statement["Action"]}
    assert not actions & {"ec2:CreateKeyPair", "ec2:CreateSecurityGroup", "ec2:AuthorizeSecurityGroupIngress"}
    assert {action for action in actions if action.startswith("iam:")} == {"iam:PassRole"}


def test_machines_alone_take_the_role(made):
    (statement,) = statements(made["trust"])
    assert statement["Principal"] == {"Service": "ec2.amazonaws.com"} and statement["Action"] == ["sts:AssumeRole"]


def test_aws_takes_their_length_and_iam_their_form(made, aws):
    iam = aws.client("iam")
    for who, policy in made.items():
        assert len(json.dumps(policy, separators=(",", ":"))) <= MOST
        if who == "trust":
            iam.create_role(RoleName="raycompress-mine", AssumeRolePolicyDocument=json.dumps(policy))
        else:
            # moto reads the policy's grammar as IAM does
            iam.create_policy(PolicyName=who, PolicyDocument=json.dumps(policy))


def test_names_are_unique(made):
    for who in ("person", "nodes"):
        names = [statement["Sid"] for statement in statements(made[who])]
        assert len(set(names)) == len(names) and all(name.isalnum() for name in names)


def test_other_parts_of_aws_and_a_whole_bucket():
    made = policies("mine", "results", "", "cn-north-1", ACCOUNT, role="of-mine")
    text = json.dumps(made)
    assert "arn:aws:" not in text and "arn:aws-cn:iam::123456789012:role/of-mine" in text
    (listing,) = having(made["person"], "s3:ListBucket")
    assert "Condition" not in listing
    (objects,) = having(made["person"], "s3:PutObject")
    assert objects["Resource"] == ["arn:aws-cn:s3:::results/*"]
