"""How large a model was before any pruner made it small."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.pruning import refusals

CHANGED: WeakKeyDictionary[nn.Module, measure.Sizes] = WeakKeyDictionary()
"""A model that a pruner has made small -> what it was before the first of them."""


class DenseSizes:
    """The sizes of one model before it is pruned; its multiply-adds are counted once."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._counted: tuple[Example, int] | None = None  # multiply-adds

    def check_input(self, example: Example) -> Example:
        """Return `example`; CompressionError where the model cannot be called with it."""
        try:
            if example.batch == 1:
                self._counted = example, measure.flops(self._model, example)[""]
            else:
                example.outputs(self._model)
        except Exception as error:
            raise refusals.not_callable(self._model, error) from error
        return example

    def of(self, example: Example) -> measure.Sizes:
        """Return what the model was before it was made small, or is."""
        if self._model in CHANGED:
            return CHANGED[self._model]
        if self._counted is None or self._counted[0] is not example:
            return measure.sizes(self._model, example)
        return measure.Sizes(measure.parameters(self._model), self._counted[1], measure.size_bytes(self._model))

    def keep(self, sizes: measure.Sizes) -> None:
        """Remember what the model was: it is made small now."""
        CHANGED[self._model] = sizes
