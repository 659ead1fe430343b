"""An agent that lasts: one that is lost is started again, given the models that it had, and asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

from raycompress.deployment.agent.frames import Array
from raycompress.deployment.client import Agent, Files, LostAgentError, UnreachableError
from raycompress.deployment.target import AWAY, DeploymentTarget
from raycompress.errors import DeploymentError

PATIENCE_S = 300.0
"""How long a device may be away, such as while it boots."""
_LONGEST_PAUSE_S = 15.0
_WARM_UP = 5
"""Passes before the first that is timed of an agent that was started again."""
_RESTARTS_HERE, _RESTARTS_THERE = 1, 3
"""How often an agent that ended by itself is started again for one request: when a device shuts down, it may end before
the connection does."""

T = TypeVar("T")


class LastingAgent(Agent):
    """An agent whose requests are repeated when it, or the connection to it, is lost.

    Parameters
    ----------
    target, converting, running
        As in `Agent`.
    patience_s
        How long a connection that is lost is tried again, in seconds.
    waits_at_start
        Whether a device that cannot be reached at the beginning is waited for as well. Of one that was never reached
        the name is wrong more often than it is away.

    Attributes
    ----------
    notes
        What happened, a line each, for whoever reads the results.

    Raises
    ------
    DeploymentError
        The agent was lost again and again, or the device did not come back in time.
    """

    def __init__(
        self,
        target: DeploymentTarget,
        *,
        converting: bool = True,
        running: bool = True,
        patience_s: float = PATIENCE_S,
        waits_at_start: bool = False,
    ) -> None:
        super().__init__(target, converting=converting, running=running)
        self.notes: list[str] = []
        self._loaded: dict[str, Files] = {}
        self._is_fresh = False
        self._patience_s, self._waits_at_start = patience_s, waits_at_start

    def __enter__(self) -> Self:
        if not self._waits_at_start:
            return super().__enter__()
        self._repeated(lambda: None)
        return self

    def convert(
        self, source: bytes, samples: Sequence[Sequence[Array]] = (), *, as_it_is: bool = False
    ) -> tuple[Files, float]:
        """See `Agent.convert`."""
        once = super().convert
        return self._repeated(lambda: once(source, samples, as_it_is=as_it_is))

    def load(self, key: str, files: Files) -> float | None:
        """See `Agent.load`."""
        once = super().load
        memory = self._repeated(lambda: once(key, files))
        self._loaded[key] = files
        return memory

    def drop(self, key: str) -> None:
        """See `Agent.drop`."""
        self._loaded.pop(key, None)
        once = super().drop
        self._repeated(lambda: once(key))

    def run(self, key: str, inputs: Sequence[Array]) -> list[Array]:
        """See `Agent.run`."""
        once = super().run
        return self._repeated(lambda: once(key, inputs))

    def time(
        self, keys: Sequence[str], inputs: Sequence[Array], *, rounds: int, warm_up: int, seconds: float
    ) -> list[list[tuple[float, float]]]:
        """See `Agent.time`; of a block that was lost nothing is kept."""
        once = super().time

        def act() -> list[list[tuple[float, float]]]:
            warm = max(warm_up, _WARM_UP if self._is_fresh else 0)
            found = once(keys, inputs, rounds=rounds, warm_up=warm, seconds=seconds)
            self._is_fresh = False
            return found

        return self._repeated(act)

    def ping(self) -> None:
        """See `Agent.ping`."""
        self._repeated(super().ping)

    def _repeated(self, act: Callable[[], T]) -> T:
        """Return what `act` does, with an agent that is started, and has its models, where it is not."""
        patience = _Patience(self._patience_s, _RESTARTS_THERE if self.target.host else _RESTARTS_HERE)
        while True:
            try:
                self._start_if_lost()
                found = act()
            except LostAgentError as error:
                self.close()
                time.sleep(patience.pause(error))
                continue
            if patience.tries:
                self.notes.append(f"{patience.first}; repeated after {patience.seconds:.0f} s")
            return found

    def _start_if_lost(self) -> None:
        if self._process is not None:
            return
        try:
            self._start()
            self._is_fresh = True
            for key, files in self._loaded.items():
                super().load(key, files)
        except BaseException:
            self.close()
            raise


class _Patience:
    """How often, and how long, one request is repeated.

    Parameters
    ----------
    seconds
        Bound of the time since the first loss, while the device cannot be reached.
    restarts
        How often the agent may have ended by itself.
    """

    def __init__(self, seconds: float, restarts: int) -> None:
        self._bound, self._restarts = seconds, restarts
        self._begun = time.monotonic()
        self.tries = 0
        self.first = ""

    @property
    def seconds(self) -> float:
        """Seconds since the first loss."""
        return time.monotonic() - self._begun

    def pause(self, error: LostAgentError) -> float:
        """Return how long to wait before the next try; raise an error where there is none."""
        what = error.problems[0].what
        if not self.tries:
            self._begun, self.first = time.monotonic(), what
        self.tries += 1
        is_away = isinstance(error, UnreachableError)
        self._restarts -= not is_away
        if self._restarts < 0 or (is_away and self.seconds >= self._bound):
            again = f" ({self.tries} times in {self.seconds:.0f} s)" if self.tries > 1 else ""
            away = f"{AWAY}: " if is_away else ""
            raise DeploymentError(
                away + what + again, where=error.problems[0].where, fix=error.problems[0].fix
            ) from error
        pause = min(0.5 * float(2 ** (self.tries - 1)), _LONGEST_PAUSE_S)
        return min(pause, max(self._bound - self.seconds, 0.5)) if is_away else pause
