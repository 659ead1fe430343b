"""A choice that can only be made once an input of the model is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raycompress.bundle.example import Example
from raycompress.compressors.pruning.engine import Choice


def _nothing(_example: Example) -> Choice:
    return Choice()


@dataclass(frozen=True)
class DeferredChoice(Choice):
    """What an engine will choose, given an input; `raycompress.compressors.structure.slicing.make` asks for it.

    Attributes
    ----------
    choose
        Makes the choice.
    """

    choose: Callable[[Example], Choice] = _nothing
