"""Slots: as many trial actors as trials run at a time, each kept from its first trial to the end of the search.

Tune reuses actors by itself, but in a search of short trials it hands a free actor to a trial whose own is still
starting, and throws that one away; or it throws away the free one. Starting an actor takes seconds, so such a search
would spend its time on starting actors. Here each trial belongs to a slot, and a slot keeps its actor.

Where a machine of a cluster is lost, there are more slots than Ray has resources for, and idle actors would keep them
from a trial that waits for its own. Then an idle actor is given up, and its slot rests until there is room again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune import PlacementGroupFactory

from raycompress.backend.ray import private
from raycompress.config.options import Resources
from raycompress.search import plan


def request(resources: Resources, slot: int) -> PlacementGroupFactory:
    """Return what a trial in `slot` asks Ray for.

    Tune takes actors with equal requests for interchangeable; a few bytes of memory tell the slots apart.
    """
    bundle = plan.request(resources)
    first = {**bundle, "memory": bundle.get("memory", 0) + slot + 1}
    return PlacementGroupFactory([first, *[bundle] * (resources.workers - 1)], strategy=resources.placement)


class Slots:
    """The slots of a search: which are free, and which rest because Ray has no room for their actors.

    Parameters
    ----------
    resources
        What one trial asks for.
    n
        How many trials run at a time.
    available
        Says what Ray has left, by its own names.

    Attributes
    ----------
    has_lost_an_actor
        Whether one has died, by itself or with its node: before that there is room for all of them.
    """

    def __init__(self, resources: Resources, n: int, available: Callable[[], dict[str, float]]) -> None:
        self._wanted = {name: amount * resources.workers for name, amount in plan.request(resources).items()}
        self._available = available
        self._slot_of = {request(resources, slot): slot for slot in range(n)}
        self._free = list(range(n))
        self._resting: list[int] = []
        self._looked = 0.0
        self.has_lost_an_actor = False

    def room(self) -> int:
        """Return how many slots are free; one that rests is free again once Ray has room for its actor."""
        if not self._free and self._resting and self._has_room():
            self._free.append(self._resting.pop(0))
        return len(self._free)

    def acquire(self) -> int:
        """Return a free slot, which is taken from now on; there is `room`."""
        return self._free.pop(0)

    def give_back(self, slot: int) -> None:
        """Take the slot of a trial that has ended."""
        self._free.append(slot)

    def rest(self, wanted: PlacementGroupFactory) -> None:
        """Take note that the actor of a slot was given up: it asked for `wanted`."""
        slot = self._slot_of[wanted]
        self._free.remove(slot)
        self._resting.append(slot)

    def _has_room(self) -> bool:
        if time.monotonic() - self._looked < _PATIENCE_S:
            return False
        self._looked = time.monotonic()
        have = self._available()
        return all(have.get(name, 0.0) >= amount for name, amount in self._wanted.items())


_PATIENCE_S = 10.0
"""An actor starts within seconds: one that has not after this time waits for resources that others hold."""


@contextmanager
def kept_actors(slots: Slots) -> Iterator[None]:
    """Have Tune keep each slot's actor between trials, for a search that is made and run inside.

    Tune has no setting for it. Nor does it know that a free actor may be dead by the time a trial is given it: there it
    would end the trial, which is begun again here. A node that is lost, as spot machines are, is no failure of its
    trials, however often.
    """
    with private.actor_cache(lambda: _FreeActors(slots)), private.trials_of_dead_actors_begun_again(_is_loss_of_node):
        yield


def _is_loss_of_node(error: Any) -> bool:
    """Tell whether an actor is gone with its node, and not by itself."""
    gone = isinstance(error, RayActorError) and ("node has died" in str(error) or "node was terminated" in str(error))
    return gone or isinstance(error, ActorUnavailableError)  # as it is called before Ray knows that the node is gone


class _FreeActors:
    """Tune's cache of free actors, without its bounds: what is free is kept until Tune clears the whole cache.

    The one exception: see the module.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._free: dict[Any, list[Any]] = defaultdict(list)
        self._waiting: dict[Any, float] = {}

    @property
    def num_cached_objects(self) -> int:
        return sum(map(len, self._free.values()))

    @property
    def total_max_objects(self) -> int:
        return 0

    def increase_max(self, key: Any, by: int = 1) -> None:
        """A trial waits for its actor; there is no bound that would rise."""
        self._waiting.setdefault(key, time.monotonic())

    def decrease_max(self, key: Any, by: int = 1) -> None:
        """A trial has its actor."""
        self._waiting.pop(key, None)

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
            return
        now = time.monotonic()
        if self._slots.has_lost_an_actor and any(
            now - since > _PATIENCE_S and not self._free[key] for key, since in self._waiting.items()
        ):
            idle = next((key for key, actors in self._free.items() if actors and key not in self._waiting), None)
            if idle is not None:
                self._slots.rest(idle)
                yield self._free[idle].pop(0)
