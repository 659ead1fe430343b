"""Security checks of a cluster file: Ray must not be public, nor run without authentication."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from raycompress.clusters.file.schema import Keys, Mistake

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MODE = re.compile(r"RAY_AUTH_MODE=[\"']?(\w+)")
_START = re.compile(r"\bray\s+start\b")
_HOST = re.compile(r"--dashboard-host(?:=|\s+)[\"']?([^\s\"';&]*)")
_STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
_SETUPS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
_PUBLISHES = re.compile(r"(?:^|\s)(?:-p|-P|--publish(?:-all)?)(?=[=\s]|$)")
_SSH = 22


def mistakes(data: dict[str, Any]) -> list[Mistake]:
    """Return what would open the cluster, and what would keep its head from starting as it should."""
    found = [mistake for key in _STARTS for mistake in _start_commands(data, key)]
    found += [*_without_token(data), *_published(data)]
    group = _object(_object(data, "provider"), "security_group")
    keys: Keys = ("provider", "security_group", "IpPermissions")
    for index, rule in enumerate(_items(group, "IpPermissions")):
        found += [Mistake((*keys, index), what, _CLOSE) for what in open_ports(rule)]
        if _is_rays_own(rule):
            what = "Ray opens port 22 by itself, and ends with InvalidPermission.Duplicate where a file does so too"
            found.append(Mistake((*keys, index), what, "leave this rule out"))
    return found


def _is_rays_own(rule: Any) -> bool:
    ranges = rule.get("IpRanges") if isinstance(rule, dict) else None
    blocks = [block.get("CidrIp") for block in ranges or () if isinstance(block, dict)]
    return "0.0.0.0/0" in blocks and rule.get("FromPort") == rule.get("ToPort") == _SSH


_CLOSE = "leave it out: the dashboard and the jobs go through SSH (`raycompress cluster dashboard`)"


def _start_commands(data: dict[str, Any], key: str) -> Iterator[Mistake]:
    commands = [str(command) for command in _items(data, key)]
    if not commands:
        fix = "copy them from a file that works: `raycompress cluster init`"
        yield Mistake((), f"there are no {key}, which say how Ray's Python is entered on a node", fix)
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
    if key == _STARTS[0]:
        if "--head" not in command:
            yield Mistake(keys, "this starts no head", "add --head")
        if "--autoscaling-config" not in command:
            fix = "add --autoscaling-config=~/ray_bootstrap_config.yaml"
            yield Mistake(keys, "the head would start no workers: --autoscaling-config is missing", fix)
    elif "--address" not in command:
        yield Mistake(keys, "the workers would not find the head", "add --address=$RAY_HEAD_IP:6379")


def _without_token(data: dict[str, Any]) -> Iterator[Mistake]:
    """Find where the token is switched off; where nothing is said of it, `prepared.prepare` switches it on."""
    for key in (*_STARTS, *_SETUPS):
        for index, command in enumerate(_items(data, key)):
            for mode in _MODE.findall(str(command)):
                if mode != "token":
                    what = f"Ray would start without token authentication: RAY_AUTH_MODE={mode}"
                    yield Mistake((key, index), what, "write RAY_AUTH_MODE=token: whoever reaches Ray may run code")


def _published(data: dict[str, Any]) -> Iterator[Mistake]:
    docker = _object(data, "docker")
    for key in ("run_options", "head_run_options", "worker_run_options"):
        for index, option in enumerate(_items(docker, key)):
            if _PUBLISHES.search(str(option)):
                yield Mistake(("docker", key, index), f"a port of the container would be open: {option}", _CLOSE)


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
    if str(rule.get("IpProtocol")).lower() == "tcp" and low == high == _SSH:
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
