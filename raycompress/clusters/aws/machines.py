"""Checks of each node's image and instance type, and a dry run of its start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from raycompress.clusters.aws.account import CLUSTER_TAG, Account, Node
from raycompress.clusters.aws.network import usable_subnets
from raycompress.clusters.file.check import Check, State, failed, warning
from raycompress.text import did_you_mean, join_names

FIND_IMAGE = (
    "aws ssm get-parameter --region {region} --query Parameter.Value --output text --name "
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
)
# Ray's own key in a node_config, and the keys that Ray sets itself
_OF_RAY = {"SubnetIds": list, "MinCount": int, "MaxCount": int}


def well_formed(account: Account) -> list[Check]:
    """Return whether EC2 would understand each node_config; nobody is asked."""
    found = [check for node in account.nodes for check in _malformed(account, node)]
    return found or [Check("node_config", State.OK, "all that EC2's RunInstances takes")]


def _malformed(account: Account, node: Node) -> Iterator[Check]:
    name = f"node_config of {node.name}"
    for key, kind in _OF_RAY.items():
        if not isinstance(node.config.get(key, kind()), kind):
            fix = f"write a list: {key}: [{node.config[key]}]" if kind is list else "leave it out"
            yield failed(name, f"{key} must be a {kind.__name__}", where=account.where(node, key), fix=fix)
    # the shape of a request is the same in every region, and this one is always known
    shape = account.client("ec2", "us-east-1").meta.service_model.operation_model("RunInstances").input_shape
    config = {key: value for key, value in node.config.items() if key not in _OF_RAY}
    for key in [key for key in config if key not in shape.members]:
        fix = did_you_mean(key, shape.members) or "leave it out"
        yield failed(name, f'EC2 knows no "{key}"', where=account.where(node, key), fix=fix)
        del config[key]
    report = ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, shape).generate_report()
    for line in report.splitlines():
        fix = "write what EC2's RunInstances takes"
        yield failed(name, re.sub(r", valid types: .*", "", line), where=account.where(node), fix=fix)


def images(account: Account) -> list[Check]:
    """Return whether each node's image is there, ready, and made for its processor."""
    return [_image(account, node) for node in account.nodes]


def _image(account: Account, node: Node) -> Check:
    image, name, where = node.image, f"image of {node.name}", account.where(node, "ImageId")
    fix = "this finds a current one with NVIDIA's driver: " + FIND_IMAGE.format(region=account.region)
    if image is None:
        if "LaunchTemplate" in node.config:
            return Check(name, State.NOT_CHECKED, "the launch template names it")
        what = "no image is named: Ray takes one with Ubuntu 18.04, if it is still there"
        return warning(name, what, where=where, fix=fix)
    try:
        found = account.client("ec2").describe_images(ImageIds=[image])["Images"]
    except ClientError as error:
        if not error.response["Error"]["Code"].startswith("InvalidAMIID"):
            raise
        found = []
    if not found:
        return failed(name, f"there is no image {image} in {account.region}", where=where, fix=fix)
    if found[0].get("State", "available") != "available":
        return failed(name, f"the image {image} is {found[0]['State']}", where=where, fix=fix)
    described = describe_type(account, node.instance_type)
    has, wanted = (
        found[0].get("Architecture"),
        described["ProcessorInfo"]["SupportedArchitectures"] if described else [],
    )
    if wanted and has not in wanted:
        what = f"the image {image} is for {has}, {node.instance_type} needs {' or '.join(wanted)}"
        return failed(name, what, where=where, fix=fix)
    return Check(name, State.OK, f"{image}, {has}")


def describe_type(account: Account, instance_type: str) -> dict[str, Any] | None:
    """Return what EC2 says of an instance type; None where there is no such type."""
    if instance_type and instance_type not in account.types:
        try:
            found = account.client("ec2").describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidInstanceType":
                raise
            found = []
        account.types[instance_type] = found[0] if found else None
    return account.types.get(instance_type)


def offered(account: Account) -> list[Check]:
    """Return whether each node's instance type is offered where it is to run."""
    return [_offered(account, node) for node in account.nodes]


