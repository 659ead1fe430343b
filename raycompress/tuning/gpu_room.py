"""Who is on a GPU at the same time: trials that ask for a part of one share it; one may have it to itself.

A trial that runs out of a GPU's memory beside others may well fit alone. Ray cannot give it the whole GPU as long as
the other slots hold their parts of it, busy or idle; so this is settled on the node, by locks that end with their
process.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from raycompress.script.node import locked

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@contextmanager
def room(environment: Mapping[str, str], *, alone: bool) -> Iterator[None]:
    """Be on the GPUs that `environment` shows, with others or alone; waits until that is possible.

    Who waits to be alone keeps others from coming in, so that it is not passed over for ever.
    """
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    devices = {device for name in VISIBLE for device in environment.get(name, "").split(",") if device}
    with ExitStack() as stack:
        for device in sorted(devices):  # in one order for all, or two could wait for each other
            name = device.replace("/", "-")
            with locked(f"gpu-{name}.door"):
                stack.enter_context(locked(f"gpu-{name}.room", kind))
        yield
