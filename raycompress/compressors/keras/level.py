"""`level` for Keras models: removes the single weights of smallest magnitude, and keeps them at zero in training."""

from __future__ import annotations

from typing import Any

import numpy as np

from raycompress.catalog.rounding import removed_count
from raycompress.compressors.keras.base import ActiveCompressor
from raycompress.compressors.keras.export import Saved
from raycompress.compressors.keras.inputs import KerasExample
from raycompress.compressors.keras.layers import Array, layers_of, weights_of
from raycompress.compressors.keras.masks import KerasMasks
from raycompress.compressors.targets.selection import Target
from raycompress.errors import CompressionError


class KerasLevel(ActiveCompressor):
    """Masks the kernels of layers; the model stays the object that it is, as do its class and its names."""

    def start(self) -> Any:
        """Choose the weights, and hold them at zero."""
        layers, before = layers_of(self.model), self._decided_before()
        kept = (
            before["kept"]
            if before is not None
            else {
                f"{name}.{short}": keep_largest(np.asarray(variable.numpy()), target, name)
                for name, target in self.targets.items()
                for short, variable in weights_of(layers[name]).items()
                if target.sparsity > 0
            }
        )
        if not kept:
            raise CompressionError(
                "nothing would be compressed: every sparsity is 0", where="config_list", fix="raise the sparsities"
            )
        self._masks = KerasMasks(self.model)
        self._masks.hold(kept)
        return self.model

    def _decided(self) -> dict[str, Any]:
        return {"kept": {name: keep.astype(bool) for name, keep in self._masks.kept().items()}}

    def step(self) -> None:
        """Apply the masks; needed only where a script updates weights by itself, without an optimizer of Keras."""
        if self._compressed:
            self._masks.apply()

    def settle(self) -> None:
        """Check that the masks held."""
        self._masks.check()

    def saved(self, example: KerasExample) -> Saved:
        """Return the masked model."""
        return self.content(self.model, example, masks=self._masks.kept())


def keep_largest(weight: Array, target: Target, name: str) -> Array:
    """Return a bool array: False for the weights of smallest magnitude.

    Raises
    ------
    CompressionError
        That is none of them.
    """
    count = removed_count(weight.size, target.sparsity)
    if count == 0:
        raise CompressionError(
            f'{target.sparsity:g} of the {weight.size} weights of "{name}" is less than one: nothing goes',
            where=f"config_list[{target.entry}]",
            fix=f"raise the sparsity, or leave {name} out",
        )
    keep = np.ones(weight.size, bool)
    keep[np.argsort(np.abs(weight).ravel(), kind="stable")[:count]] = False
    return keep.reshape(weight.shape)
