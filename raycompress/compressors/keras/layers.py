"""The layers and variables of a Keras model by name, of Keras 3 or tf_keras, whatever the class of the model.

The name of a layer is Keras's own; of one inside another it is a path, such as ``encoder.conv1``. A variable is
``layer.kernel``. Nothing here imports a library: the one that made the model is loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycompress.compressors.saving.witness import Fingerprint
from raycompress.compressors.targets.selection import Layers
from raycompress.errors import CompressionError

Array = NDArray[Any]

_WEIGHTS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel", "embeddings")


def library(model: Any) -> ModuleType:
    """Return ``keras`` or ``tf_keras``, the library that made `model`.

    Raises
    ------
    CompressionError
        The model is of Keras 3 on another backend than TensorFlow.
    """
    packages = [kind.__module__.partition(".")[0] for kind in type(model).__mro__ if kind.__name__ == "Model"]
    module = sys.modules[packages[0] if packages else "keras"]
    if module.__name__ == "keras" and module.backend.backend() != "tensorflow":
        raise CompressionError(
            f"the model computes with Keras's backend {module.backend.backend()}",
            where=f"create_compressor, {type(model).__name__}",
            fix="set KERAS_BACKEND=tensorflow before keras is imported",
        )
    return module


def need_weights(model: Any) -> None:
    """Raise CompressionError where `model` has no weights yet."""
    if not model.built or not model.weights:
        raise CompressionError(
            "the model has no weights yet: Keras makes them when a model first meets an input",
            where=f"create_compressor, {type(model).__name__}",
            fix="load the trained weights or call the model once before create_compressor, or pass dummy_input=",
        )


def layers_of(model: Any) -> dict[str, Any]:
    """Return the layers by name, those inside others too; a layer that is used twice is listed once.

    Raises
    ------
    CompressionError
        Two layers with weights have one name.
    """
    found: dict[str, Any] = {}
    for name, layer in _walk(model, "", set()):
        if name in found and layer.weights and found[name].weights:
            raise CompressionError(
                f'two layers are called "{name}"',
                where=f"create_compressor, {type(model).__name__}",
                fix="give each layer a name of its own: Dense(10, name=...)",
            )
        if name not in found or layer.weights:
            found[name] = layer
    return found


def _walk(parent: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    for layer in parent._flatten_layers(include_self=False, recursive=False):
        if id(layer) not in seen:
            seen.add(id(layer))
            name = f"{path}{layer.name}"
            yield name, layer
            yield from _walk(layer, f"{name}.", seen)


def own_variables(layer: Any) -> dict[str, Any]:
    """Return the variables of a layer or a model without those of the layers inside, by their short names."""
    inside = {
        id(variable) for part in layer._flatten_layers(include_self=False, recursive=False) for variable in part.weights
    }
    found: dict[str, Any] = {}
    for variable in layer.weights:
        if id(variable) not in inside:
            name = short = variable.name.rpartition("/")[2].partition(":")[0]
            number = 1
            while name in found:
                name, number = f"{short}_{number}", number + 1
            found[name] = variable
    return found


def variables_of(model: Any) -> dict[str, Any]:
    """Return all variables by ``layer.variable``, each once; those of the model itself by their short names."""
    found = dict(own_variables(model))
    seen = {id(variable) for variable in found.values()}
    for name, layer in layers_of(model).items():
        for short, variable in own_variables(layer).items():
            if id(variable) not in seen:
                seen.add(id(variable))
                found[f"{name}.{short}"] = variable
    return found


def weights_of(layer: Any) -> dict[str, Any]:
    """Return the kernels of a layer by their short names: what pruning removes weights from."""
    own = own_variables(layer)
    kernels = {id(getattr(layer, name, None)) for name in _WEIGHTS}
    return {name: variable for name, variable in own.items() if id(variable) in kernels}


def selectable(model: Any) -> Layers:
    """Return what a config_list can name."""
    layers = layers_of(model)
    types = {name: type(layer).__name__ for name, layer in layers.items()}
    return Layers(types, {name for name, layer in layers.items() if weights_of(layer)})


def arrays_of(model: Any) -> dict[str, Array]:
    """Return copies of all variables' values by name."""
    return {name: np.array(variable.numpy()) for name, variable in variables_of(model).items()}


def assign(model: Any, arrays: Mapping[str, Array]) -> None:
    """Give the variables of `model` these values."""
    variables = variables_of(model)
    for name, array in arrays.items():
        variables[name].assign(array)


def fingerprint(model: Any) -> Fingerprint:
    """Return the fingerprint of all floating-point variables."""
    result = {}
    for name, variable in variables_of(model).items():
        values = np.asarray(variable.numpy())
        if np.issubdtype(values.dtype, np.inexact):
            values = values.astype(np.float64)
            result[name] = (float(values.sum()), float(np.square(values).sum()))
    return result
