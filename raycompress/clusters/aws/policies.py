"""Least-privilege IAM policies: one for the person who starts a cluster, one for its nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raycompress.clusters.aws.account import CLUSTER_TAG

Statement = dict[str, Any]

WITHOUT_RESOURCES = {
    **dict.fromkeys(
        (
            *("DescribeAvailabilityZones", "DescribeImages", "DescribeInstances"),
            *("DescribeInstanceTypeOfferings", "DescribeInstanceTypes", "DescribeKeyPairs"),
            *("DescribeLaunchTemplateVersions", "DescribeRegions", "DescribeSecurityGroups"),
            *("DescribeSpotPriceHistory", "DescribeSubnets"),
        ),
        "ec2",
    ),
    "GetProducts": "pricing",
    "GetServiceQuota": "servicequotas",
}
"""What is allowed on every resource, with its service: these only read, and AWS cannot limit them to some."""

_NODES_READ = ("DescribeImages", "DescribeInstances", "DescribeInstanceTypes")


def policies(
    cluster_name: str, bucket: str, prefix: str, region: str, account: str, role: str = ""
) -> dict[str, dict[str, Any]]:
    """Return the policies of a cluster whose file names an instance profile.

    Parameters
    ----------
    bucket, prefix
        Where the results go, ``s3://bucket/prefix``; an empty prefix means the whole bucket.
    account
        The account's number, twelve digits.
    role
        Of the nodes; its instance profile has the same name. ``raycompress-CLUSTER`` if empty.

    Returns
    -------
    dict
        ``person``, for whoever types ``raycompress launch``; ``nodes``, for the role of head and workers; ``trust``,
        which lets machines of EC2 take that role.
    """
    names = _Names(cluster_name, bucket, prefix.strip("/"), region, account, role or f"raycompress-{cluster_name}")
    return {
        "person": _policy(
            _read("ReadAnything", WITHOUT_RESOURCES),
            *_machines(names),
            *_network(names),
            {
                "Sid": "SeeTheProfile",
                "Effect": "Allow",
                "Action": ["iam:GetInstanceProfile"],
                "Resource": [names.iam("instance-profile", names.role)],
            },
            *_results(names),
        ),
        "nodes": _policy(_read("ReadMachines", _NODES_READ), *_machines(names), *_results(names)),
        "trust": _policy(
            {"Effect": "Allow", "Principal": {"Service": _ec2_service(names)}, "Action": ["sts:AssumeRole"]}
        ),
    }


class _Names:
    """The names of what the policies speak of."""

    def __init__(self, cluster: str, bucket: str, prefix: str, region: str, account: str, role: str) -> None:
        self.cluster, self.region, self.account, self.role = cluster, region, account, role
        self.prefix = prefix
        china, government = region.startswith("cn-"), region.startswith("us-gov-")
        self.partition = "aws-cn" if china else "aws-us-gov" if government else "aws"
        self.bucket = f"arn:{self.partition}:s3:::{bucket}"
        self.objects = f"{self.bucket}/{prefix}/*" if prefix else f"{self.bucket}/*"

    def ec2(self, kind: str, name: str = "*") -> str:
        """Return the name of a resource of the account; an image may be anybody's."""
        return f"arn:{self.partition}:ec2:{self.region}:{'' if kind == 'image' else self.account}:{kind}/{name}"

    def iam(self, kind: str, name: str) -> str:
        return f"arn:{self.partition}:iam::{self.account}:{kind}/{name}"


def _policy(*statements: Statement) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _read(sid: str, operations: Iterable[str]) -> Statement:
    actions = sorted(f"{WITHOUT_RESOURCES[operation]}:{operation}" for operation in operations)
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": "*"}


def _machines(names: _Names) -> list[Statement]:
    """Return what starts and ends machines of this cluster, and of no other; the head needs it as the person does."""
    beside = ("image", "key-pair", "launch-template", "network-interface", "security-group", "subnet", "volume")
    mine = {"StringEquals": {f"aws:ResourceTag/{CLUSTER_TAG}": names.cluster}}
    return [
        {
            "Sid": "StartOnlyWithTheTag",
            "Effect": "Allow",
            "Action": ["ec2:RunInstances"],
            "Resource": [names.ec2("instance")],
            "Condition": {
                "StringEquals": {f"aws:RequestTag/{CLUSTER_TAG}": names.cluster, "aws:RequestedRegion": names.region}
            },
        },
        {
            "Sid": "StartWithThese",
            "Effect": "Allow",
            "Action": ["ec2:RunInstances"],
            "Resource": [names.ec2(kind) for kind in (*beside, "spot-instances-request")],
            "Condition": {"StringEquals": {"aws:RequestedRegion": names.region}},
        },
        {
            "Sid": "TagAtTheStart",
            "Effect": "Allow",
            "Action": ["ec2:CreateTags"],
            "Resource": [names.ec2("instance")],
            "Condition": {
                "StringEquals": {"ec2:CreateAction": "RunInstances", f"aws:RequestTag/{CLUSTER_TAG}": names.cluster}
            },
        },
        {
            "Sid": "TagMineLater",
            "Effect": "Allow",
            "Action": ["ec2:CreateTags"],
            "Resource": [names.ec2("instance")],
            "Condition": {
                **mine,
                # or another cluster's name could be put on a machine of this one
                "StringEqualsIfExists": {f"aws:RequestTag/{CLUSTER_TAG}": names.cluster},
            },
        },
        {
            "Sid": "EndMine",
            "Effect": "Allow",
            "Action": ["ec2:StartInstances", "ec2:StopInstances", "ec2:TerminateInstances"],
            "Resource": [names.ec2("instance")],
            "Condition": mine,
        },
        {
            "Sid": "GiveThatRoleToMachines",
            "Effect": "Allow",
            "Action": ["iam:PassRole"],
            "Resource": [names.iam("role", names.role)],
            "Condition": {"StringEquals": {"iam:PassedToService": _ec2_service(names)}},
        },
    ]


def _network(names: _Names) -> list[Statement]:
    """Return what Ray makes at the first start: a key pair and a security group; it tags neither."""
    return [
        {
            "Sid": "MakeRaysKeyPair",
            "Effect": "Allow",
            "Action": ["ec2:CreateKeyPair"],
            "Resource": [names.ec2("key-pair", "ray-autoscaler*")],
        },
        {
            "Sid": "MakeTheSecurityGroup",
            "Effect": "Allow",
            "Action": ["ec2:AuthorizeSecurityGroupIngress", "ec2:CreateSecurityGroup"],
            "Resource": [names.ec2("security-group"), names.ec2("vpc")],
        },
    ]


def _results(names: _Names) -> list[Statement]:
    """Return what reads and writes the results, under their prefix only."""
    listing: Statement = {
        "Sid": "ListTheResults",
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": [names.bucket],
    }
    if names.prefix:
        listing["Condition"] = {"StringLike": {"s3:prefix": [names.prefix, f"{names.prefix}/*"]}}
    return [
        listing,
        {
            "Sid": "SeeTheBucketsRegion",
            "Effect": "Allow",
            "Action": ["s3:GetBucketLocation"],
            "Resource": [names.bucket],
        },
        {
            "Sid": "KeepTheResults",
            "Effect": "Allow",
            "Action": ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
            "Resource": [names.objects],
        },
    ]


def _ec2_service(names: _Names) -> str:
    return "ec2.amazonaws.com.cn" if names.partition == "aws-cn" else "ec2.amazonaws.com"
