"""What a cluster file must not do: open Ray to the world, or start it without authentication."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from raycompress.clusters.mistake import Keys, Mistake

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN = re.compile(r"RAY_AUTH_MODE=[\"']?token\b")
_START = re.compile(r"\bray\s+start\b")
_HOST = re.compile(r"--dashboard-host(?:=|\s+)[\"']?([^\s\"';&]*)")
_STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
_SSH = 22


def mistakes(data: dict[str, Any]) -> list[Mistake]:
    """Return what would open the cluster, and what would keep its head from starting as it should."""
    found = [mistake for key in _STARTS for mistake in _start_commands(data, key)]
    group = _object(_object(data, "provider"), "security_group")
    keys: Keys = ("provider", "security_group", "IpPermissions")
    for index, rule in enumerate(_items(group, "IpPermissions")):
        found += [Mistake((*keys, index), what, _CLOSE) for what in open_ports(rule)]
    return found


_CLOSE = "remove the rule: the dashboard and the jobs go through SSH (`raycompress cluster dashboard`)"


def _start_commands(data: dict[str, Any], key: str) -> Iterator[Mistake]:
    commands = [str(command) for command in _items(data, key)]
    if not commands:
        fix = "copy them from a shipped file: `raycompress cluster init`"
        yield Mistake((), f"no {key}: Ray's own start without authentication, on some clouds for everybody", fix)
        return
    starts = [(index, command) for index, command in enumerate(commands) if _START.search(command)]
    if not starts:
        yield Mistake((key,), "none of these commands starts Ray", 'add one with "ray start"')
    for index, command in starts:
        yield from _start(data, key, index, command)


def _start(data: dict[str, Any], key: str, index: int, command: str) -> Iterator[Mistake]:
    keys = (key, index)
    for host in _HOST.findall(command):
        if host not in LOOPBACK:
            what = f"the dashboard, and who may start jobs, would be open to the network: --dashboard-host={host}"
            yield Mistake(
                keys, what, "--dashboard-host=127.0.0.1; `raycompress cluster dashboard` opens a tunnel to it"
            )
    if not TOKEN.search(command) and not _token_elsewhere(data):
        fix = 'begin the command with "export RAY_AUTH_MODE=token; "'
        yield Mistake(keys, "Ray would start without token authentication: whoever reaches it may run code", fix)
    if key == _STARTS[0]:
        if "--head" not in command:
            yield Mistake(keys, "this starts no head", "add --head")
        if "--autoscaling-config" not in command:
            fix = "add --autoscaling-config=~/ray_bootstrap_config.yaml"
            yield Mistake(keys, "the head would start no workers: --autoscaling-config is missing", fix)
    elif "--address" not in command:
        yield Mistake(keys, "the workers would not find the head", "add --address=$RAY_HEAD_IP:6379")


def _token_elsewhere(data: dict[str, Any]) -> bool:
    """Tell whether containers are given the mode; each command has a shell of its own, so an export does not last."""
    options = _items(_object(data, "docker"), "run_options")
    return any(TOKEN.search(str(option)) for option in options)


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the object at `key`; what is none is the schema's to tell."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _items(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []


def open_ports(rule: Any) -> list[str]:
    """Return how a rule of a security group opens more than SSH to public addresses, in words; empty if it does not."""
    if not isinstance(rule, dict):
        return ["a rule of IpPermissions must be an object"]
    low, high = rule.get("FromPort", 0), rule.get("ToPort", 65535)
    if str(rule.get("IpProtocol")) == "tcp" and low == high == _SSH:
        return []
    ports = "every port" if (low, high) == (0, 65535) else f"port {low}" if low == high else f"ports {low} to {high}"
    ranges = [
        str(block.get(key))
        for key, name in (("CidrIp", "IpRanges"), ("CidrIpv6", "Ipv6Ranges"))
        for block in rule.get(name) or ()
        if isinstance(block, dict)
    ]
    return [f"{ports} would be open to {block}" for block in ranges if not _private(block)]


def _private(block: str) -> bool:
    try:
        network = ipaddress.ip_network(block, strict=False)
    except ValueError:
        return False
    return network.is_private and network.prefixlen > 0
