"""The image and the instance type of each node, and a dry run of their start."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from raycompress.clusters.aws.account import Account, Node
from raycompress.clusters.check import Check, State, failed
from raycompress.experiment.words import listed

FIND_IMAGE = (
    "aws ssm get-parameter --region {region} --query Parameter.Value --output text --name "
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
)


def images(account: Account) -> list[Check]:
    """Return whether each node's image is there, ready, and made for its processor."""
    return [_image(account, node) for node in account.nodes]


def _image(account: Account, node: Node) -> Check:
    image, name = node.config.get("ImageId"), f"image of {node.name}"
    fix = "this finds a current one with NVIDIA's driver: " + FIND_IMAGE.format(region=account.region)
    if image is None:
        return Check(name, State.NOT_CHECKED, "none is named: the launch template's, or Ray's own, years old")
    where = account.where(node, "ImageId")
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
    has, wanted = found[0].get("Architecture"), _architectures(account, node)
    if wanted and has not in wanted:
        what = f"the image {image} is for {has}, {node.instance_type} needs {' or '.join(wanted)}"
        return failed(name, what, where=where, fix=fix)
    return Check(name, State.OK, f"{image}, {has}")


def _architectures(account: Account, node: Node) -> list[str]:
    described = describe_type(account, node.instance_type)
    return list(described["ProcessorInfo"]["SupportedArchitectures"]) if described else []


def describe_type(account: Account, instance_type: str) -> dict[str, Any] | None:
    """Return what EC2 says of an instance type; None where there is no such type."""
    if not instance_type:
        return None
    try:
        found = account.client("ec2").describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidInstanceType":
            raise
        return None
    return found[0] if found else None


def offered(account: Account) -> list[Check]:
    """Return whether each node's instance type is offered where it is to run."""
    return [_offered(account, node) for node in account.nodes]


def _offered(account: Account, node: Node) -> Check:
    name, wanted = f"instance type of {node.name}", node.instance_type
    if not wanted:
        return Check(name, State.NOT_CHECKED, "the launch template says it")
    zones = {
        offer["Location"]
        for offer in account.pages(
            "describe_instance_type_offerings",
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": [wanted]}],
        )
        if offer["InstanceType"] == wanted
    }
    where, fix = account.where(node, "InstanceType"), "take another type, or another region"
    if not zones:
        return failed(name, f"{wanted} is not offered in {account.region}", where=where, fix=fix)
    missing = [zone for zone in account.zones if zone not in zones]
    if account.zones and len(missing) == len(account.zones):
        fix = f"availability_zone: {', '.join(sorted(zones))}"
        return failed(name, f"{wanted} is not offered in {listed(missing)}", where=where, fix=fix)
    return Check(
        name, State.OK, f"{wanted}{', spot' if node.spot else ''}, up to {node.count}: {listed(sorted(zones))}"
    )


def dry_run(account: Account) -> list[Check]:
    """Return what EC2 says of the start of each node, were it no dry run."""
    return [_dry_run(account, node) for node in account.nodes]


def _dry_run(account: Account, node: Node) -> Check:
    name = f"dry run of {node.name}"
    config = {key: value for key, value in node.config.items() if key not in ("SubnetIds", "MinCount", "MaxCount")}
    if node.config.get("SubnetIds"):
        config["SubnetId"] = node.config["SubnetIds"][0]
    tags = [{"Key": "ray-cluster-name", "Value": account.cluster.name}]
    config["TagSpecifications"] = [{"ResourceType": "instance", "Tags": tags}]
    try:
        account.client("ec2").run_instances(**config, MinCount=1, MaxCount=1, DryRun=True)
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code == "DryRunOperation":
            return Check(name, State.OK, "EC2 would start it")
        where = account.where(node)
        if code == "UnauthorizedOperation":
            fix = "have a policy attached to you: `raycompress cluster policy aws`"
            return failed(name, "you may not start it (RunInstances)", where=where, fix=fix)
        return failed(name, f"EC2 would not start it: {message or code}", where=where)
    return failed(name, "EC2 took the dry run for a start", fix="look for instances that run, and end them")
