"""One input of a Keras model, and the inputs that a script gives to its model while it trains and evaluates."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycompress.compressors.keras.layers import Array

CALIBRATION = 100
"""How many inputs are kept to choose the ranges of an int8 model by."""

_METHODS = ("fit", "evaluate", "predict")


@dataclass(frozen=True)
class KerasExample:
    """What a model is called with, batch dimension first.

    Attributes
    ----------
    inputs
        An array, or a list, tuple or dict of them, as in ``model(inputs)``.
    """

    inputs: Any

    @property
    def arrays(self) -> list[Array]:
        """The arrays, in order."""
        return _leaves(self.inputs)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each array, batch dimension first."""
        return tuple(array.shape for array in self.arrays)

    def __len__(self) -> int:
        return min((len(array) for array in self.arrays), default=0)

    def part(self, start: int, stop: int) -> KerasExample:
        """Return some members of the batch."""
        return KerasExample(map_arrays(self.inputs, lambda array: array[start:stop]))

    def outputs(self, model: Any) -> list[Array]:
        """Return the output arrays of the model, not in training."""
        return [np.asarray(array) for array in _leaves(call(model, self.inputs))]

    def to_json(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the structure as plain JSON data, and the arrays that it names."""
        number = itertools.count()
        arrays: dict[str, Array] = {}

        def describe(value: Any) -> Any:
            if isinstance(value, dict):
                return {"dict": {key: describe(member) for key, member in value.items()}}
            if isinstance(value, (list, tuple)):
                return {"list": [describe(member) for member in value]}
            name = f"input.{next(number)}"
            arrays[name] = np.ascontiguousarray(value)
            return {"tensor": name}

        return {"inputs": describe(self.inputs)}, arrays

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> KerasExample:
        """Rebuild what `to_json` returned; raises KeyError, TypeError or ValueError on data that is not that."""

        def rebuild(value: Any) -> Any:
            ((kind, held),) = value.items()
            if kind == "tensor":
                return arrays[held]
            if kind == "dict":
                return {key: rebuild(member) for key, member in held.items()}
            if kind == "list":
                return [rebuild(member) for member in held]
            raise KeyError(kind)

        return cls(rebuild(data["inputs"]))


def call(model: Any, inputs: Any) -> Any:
    """Return the outputs of `model`, not in training."""
    import inspect

    takes_training = "training" in inspect.signature(type(model).call).parameters
    return model(inputs, training=False) if takes_training else model(inputs)


def example_from(data: Any, limit: int) -> KerasExample | None:
    """Return at most `limit` inputs out of data in any form that Keras accepts; None where there is no data to be read.

    Parameters
    ----------
    data
        Arrays or tensors, a list, tuple or dict of them, or a ``tf.data.Dataset`` of (inputs, ...) batches.
    """
    if hasattr(data, "element_spec") and hasattr(data, "take"):
        return _of_dataset(data, limit)
    if data is None or not _is_data(data):
        return None
    example = KerasExample(map_arrays(data, np.asarray))
    return example.part(0, limit) if len(example) else None


def spec_example(model: Any, seed: int = 0) -> KerasExample | None:
    """Return an input made up from the shapes that the model was built for; None where these are not known.

    Floats are standard normal, integers zero.
    """
    structure = _spec(model)
    generator = np.random.default_rng(seed)

    def make(spec: Any) -> Array:
        shape = (1, *(int(size) for size in tuple(spec.shape)[1:]))
        dtype = np.dtype(getattr(spec.dtype, "as_numpy_dtype", spec.dtype))
        if np.issubdtype(dtype, np.floating):
            return generator.standard_normal(shape).astype(dtype)
        return np.zeros(shape, dtype)

    if structure is None or any(size is None for spec in _leaves(structure) for size in tuple(spec.shape)[1:]):
        return None
    return KerasExample(map_arrays(structure, make))


@dataclass(frozen=True)
class _Spec:
    shape: tuple[int | None, ...]
    dtype: str = "float32"


def _spec(model: Any) -> Any:
    """Return the structure of the model's inputs with shapes and dtypes, as far as Keras remembers it."""
    for name in ("_inputs_struct", "_nested_inputs"):  # of a functional model, in Keras 3 and tf_keras
        if getattr(model, name, None) is not None:
            return getattr(model, name)
    if getattr(model, "inputs", None):
        return model.inputs[0] if len(model.inputs) == 1 else model.inputs
    if hasattr(model, "save_spec"):  # tf_keras
        spec = model.save_spec()
        positional = [] if spec is None else spec[0]
        return positional[0] if len(positional) == 1 else None
    shapes = list((getattr(model, "_build_shapes_dict", None) or {}).values())
    if len(shapes) != 1 or not isinstance(shapes[0], (tuple, list)) or not shapes[0]:
        return None
    shape = tuple(shapes[0])
    return _Spec(shape) if all(size is None or isinstance(size, int) for size in shape) else None


class InputWatch:
    """Keeps the first inputs that the script gives to its model, by ``model(...)``, fit, evaluate or predict.

    Parameters
    ----------
    limit
        How many to keep; then, or with `release`, the model is left alone.
    learn
        Called once with the first of them.
    """

    def __init__(self, limit: int, learn: Callable[[KerasExample], None] | None = None) -> None:
        self._limit = limit
        self._learn = learn
        self._patched: Any = None
        self.examples: list[KerasExample] = []

    def watch(self, model: Any) -> InputWatch:
        """Wait for inputs of `model`."""
        import tensorflow as tf

        self.release()
        self._patched = model
        note = tf.autograph.experimental.do_not_convert(self._note)
        for name in ("call", *_METHODS):
            setattr(model, name, _noting(getattr(model, name), note))
        return self

    def release(self) -> None:
        """Remove the hooks."""
        model, self._patched = self._patched, None
        for name in ("call", *_METHODS) if model is not None else ():
            if name in vars(model):
                delattr(model, name)

    def _note(self, data: Any) -> None:
        missing = self._limit - sum(len(example) for example in self.examples)
        example = example_from(data, missing) if missing > 0 else None
        if example is None:
            return
        self.examples.append(example)
        if len(example) == missing:
            self.release()
        learn, self._learn = self._learn, None
        if learn is not None:
            learn(example)


def _noting(method: Callable[..., Any], note: Callable[[Any], None]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        if len(args) > 0:
            note(args[0])
        else:
            note(kwargs.get("x"))
        return method(*args, **kwargs)

    return noted


def singles(examples: Iterable[KerasExample]) -> list[KerasExample]:
    """Return the members of batches, each as a batch of one."""
    return [example.part(index, index + 1) for example in examples for index in range(len(example))]


def _of_dataset(data: Any, limit: int) -> KerasExample | None:
    for element in data.take(1):
        return example_from(element[0] if isinstance(element, tuple) else element, limit)
    return None


def _is_data(value: Any) -> bool:
    """Whether all arrays in `value` have values: those of a graph that is being traced have none."""
    tensorflow: Any = sys.modules.get("tensorflow")
    leaves = _leaves(value)
    return bool(leaves) and all(
        (isinstance(leaf, np.ndarray) and leaf.ndim > 0)
        or (isinstance(leaf, tensorflow.Tensor) and not tensorflow.is_symbolic_tensor(leaf) and leaf.ndim > 0)
        for leaf in leaves
    )


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for member in value.values() for leaf in _leaves(member)]
    if isinstance(value, (list, tuple)):
        return [leaf for member in value for leaf in _leaves(member)]
    return [value]


def map_arrays(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return `value` with each array in it replaced by ``change(array)``; a tuple becomes a list."""
    if isinstance(value, Mapping):
        return {key: map_arrays(member, change) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_arrays(member, change) for member in value]
    return change(value)
