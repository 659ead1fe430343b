"""Masks on a live Keras model: what is pruned stays zero while the script goes on training.

Keras applies a variable's constraint after each update by an optimizer, inside ``fit``'s compiled step and in a custom
loop alike. So a mask is the last constraint of its variable; one that the script had set works before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raycompress.compressors.keras.layers import Array, variables_of
from raycompress.errors import CompressionError


class MaskConstraint:
    """Sets what is removed to zero.

    Parameters
    ----------
    keep
        Tensor or variable of the weight's shape; zero, or False, where the weight is removed.
    before
        The constraint that the variable had, or None.
    """

    def __init__(self, keep: Any, before: Callable[[Any], Any] | None) -> None:
        self.keep = keep
        self.before = before

    def __call__(self, weight: Any) -> Any:
        """Return the weight with what is removed at zero."""
        import tensorflow as tf

        value = tf.convert_to_tensor(weight if self.before is None else self.before(weight))
        return tf.where(tf.cast(self.keep, tf.bool), value, tf.zeros_like(value))


def constrain(variable: Any, keep: Any) -> None:
    """Hold `variable` at zero where `keep` is; a mask that it had is replaced.

    Raises
    ------
    CompressionError
        The variable cannot have a constraint.
    """
    before = variable.constraint
    mask = MaskConstraint(keep, before.before if isinstance(before, MaskConstraint) else before)
    if type(variable).__module__.startswith("keras."):
        variable.constraint = mask
    else:  # tf_keras: a variable of TensorFlow, perhaps inside one that casts
        getattr(variable, "_variable", variable)._constraint = mask
    if variable.constraint is not mask:
        raise CompressionError(
            f"a {type(variable).__name__} cannot have a constraint, so that no mask can be held",
            fix="build a plain model",
        )


def free(variable: Any) -> None:
    """Remove the mask; the weights stay as they are."""
    mask = variable.constraint
    if not isinstance(mask, MaskConstraint):
        return
    if type(variable).__module__.startswith("keras."):
        variable.constraint = mask.before
    else:
        getattr(variable, "_variable", variable)._constraint = mask.before


def forget_compiled_steps(model: Any) -> None:
    """Make ``fit`` trace its training step anew: one that was traced before the masks does not apply them."""
    model.train_function = None


class KerasMasks:
    """The masks of one model.

    Parameters
    ----------
    model
        The user's model; it is changed in place.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: dict[str, Array] = {}

    def hold(self, kept: Mapping[str, Array]) -> None:
        """Hold these masks (variable name -> bool array, True where the weight stays), and apply them."""
        import tensorflow as tf

        variables = variables_of(self._model)
        for name, keep in kept.items():
            if name not in variables or tuple(variables[name].shape) != keep.shape:
                raise CompressionError(
                    f'what goes was decided for another model: "{name}" is not the same in the trial\'s checkpoint',
                    where="compress",
                    fix="build the model from the trial's configuration alone, so that it is the same each time",
                )
        self._kept = dict(kept)
        for name, keep in kept.items():
            constrain(variables[name], tf.constant(keep))
        self.apply()
        forget_compiled_steps(self._model)

    def apply(self) -> None:
        """Set everything that is removed to zero, now."""
        variables = variables_of(self._model)
        for name, keep in self._kept.items():
            value = variables[name].numpy()
            if np.any(value[~keep]):
                variables[name].assign(np.where(keep, value, np.zeros((), value.dtype)))

    def check(self) -> None:
        """Raise CompressionError where a removed weight is not zero: the script has trained around the masks."""
        variables = variables_of(self._model)
        for name, keep in self._kept.items():
            if np.any(variables[name].numpy()[~keep]):
                raise CompressionError(
                    f'removed weights of "{name}" have come back: the training went around the masks',
                    where="the training after compress()",
                    fix="make the tf.function that trains after compress(), update weights by a Keras optimizer, or "
                    "call compressor.step() after each update",
                )

    def kept(self) -> dict[str, Array]:
        """Return ``{layer.variable: uint8 array}``, 1 where the weight stays."""
        return {name: keep.astype(np.uint8) for name, keep in self._kept.items()}
