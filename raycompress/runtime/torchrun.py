"""The environment that torchrun gives its workers: torch.distributed, accelerate and Lightning read it."""

from __future__ import annotations

import fcntl
import socket
import struct

LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915


def environment(
    rank: int, world: int, *, local_rank: int, local_world: int, node: int, address: str, port: int, run: str
) -> dict[str, str]:
    """Return the variables of one worker.

    Parameters
    ----------
    rank, world
        Its number among all, and how many there are.
    local_rank, local_world
        The same on its machine, whose number is `node`.
    address, port
        Where the first worker waits for the others.
    run
        The name of the run.
    """
    numbers = {
        **{"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_world},
        **{"GROUP_RANK": node, "ROLE_RANK": rank, "ROLE_WORLD_SIZE": world, "MASTER_PORT": port},
        **{"TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0},
    }
    texts = {"MASTER_ADDR": address, "ROLE_NAME": "default", "TORCHELASTIC_RUN_ID": run}
    return {**{name: str(number) for name, number in numbers.items()}, **texts}


def alone(run: str) -> dict[str, str]:
    """Return the variables of the one worker of a run that has no others, on this machine."""
    places = {"local_rank": 0, "local_world": 1, "node": 0, "address": LOOPBACK}
    return {**environment(0, 1, **places, port=free_port(LOOPBACK), run=run), **interface(LOOPBACK)}  # type: ignore[arg-type]


def free_port(address: str) -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def interface(address: str) -> dict[str, str]:
    """Return the variable by which gloo uses the network that has `address`; none where that is not found.

    By itself it takes the one of the machine's name, which may be another than the one that Ray is on.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no such address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return {"GLOO_SOCKET_IFNAME": name}
    return {}
