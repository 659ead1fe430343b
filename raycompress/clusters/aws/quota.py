"""Checks of AWS's quotas of virtual CPUs against the cluster's nodes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from raycompress.clusters.aws.account import CLUSTER_TAG, Account
from raycompress.clusters.aws.machines import describe_type
from raycompress.clusters.file.check import Check, State, failed, warning


class Quota(NamedTuple):
    """One of AWS's limits on virtual CPUs: by family, on demand and on spot apart."""

    code: str
    name: str


# AWS's list of quotas has more (Inf, Trn, X ...); of those it is said that they are not checked
_QUOTAS = {
    False: (
        (re.compile(r"(g|vt|gr)\d"), Quota("L-DB2E81BA", "G and VT instances on demand")),
        (re.compile(r"p\d"), Quota("L-417A185B", "P instances on demand")),
        (re.compile(r"[acdhimrtz]\d"), Quota("L-1216C47A", "standard instances on demand")),
    ),
    True: (
        (re.compile(r"(g|vt|gr)\d"), Quota("L-3819A6DF", "G and VT instances on spot")),
        (re.compile(r"p5"), Quota("L-C4BD4855", "P5 instances on spot")),
        (re.compile(r"p[234]"), Quota("L-7212CCBC", "P2, P3 and P4 instances on spot")),
        (re.compile(r"[acdhimrtz]\d"), Quota("L-34B43A08", "standard instances on spot")),
    ),
}


def quotas(account: Account) -> list[Check]:
    """Return, for each family of the cluster's nodes, whether its quota leaves room for them."""
    least: dict[Quota, int] = defaultdict(int)
    most: dict[Quota, int] = defaultdict(int)
    found = []
    for node in account.nodes:
        quota, described = _quota(node.instance_type, node.spot), describe_type(account, node.instance_type)
        if quota is None or described is None:
            what = node.instance_type or "what the launch template names"
            found.append(Check(f"quota of {node.name}", State.NOT_CHECKED, f"not known for {what}"))
            continue
        least[quota] += node.least * _cpus(described)
        most[quota] += node.most * _cpus(described)
    return found + [_room(account, quota, least[quota], most[quota]) for quota in most]


def _quota(instance_type: str, spot: bool) -> Quota | None:
    return next((quota for pattern, quota in _QUOTAS[spot] if pattern.match(instance_type)), None)


def _room(account: Account, quota: Quota, least: int, most: int) -> Check:
    name, wanted = f"quota of {quota.name}", f"{most} vCPUs are wanted"
    client = account.client("service-quotas")
    try:
        allowed = int(client.get_service_quota(ServiceCode="ec2", QuotaCode=quota.code)["Quota"]["Value"])
    except (ClientError, BotoCoreError) as error:
        reason = error.response["Error"]["Code"] if isinstance(error, ClientError) else str(error)
        return Check(name, State.NOT_CHECKED, f"AWS does not say ({reason}); {wanted}")
    running = _running(account, quota)
    room, summary = allowed - running, f"{wanted}, {running} run already, {allowed} are allowed"
    if most <= room:
        return Check(name, State.OK, summary)
    url = f"https://{account.region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{quota.code}"
    fix = f"fewer or smaller nodes (max_workers), or ask AWS for more, which takes hours to days: {url}"
    where = account.cluster.where("max_workers")
    if least <= room:
        return warning(name, f"{summary}: not all workers would come", where=where, fix=fix)
    return failed(name, f"{summary}: not even head and min_workers would come", where=where, fix=fix)


def _running(account: Account, quota: Quota) -> int:
    """Return the virtual CPUs that run under `quota`, without those of this very cluster: Ray would use them."""
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    running: Counter[str] = Counter()
    for reservation in account.pages("describe_instances", "Reservations", Filters=states):
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())}
            spot = instance.get("InstanceLifecycle") == "spot"
            if _quota(instance["InstanceType"], spot) == quota and tags.get(CLUSTER_TAG) != account.cluster.name:
                running[instance["InstanceType"]] += 1
    return sum(count * _cpus(describe_type(account, kind)) for kind, count in running.items())


def _cpus(described: dict[str, Any] | None) -> int:
    return int(described["VCpuInfo"]["DefaultVCpus"]) if described else 0
