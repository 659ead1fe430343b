"""Another machine as the device of a target: ssh's call, the sending of the agent, and what ssh's refusals mean."""

from __future__ import annotations

import base64
import shlex
from importlib import resources
from typing import IO

from raycompress.deployment import package, receive
from raycompress.deployment.agent import frames
from raycompress.deployment.target import DeploymentTarget

SSH_FAILED = 255
"""ssh's own exit status; any other is the one of what ran on the device."""
_NOT_FOUND = (126, 127)
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "4",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "LogLevel": "ERROR",
}
"""On top of the person's own ~/.ssh/config, whose keys, jumps and known hosts count."""


def command(target: DeploymentTarget, make: str) -> list[str]:
    """Return the call of ssh that starts the agent on the device.

    What it runs there is one line without quotes inside, which every login shell reads alike.

    Parameters
    ----------
    make
        ``module:Class`` of the runtime.
    """
    source = resources.files("raycompress.deployment").joinpath("receive.py").read_bytes()
    code = f'exec(__import__("base64").b64decode("{base64.b64encode(source).decode()}").decode())'
    words = ["-c", code, package.version(), str(len(package.content())), make]
    flags = [word for name, value in _OPTIONS.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-T", *flags, target.device, f"{python_of(target)} {shlex.join(words)}"]


def python_of(target: DeploymentTarget) -> str:
    """Return the device's Python as a shell reads it; a leading ``~/`` stays the home folder."""
    python = target.device_python or "python3"
    return f"~/{shlex.quote(python[2:])}" if python.startswith("~/") else shlex.quote(python)


def send(source: IO[bytes], sink: IO[bytes]) -> None:
    """Give the device the agent, if it has not got this version; EOFError where the connection ends before."""
    answer, _ = frames.read(source)
    if not answer["has"]:
        sink.write(package.content())
        sink.flush()


def problem(target: DeploymentTarget, status: int | None, output: str) -> tuple[str, str, bool]:
    """Return what is wrong, its fix, and whether it may pass by itself, of an ssh that ended before the agent spoke.

    Parameters
    ----------
    status
        ssh's exit status; None where it was ended because nothing came.
    output
        What it printed.
    """
    last = output.strip().splitlines()[-1] if output.strip() else ""
    login = f"ssh {target.device}"
    if status in _NOT_FOUND:
        return (
            f"there is no {python_of(target)} on {target.host}: {last}",
            'install Python there, or name it: "device_python": "/path/to/bin/python" in the target',
            False,
        )
    if status == receive.TOO_OLD:
        oldest = ".".join(map(str, receive.OLDEST))
        return (
            f"the Python of {target.host} is older than {oldest}",
            f'name another: "device_python": "/path/to/bin/python{oldest}" in the target',
            False,
        )
    if status is None:
        what = f"{target.host} answers, and starts nothing: its login waits for something, or it is very slow"
        return what, f"see what `{login} true` waits for", True
    if status != SSH_FAILED:
        return (
            f"the agent does not start on {target.host}: {last or f'status {status}'}",
            f"see that it has room and memory: `{login} df`",
            True,
        )
    for mark, what, fix, may_pass in _REFUSALS:
        if mark in output:
            return what.format(host=target.host, last=last), fix.format(login=login, host=_bare(target)), may_pass
    what = f"{target.host} cannot be reached: {last or 'no answer'}"
    return what, f"see that it runs and that sshd does there: `{login}`", True


def _bare(target: DeploymentTarget) -> str:
    """Return the device as known_hosts names it: ``[host]:port`` where it has a port of its own."""
    host, _, port = target.host.rpartition("@")[2].partition(":")
    return f"'[{host}]:{port}'" if port else host


_REFUSALS = (
    (
        "IDENTIFICATION HAS CHANGED",
        "the key of {host} is not the one that is known: another machine answers, or it was installed anew",
        "if it was installed anew: `ssh-keygen -R {host}`, then `{login}` once, and compare the key",
        False,
    ),
    ("Host key verification failed", "the key of {host} is not known", "`{login}` once, and compare the key", False),
    (
        "Permission denied",
        "{host} does not let us in: {last}",
        "a key that needs no question: `ssh-copy-id` puts yours there, ssh-agent holds its passphrase; try `{login}`",
        False,
    ),
    (
        "Could not resolve",
        "{host} cannot be reached: {last}",
        "check the name in the target's device, or add it to ~/.ssh/config",
        True,
    ),
)
