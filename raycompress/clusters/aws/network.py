"""Checks of zones, subnets and security groups."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from raycompress.clusters.aws.account import Account
from raycompress.clusters.file.check import Check, State, failed, warning
from raycompress.clusters.file.security import open_ports
from raycompress.text import join_names

_SSH = 22


def zones(account: Account) -> list[Check]:
    """Return whether the zones of the file are those of the region."""
    if not account.zones:
        return [Check("availability zone", State.OK, "any of the region")]
    found = account.client("ec2").describe_availability_zones()["AvailabilityZones"]
    known = sorted(zone["ZoneName"] for zone in found if zone.get("State", "available") == "available")
    unknown = [zone for zone in account.zones if zone not in known]
    if unknown:
        what = f"{account.region} has no zone {join_names(unknown)}"
        where = account.cluster.where("provider", "availability_zone")
        return [failed("availability zone", what, where=where, fix=f"it has {join_names(known)}")]
    return [Check("availability zone", State.OK, join_names(account.zones))]


def subnets(account: Account) -> list[Check]:
    """Return whether the subnets that the file names will do, or whether Ray finds some where it names none."""
    named = {subnet: account.where(node, "SubnetIds") for node in account.nodes for subnet in node.subnets}
    found = [_subnet(account, subnet, where) for subnet, where in named.items()]
    if all(node.subnets or "NetworkInterfaces" in node.config for node in account.nodes):
        return found
    usable = usable_subnets(account)
    if usable:
        return [*found, Check("subnet", State.OK, f"Ray picks among {len(usable)} that give public addresses")]
    place = f"{account.region}'s {join_names(account.zones)}" if account.zones else account.region
    fix = "`aws ec2 create-default-vpc` makes the usual ones; or name SubnetIds in each node_config"
    where = account.cluster.where("available_node_types")
    return [*found, failed("subnet", f"no subnet of {place} gives public addresses", where=where, fix=fix)]


def usable_subnets(account: Account) -> list[dict[str, Any]]:
    """Return the subnets among which Ray picks where a node names none."""
    return [
        subnet
        for subnet in account.pages("describe_subnets", "Subnets")
        if subnet["State"] == "available"
        and (_internal(account) or subnet["MapPublicIpOnLaunch"])
        and (not account.zones or subnet["AvailabilityZone"] in account.zones)
    ]


def _internal(account: Account) -> bool:
    """Tell whether the nodes are reached by their private addresses."""
    return bool(account.cluster.data["provider"].get("use_internal_ips"))


def _subnet(account: Account, subnet: str, where: str) -> Check:
    name = f"subnet {subnet}"
    try:
        found = account.client("ec2").describe_subnets(SubnetIds=[subnet])["Subnets"][0]
    except ClientError as error:
        if not error.response["Error"]["Code"].startswith("InvalidSubnetI"):
            raise
        fix = f"`aws ec2 describe-subnets --region {account.region}` lists them"
        return failed(name, f"there is no subnet {subnet} in {account.region}", where=where, fix=fix)
    zone, free = found["AvailabilityZone"], found["AvailableIpAddressCount"]
    if account.zones and zone not in account.zones:
        fix = f"availability_zone: {zone}"
        return failed(name, f"{subnet} is in {zone}, not in {join_names(account.zones)}", where=where, fix=fix)
    if not found["MapPublicIpOnLaunch"] and not _internal(account):
        fix = "take a public subnet; or `use_internal_ips: true` under provider, where a VPN leads into it"
        return failed(name, f"{subnet} gives no public addresses, and Ray could not reach it", where=where, fix=fix)
    if free < (wanted := sum(node.most for node in account.nodes if subnet in node.subnets)):
        return warning(name, f"{subnet} has {free} free addresses for {wanted} nodes", where=where, fix="name a second")
    return Check(name, State.OK, f"in {zone}, {free} free addresses")


def security_groups(account: Account) -> list[Check]:
    """Return whether the groups that the nodes will be in are there, and open nothing but SSH to the world."""
    named = {
        group: account.where(node, "SecurityGroupIds")
        for node in account.nodes
        for group in node.config.get("SecurityGroupIds") or ()
    }
    found = [_group(account, group, where) for group, where in named.items()]
    if all("SecurityGroupIds" in node.config for node in account.nodes):
        return found
    provider = account.cluster.data["provider"]
    of_ray = (provider.get("security_group") or {}).get("GroupName", f"ray-autoscaler-{account.cluster.name}")
    # Ray takes the group of an earlier cluster of this name as it is
    filters = [{"Name": "group-name", "Values": [of_ray]}]
    made = [group["GroupId"] for group in account.pages("describe_security_groups", "SecurityGroups", Filters=filters)]
    found += [_group(account, group, account.cluster.where("cluster_name")) for group in made]
    return found or [Check("security group", State.OK, f"Ray makes one that opens SSH only: {of_ray}")]


def _group(account: Account, group: str, where: str) -> Check:
    name = f"security group {group}"
    try:
        rules = account.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    except ClientError as error:
        if not error.response["Error"]["Code"].startswith("InvalidGroup"):
            raise
        fix = f"`aws ec2 describe-security-groups --region {account.region}` lists them"
        return failed(name, f"there is no security group {group} in {account.region}", where=where, fix=fix)
    opened = [what for rule in rules for what in open_ports(rule)]
    if opened:
        return failed(name, f"{group}: {join_names(opened)}", where=where, fix="remove the rule; SSH is enough")
    if not any(rule.get("FromPort", 0) <= _SSH <= rule.get("ToPort", 65535) for rule in rules):
        return warning(name, f"{group} lets no SSH in", where=where, fix="allow port 22 from your own address")
    return Check(name, State.OK, "opens SSH only")
