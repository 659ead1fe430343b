"""How many virtual CPUs of a family an account may run at once, against what the cluster wants."""

from __future__ import annotations

import re
from collections import defaultdict

from botocore.exceptions import ClientError

from raycompress.clusters.aws.account import Account
from raycompress.clusters.aws.machines import describe_type
from raycompress.clusters.check import Check, State, failed

# families -> (what AWS calls them, the quota's code on demand, and for spot)
_QUOTAS = (
    (re.compile(r"(g|vt)\d"), "G and VT", "L-DB2E81BA", "L-3819A6DF"),
    (re.compile(r"p5"), "P5", "L-417A185B", "L-C4BD4855"),
    (re.compile(r"p\d"), "P", "L-417A185B", "L-7212CCBC"),
    (re.compile(r"[acdhimrtz]\d"), "standard", "L-1216C47A", "L-34B43A08"),
)


def quotas(account: Account) -> list[Check]:
    """Return, for each family of the cluster's nodes, whether its quota leaves room for all of them."""
    wanted: dict[tuple[str, str, bool], int] = defaultdict(int)
    found = []
    for node in account.nodes:
        quota, described = _quota(node.instance_type, node.spot), describe_type(account, node.instance_type)
        if described is None:
            continue
        if quota is None:
            found.append(Check(f"quota of {node.name}", State.NOT_CHECKED, f"unknown for {node.instance_type}"))
            continue
        wanted[quota] += node.count * int(described["VCpuInfo"]["DefaultVCpus"])
    return found + [_room(account, *quota, cpus) for quota, cpus in wanted.items()]


def _quota(instance_type: str, spot: bool) -> tuple[str, str, bool] | None:
    for pattern, family, on_demand, on_spot in _QUOTAS:
        if pattern.match(instance_type):
            return family, on_spot if spot else on_demand, spot
    return None


def _room(account: Account, family: str, code: str, spot: bool, wanted: int) -> Check:
    name = f"quota of {family} instances, {'spot' if spot else 'on demand'}"
    try:
        quota = account.client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
        return Check(name, State.NOT_CHECKED, f"AWS does not say ({code}); {wanted} vCPUs are wanted")
    allowed, running = int(quota["Value"]), _running(account, code, spot)
    if wanted + running > allowed:
        what = f"{wanted} vCPUs are wanted, {running} run, {allowed} are allowed"
        url = f"https://{account.region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}"
        fix = f"fewer or smaller nodes (max_workers), or ask AWS for more, which takes hours to days: {url}"
        return failed(name, what, where=account.cluster.where("max_workers"), fix=fix)
    return Check(name, State.OK, f"{wanted} vCPUs wanted, {running} run, {allowed} allowed")


def _running(account: Account, code: str, spot: bool) -> int:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    cpus = 0
    for reservation in account.pages("describe_instances", "Reservations", Filters=states):
        for instance in reservation["Instances"]:
            is_spot = instance.get("InstanceLifecycle") == "spot"
            quota = _quota(instance["InstanceType"], is_spot)
            if quota is not None and quota[1] == code and is_spot is spot:
                options = instance.get("CpuOptions", {})
                cpus += int(options.get("CoreCount", 1)) * int(options.get("ThreadsPerCore", 1))
    return cpus
