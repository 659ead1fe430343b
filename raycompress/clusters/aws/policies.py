"""Least-privilege IAM policies: for the person who launches, and for the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from raycompress.errors import UsageError

Statement: TypeAlias = dict[str, Any]

# EC2 and the price list know no permission on a single resource for these: only "*" can be said
LISTING = (
    "ec2:DescribeAvailabilityZones",
    "ec2:DescribeImages",
    "ec2:DescribeInstances",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeKeyPairs",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSpotPriceHistory",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
    "pricing:GetProducts",
    "servicequotas:GetServiceQuota",
)
# what the head's autoscaler lists
_NODE_LISTING = (
    "ec2:DescribeImages",
    "ec2:DescribeInstances",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeKeyPairs",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
)
_USED_BY_A_START = ("image", "key-pair", "network-interface", "security-group", "subnet", "volume")


@dataclass(frozen=True)
class Scope:
    """What the policies are limited to; ``*`` as account or region means any.

    Attributes
    ----------
    cluster
        The ``cluster_name``, which Ray writes on each node as the tag ``ray-cluster-name``.
    role
        The role of the nodes, and the name of its instance profile.
    bucket
        ``s3://bucket/prefix``; empty for no bucket.
    """

    cluster: str
    role: str
    bucket: str = ""
    region: str = "*"
    account: str = "*"


def policies(scope: Scope) -> dict[str, Any]:
    """Return the policies, by whom they are for, and the trust policy of the nodes' role."""
    start, files = _instances(scope), _files(scope)
    person = [_allow("List", LISTING, "*"), *start, *_preparation(scope), _read_profile(scope), *files]
    nodes = [_allow("List", _NODE_LISTING, "*"), *start, *files]
    return {"person": _policy(person), "nodes": _policy(nodes), "nodes_trust": _TRUST}


_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


def _policy(statements: list[Statement]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: tuple[str, ...], resource: str | list[str], **condition: dict[str, Any]) -> Statement:
    statement = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}
    return {**statement, "Condition": condition} if condition else statement


def _instances(scope: Scope) -> list[Statement]:
    """Start nodes under the cluster's name only, and touch none but those."""
    instances = _ec2(scope, "instance")
    named, of_name = {"aws:RequestTag/ray-cluster-name": scope.cluster}, _of_cluster(scope)
    used = [_ec2(scope, kind) for kind in _USED_BY_A_START]
    # public images belong to other accounts
    used[0] = f"arn:aws:ec2:{scope.region}::image/*"
    role = f"arn:aws:iam::{scope.account}:role/{scope.role}"
    return [
        _allow("StartNamed", ("ec2:RunInstances",), instances, StringEquals=named),
        _allow("StartWith", ("ec2:RunInstances",), used),
        _allow(
            "NameAtStart", ("ec2:CreateTags",), instances, StringEquals={"ec2:CreateAction": "RunInstances", **named}
        ),
        _allow("TagOwn", ("ec2:CreateTags",), instances, StringEquals=of_name),
        _allow("EndOwn", ("ec2:TerminateInstances",), instances, StringEquals=of_name),
        _allow("PassRole", ("iam:PassRole",), role, StringEquals={"iam:PassedToService": "ec2.amazonaws.com"}),
    ]


def _preparation(scope: Scope) -> list[Statement]:
    """Make the security group, as `ray up` does."""
    groups, vpcs = _ec2(scope, "security-group"), _ec2(scope, "vpc")
    named = {"aws:RequestTag/ray-cluster-name": scope.cluster}
    tagging = {"ec2:CreateAction": "CreateSecurityGroup", **named}
    return [
        _allow("MakeGroup", ("ec2:CreateSecurityGroup",), groups, StringEquals=named),
        _allow("MakeGroupIn", ("ec2:CreateSecurityGroup",), vpcs),
        _allow("NameGroup", ("ec2:CreateTags",), groups, StringEquals=tagging),
        _allow("OpenOwn", ("ec2:AuthorizeSecurityGroupIngress",), groups, StringEquals=_of_cluster(scope)),
    ]


def _read_profile(scope: Scope) -> Statement:
    resources = [f"arn:aws:iam::{scope.account}:{kind}/{scope.role}" for kind in ("instance-profile", "role")]
    return _allow("ReadProfile", ("iam:GetInstanceProfile", "iam:GetRole"), resources)


def _files(scope: Scope) -> list[Statement]:
    """Read and write below the prefix of the bucket, and list nothing else in it."""
    if not scope.bucket:
        return []
    parts = urlsplit(scope.bucket)
    prefix = parts.path.strip("/")
    if parts.scheme != "s3" or not parts.netloc or set("*?") & set(scope.bucket):
        raise UsageError(
            f'"{scope.bucket}" is no place in a bucket', where="--bucket", fix="--bucket s3://bucket/prefix"
        )
    bucket = f"arn:aws:s3:::{parts.netloc}"
    below = f"{prefix}/*" if prefix else "*"
    actions = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")
    listing = {"StringLike": {"s3:prefix": [prefix, below]}} if prefix else {}
    return [
        _allow("Files", (*actions, "s3:ListMultipartUploadParts"), f"{bucket}/{below}"),
        _allow("ListFiles", ("s3:ListBucket",), bucket, **listing),
    ]


def _of_cluster(scope: Scope) -> dict[str, str]:
    return {"aws:ResourceTag/ray-cluster-name": scope.cluster}


def _ec2(scope: Scope, kind: str) -> str:
    return f"arn:aws:ec2:{scope.region}:{scope.account}:{kind}/*"
