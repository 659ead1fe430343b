"""Ray without the parts that a search on one machine never asks: half its processes, and the wait for them.

Those are the server of its dashboard, which runs without a dashboard too, the autoscaler's monitor, and the monitor
that brings the workers' output to the driver. ``ray.init`` has no switch for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LEFT_OUT = ("start_api_server", "start_monitor", "start_log_monitor")


@contextmanager
def lean() -> Iterator[None]:
    """Have a ``ray.init`` inside start none of them; a Ray that knows them by other names starts all."""
    from ray._private.node import Node

    starts = {name: getattr(Node, name) for name in _LEFT_OUT if hasattr(Node, name)}
    for name in starts:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(Node, name, start)


def _start_nothing(node: Any, *_: Any, **__: Any) -> None:
    node._webui_url = None  # which the server's start would have set
