"""Slots: as many trial actors as trials run at a time, each kept from its first trial to the end of the search.

Tune reuses actors by itself, but in a search of short trials it hands a free actor to a trial whose own is still
starting, and throws that one away; or it throws away the free one. Starting an actor takes seconds, so such a search
would spend its time on starting actors. Here each trial belongs to a slot, and a slot keeps its actor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import PlacementGroupFactory
from ray.tune.execution import tune_controller

from raycompress.experiment.schema import Resources
from raycompress.tuning import plan


def request(resources: Resources, slot: int) -> PlacementGroupFactory:
    """Return what a trial in `slot` asks Ray for.

    Tune takes actors with equal requests for interchangeable; a few bytes of memory tell the slots apart.
    """
    bundle = plan.request(resources)
    return PlacementGroupFactory([{**bundle, "memory": bundle.get("memory", 0) + slot + 1}])


@contextmanager
def kept_actors() -> Iterator[None]:
    """Have Tune keep each slot's actor between trials, for a search that is made and run inside.

    Tune has no setting for it: its cache of free actors, a private class, is replaced.
    """
    module: Any = tune_controller
    original = module._ObjectCache
    module._ObjectCache = _FreeActors
    try:
        yield
    finally:
        module._ObjectCache = original


class _FreeActors:
    """Tune's cache of free actors, without its bounds: what is free is kept until Tune clears the whole cache."""

    def __init__(self, may_keep_one: bool = True) -> None:
        self._free: dict[Any, list[Any]] = defaultdict(list)

    @property
    def num_cached_objects(self) -> int:
        return sum(map(len, self._free.values()))

    @property
    def total_max_objects(self) -> int:
        return 0

    def increase_max(self, key: Any, by: int = 1) -> None:
        """Nothing: there is no bound."""

    def decrease_max(self, key: Any, by: int = 1) -> None:
        """Nothing: there is no bound."""

    def has_cached_object(self, key: Any) -> bool:
        return bool(self._free[key])

    def cache_object(self, key: Any, obj: Any) -> bool:
        self._free[key].append(obj)
        return True

    def pop_cached_object(self, key: Any) -> Any:
        return self._free[key].pop(0) if self._free[key] else None

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        if force_all:
            for actors in self._free.values():
                while actors:
                    yield actors.pop(0)