def _offered(account: Account, node: Node) -> Check:
    name, wanted, where = f"instance type of {node.name}", node.instance_type, account.where(node, "InstanceType")
    if not wanted:
        if "LaunchTemplate" in node.config:
            return Check(name, State.NOT_CHECKED, "the launch template names it")
        return failed(name, "no instance type is named", where=where, fix="InstanceType: g4dn.xlarge")
    zones = _zones_of(account, [wanted])
    if not zones:
        fix = did_you_mean(wanted, _types(account)) or "take another type, or another region"
        return failed(name, f"{wanted} is not offered in {account.region}", where=where, fix=fix)
    missing = [zone for zone in account.zones if zone not in zones]
    if missing:
        what, fix = f"{wanted} is not offered in {join_names(missing)}", f"availability_zone: {', '.join(zones)}"
        where = account.cluster.where("provider", "availability_zone")
        # Ray tries one zone after the other
        check = failed if len(missing) == len(account.zones) else warning
        return check(name, what, where=where, fix=fix)
    return Check(name, State.OK, f"{wanted}{', spot' if node.spot else ''}, up to {node.most}: {join_names(zones)}")


def _zones_of(account: Account, types: list[str]) -> list[str]:
    filters = [{"Name": "instance-type", "Values": types}]
    offers = account.pages(
        *("describe_instance_type_offerings", "InstanceTypeOfferings"),
        LocationType="availability-zone",
        Filters=filters,
    )
    return sorted({str(offer["Location"]) for offer in offers})


def _types(account: Account) -> list[str]:
    return [
        str(offer["InstanceType"])
        for offer in account.pages("describe_instance_type_offerings", "InstanceTypeOfferings", LocationType="region")
    ]


def dry_run(account: Account) -> list[Check]:
    """Return what EC2 says of the start of each node, were it no dry run."""
    return [_dry_run(account, node) for node in account.nodes]


def _dry_run(account: Account, node: Node) -> Check:
    name, where = f"dry run of {node.name}", account.where(node)
    if node.image is None and "LaunchTemplate" not in node.config:
        return Check(name, State.NOT_CHECKED, "no image is named")
    try:
        account.client("ec2").run_instances(**_request(account, node), DryRun=True)
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code == "DryRunOperation":
            return Check(name, State.OK, "EC2 would start it")
        if code in ("UnauthorizedOperation", "AccessDenied"):
            fix = "have a policy attached to you: `raycompress cluster policy aws` prints it"
            return failed(name, "you may not start it (RunInstances)", where=where, fix=fix)
        fix = "change what it names in the node_config"
        return failed(name, f"EC2 would not start it: {message or code}", where=where, fix=fix)
    fix = f"end it: `aws ec2 describe-instances --region {account.region}` finds it"
    return failed(name, "EC2 took the dry run for a start", where=where, fix=fix)


def _request(account: Account, node: Node) -> dict[str, Any]:
    """Return what Ray will ask for, as near as can be: groups and keys that Ray will make are not there yet."""
    config = {key: value for key, value in node.config.items() if key not in _OF_RAY}
    if "ssh_private_key" not in account.cluster.data.get("auth", {}):
        config.pop("KeyName", None)
    subnets = node.subnets or [subnet["SubnetId"] for subnet in usable_subnets(account)]
    if subnets and "NetworkInterfaces" not in config:
        config["SubnetId"] = subnets[0]
    tags = [{"Key": CLUSTER_TAG, "Value": account.cluster.name}]
    return {
        **{key: value for key, value in config.items() if key not in ("TagSpecifications", "DryRun")},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}],
        **{"MinCount": 1, "MaxCount": 1},
    }


_CONFIG = Config(connect_timeout=5, read_timeout=15, retries={"max_attempts": 2, "mode": "standard"})
_NEWEST_IMAGE = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) *"


def newest_image(region: str) -> str | None:
    """Return the id that the image has in `region`; None where there is none.

    Raises
    ------
    botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError
        AWS was not reached, or does not answer us.
    """
    filters = {"name": _NEWEST_IMAGE, "state": "available", "architecture": "x86_64"}
    found = boto3.client("ec2", region_name=region, config=_CONFIG).describe_images(
        Owners=["amazon"], Filters=[{"Name": name, "Values": [value]} for name, value in filters.items()]
    )["Images"]
    newest = max(found, key=lambda image: image["CreationDate"], default=None)
    return None if newest is None else str(newest["ImageId"])
