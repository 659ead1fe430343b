"""How fast a device runs the dense model, over many measurements: by it a device that throttles is noticed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

SLOWER = 1.1
"""How many times its usual time the dense model may take before the device counts as slowed down."""


ACCEPTED_S = 3600.0
"""How long a slower pace that was waited for in vain counts as the usual one."""


class Pace:
    """The median time of the dense model on one device.

    Kept are the fastest that was ever seen, and what was last accepted after waiting in vain: a slower time, or a
    drift within one measurement. For an hour the device is then not waited for again, unless it becomes slower still.

    Parameters
    ----------
    file
        Where they are kept for other processes; None keeps them in this one.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known = self._read()

    def slowdown(self, blocks: Sequence[float]) -> float:
        """Return how many times longer than it should the dense model took.

        Parameters
        ----------
        blocks
            Its median in each block of a measurement, in seconds: a device may slow down within one, too.
        """
        known = self._known
        is_accepted = 0 <= time.time() - known["when"] < ACCEPTED_S
        usual = (known["slow_s"] if is_accepted else known["fastest_s"]) or min(blocks)
        drift = known["drift"] if is_accepted else 1.0
        return max(max(blocks) / min(blocks) / drift, median(blocks) / usual)

    def excess(self, blocks: Sequence[float]) -> float:
        """Return how many times the fastest known time the dense model took."""
        return median(blocks) / (self._known["fastest_s"] or min(blocks))

    def accept(self, blocks: Sequence[float]) -> None:
        """Note a measurement that is kept."""
        known, found = self._known, median(blocks)
        is_slow = self.slowdown(blocks) > SLOWER
        known["fastest_s"] = min(found, known["fastest_s"] or found)
        if is_slow:
            known.update(slow_s=found, drift=max(blocks) / min(blocks), when=time.time())
        if self._file is not None:
            aside = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            aside.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(known))
            aside.replace(self._file)

    def _read(self) -> dict[str, float]:
        known = dict.fromkeys(("fastest_s", "slow_s", "drift", "when"), 0.0)
        try:
            data = json.loads(self._file.read_text()) if self._file is not None else known
            return {name: float(data[name]) for name in known}
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or a broken one: it is learnt anew
            return known
