"""The coupled channels of a model that several steps ask for: it is followed once."""

from __future__ import annotations

from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.structure.graph import ChannelGraph


class GraphCache:
    """Follows a model when it is first asked, and again only for another input or a model that was rebuilt.

    Training changes no coupling, so ranking, slicing and every later step of a schedule share one graph.

    Parameters
    ----------
    model
        The user's model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: tuple[Example, ChannelGraph] | None = None

    def graph(self, example: Example) -> ChannelGraph:
        """Return the coupled channels, as the very object `example` shows them; see `ChannelGraph` for errors."""
        if self._known is None or self._known[0] is not example or not self._known[1].fits():
            self._known = None  # its memory is free before the model is followed again
            self._known = example, ChannelGraph(self._model, example)
        return self._known[1]

    def clear(self) -> None:
        """Forget the graph: the model was sliced."""
        self._known = None
