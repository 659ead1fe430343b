"""Work that is no trial, spread over Ray's nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray


def spread(
    function: Callable[..., Iterator[Any]], calls: Sequence[tuple[Any, ...]], resources: Mapping[str, float]
) -> Iterator[tuple[int, Any]]:
    """Make each call of a generator function in a process of its own, wherever Ray has room; yield what they yield.

    Parameters
    ----------
    resources
        What one call asks for, by Ray's own names; memory in bytes.

    Yields
    ------
    The place of the call in `calls`, and an item; each call's items in their order.
    """
    own = dict(resources)
    task: Any = ray.remote(num_returns="streaming", max_retries=2)(function)
    task = task.options(
        num_cpus=own.pop("CPU", 0), num_gpus=own.pop("GPU", 0), memory=own.pop("memory", 0), resources=own
    )
    streams: dict[int, Any] = {place: task.remote(*call) for place, call in enumerate(calls)}
    while streams:
        for place in list(streams):
            try:
                item = next(streams[place])
            except StopIteration:
                del streams[place]
                continue
            yield place, ray.get(item)
