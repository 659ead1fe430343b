"""`ChannelDependency` of the old tool: the layers whose output channels are tied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from raycompress.compressors.analysis.targets import channel_dependency


class ChannelDependency:
    """Which layers' output channels go together; see `raycompress.analysis.channel_dependency`.

    Parameters
    ----------
    model, dummy_input
        The model, and a tensor with the batch first that it is called with. Further arguments of NNI's class have no
        meaning here.

    Raises
    ------
    CompressionError
        The model's channels cannot be followed.
    """

    def __init__(self, model: nn.Module, dummy_input: Any, *_ignored: Any, **_more: Any) -> None:
        self._found = channel_dependency(model, dummy_input)

    @property
    def dependency_sets(self) -> list[set[str]]:
        """The sets of tied layers; a layer that is coupled to none is a set of its own."""
        return [set(members) for members in self._found.sets]

    def export(self, filepath: str | Path) -> None:
        """Write a CSV file with a row a set."""
        self._found.write_csv(filepath)
