"""What a cluster file would open to others: Ray runs whatever reaches its ports, so only SSH may be reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raycompress.errors import Problem

Where = Callable[..., str]

_HOST = re.compile(r"--(dashboard-host|metrics-export-host)[= ]+(\S+)")
_HERE = ("127.0.0.1", "localhost", "::1")
_OPEN = re.compile(r"RAY_AUTH_MODE=(?!token\b)(\S+)")
_PUBLISHED = re.compile(r"(?:^|\s)(?:-p|--publish|-P|--publish-all)(?:[= ]+(\S+))?")
_COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
_WORLD = ("0.0.0.0/0", "::/0")
_SSH = 22
_TUNNEL = "leave it on 127.0.0.1: `raycompress cluster dashboard` opens a tunnel to it"


def problems(data: Mapping[str, Any], where: Where) -> Iterator[Problem]:
    """Yield everything in a cluster file that would let others in."""
    for key in _COMMANDS:
        for index, command in enumerate(data.get(key) or ()):
            yield from _of_command(str(command), where(key, index))
    for key, kind in (data.get("available_node_types") or {}).items():
        for index, command in enumerate((kind or {}).get("worker_setup_commands") or ()):
            yield from _of_command(str(command), where("available_node_types", key, "worker_setup_commands", index))
    yield from _of_docker(data.get("docker") or {}, where)
    yield from _of_security_group((data.get("provider") or {}).get("security_group") or {}, where)


def _of_command(command: str, where: str) -> Iterator[Problem]:
    for option, host in _HOST.findall(command):
        if host.strip("'\"") not in _HERE:
            yield Problem(
                f"--{option}={host} would open Ray's dashboard to whoever reaches the machine", where, _TUNNEL
            )
    for mode in _OPEN.findall(command):
        what = f"RAY_AUTH_MODE={mode} would let in whoever reaches the cluster"
        yield Problem(what, where, "write RAY_AUTH_MODE=token, or leave it out: `launch` sets it")


def _of_docker(docker: Mapping[str, Any], where: Where) -> Iterator[Problem]:
    for key in ("run_options", "head_run_options", "worker_run_options"):
        for index, option in enumerate(docker.get(key) or ()):
            if _PUBLISHED.search(str(option)):
                what = f'"{option}" would publish a port of the container'
                yield Problem(what, where("docker", key, index), f"leave it out; {_TUNNEL}")


def _of_security_group(group: Mapping[str, Any], where: Where) -> Iterator[Problem]:
    for index, permission in enumerate(group.get("IpPermissions") or ()):
        ranges = [*(permission.get("IpRanges") or ()), *(permission.get("Ipv6Ranges") or ())]
        addresses = [entry.get("CidrIp") or entry.get("CidrIpv6") for entry in ranges]
        ports = permission.get("FromPort"), permission.get("ToPort")
        if any(address in _WORLD for address in addresses) and ports != (_SSH, _SSH):
            opened = "every port" if ports[0] in (None, -1) else f"the ports {ports[0]} to {ports[1]}"
            yield Problem(
                f"the security group would open {opened} to the world",
                where("provider", "security_group", "IpPermissions", index),
                "open port 22 alone; everything else goes through SSH",
            )
