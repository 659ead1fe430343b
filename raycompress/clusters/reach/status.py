"""How a cluster stands, in Ray's own words."""

from __future__ import annotations

import shlex

from raycompress.clusters.reach.launcher import Launcher
from raycompress.clusters.ship.prepared import activation
from raycompress.errors import ClusterError


def ray_status(launcher: Launcher) -> str:
    """Return what ``ray status`` prints on the head.

    Raises
    ------
    ClusterError
        The head does not answer, or Ray does not run there.
    """
    head = launcher.head()
    command = f"{activation(launcher.data)}RAY_AUTH_MODE=token ray status"
    done = launcher.ssh.run(head, f"bash --login -c {shlex.quote(command)}")
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip().splitlines()
        raise ClusterError(
            f"the cluster does not say how it stands: {output[-1] if output else 'no answer'}",
            where=head,
            fix="`raycompress cluster down` ends what may still run",
        )
    return done.stdout.strip()
