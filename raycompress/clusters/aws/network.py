"""Zones, subnets and security groups."""

from __future__ import annotations

from botocore.exceptions import ClientError

from raycompress.clusters.aws.account import Account
from raycompress.clusters.check import Check, State, failed, warning
from raycompress.clusters.security import open_ports
from raycompress.experiment.words import listed


def zones(account: Account) -> list[Check]:
    """Return whether the zones of the file are those of the region."""
    if not account.zones:
        return [Check("availability zone", State.OK, "any of the region")]
    found = account.client("ec2").describe_availability_zones()["AvailabilityZones"]
    known = sorted(zone["ZoneName"] for zone in found if zone.get("State", "available") == "available")
    unknown = [zone for zone in account.zones if zone not in known]
    if unknown:
        what = f"{account.region} has no zone {listed(unknown)}"
        where = account.cluster.where("provider", "availability_zone")
        return [failed("availability zone", what, where=where, fix=f"it has {listed(known)}")]
    return [Check("availability zone", State.OK, listed(account.zones))]


def subnets(account: Account) -> list[Check]:
    """Return whether the subnets that the file names are there, or the default ones where it names none."""
    named = {
        subnet: account.where(node, "SubnetIds")
        for node in account.nodes
        for subnet in [*node.config.get("SubnetIds", ()), *filter(None, [node.config.get("SubnetId")])]
    }
    found = [_subnet(account, subnet, where) for subnet, where in named.items()]
    return found or [_default_subnets(account)]


def _subnet(account: Account, subnet: str, where: str) -> Check:
    name = f"subnet {subnet}"
    try:
        found = account.client("ec2").describe_subnets(SubnetIds=[subnet])["Subnets"][0]
    except ClientError as error:
        if not error.response["Error"]["Code"].startswith("InvalidSubnetI"):
            raise
        fix = f"`aws ec2 describe-subnets --region {account.region}` lists them"
        return failed(name, f"there is no subnet {subnet} in {account.region}", where=where, fix=fix)
    zone = found["AvailabilityZone"]
    if account.zones and zone not in account.zones:
        fix = f"availability_zone: {zone}"
        return failed(name, f"{subnet} is in {zone}, not in {listed(account.zones)}", where=where, fix=fix)
    return Check(name, State.OK, f"in {zone}, {found['AvailableIpAddressCount']} free addresses")


def _default_subnets(account: Account) -> Check:
    found = account.client("ec2").describe_subnets(Filters=[{"Name": "map-public-ip-on-launch", "Values": ["true"]}])
    inside = [each for each in found["Subnets"] if not account.zones or each["AvailabilityZone"] in account.zones]
    if inside:
        return Check("subnet", State.OK, f"Ray picks one of {len(inside)} that give public addresses")
    fix = "name SubnetIds in each node_config; Ray does not find one by itself"
    return failed("subnet", f"no subnet of {account.region} gives public addresses", fix=fix)


def security_groups(account: Account) -> list[Check]:
    """Return whether the groups that the file names are there, and open nothing but SSH to the world."""
    named = {
        group: account.where(node, "SecurityGroupIds")
        for node in account.nodes
        for group in node.config.get("SecurityGroupIds", ())
    }
    found = [_group(account, group, where) for group, where in named.items()]
    return found or [Check("security group", State.OK, "Ray makes one that opens SSH only")]


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
        return failed(name, f"{group}: {listed(opened)}", where=where, fix="remove the rule; SSH is enough")
    if not any(rule.get("FromPort", 22) <= 22 <= rule.get("ToPort", 22) for rule in rules):
        return warning(name, f"{group} lets no SSH in", where=where, fix="allow port 22 from your own address")
    return Check(name, State.OK, "opens SSH only")
