"""The TensorFlow Model Optimization Toolkit (TFMOT 0.8), which wraps the layers of a model of tf_keras.

``compress()`` returns a new model, whose layers are wrapped copies; the script trains that one. What is saved has plain
layers again.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from raycompress.compressors.create import Setup
from raycompress.compressors.keras import measure as measure
from raycompress.compressors.keras.base import ActiveCompressor
from raycompress.compressors.keras.export import Saved
from raycompress.compressors.keras.inputs import KerasExample
from raycompress.compressors.keras.layers import Array, library, variables_of
from raycompress.compressors.keras.masks import constrain
from raycompress.compressors.keras.tflite import convert
from raycompress.errors import CompressionError, ExperimentError
from raycompress.extras import load_extra


def toolkit() -> ModuleType:
    """Import and return tensorflow_model_optimization; the environment, which it changes, is put back."""
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    try:
        return load_extra("tensorflow_model_optimization", "tensorflow", "a compressor of TFMOT")
    finally:
        if legacy is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = legacy


class _Wrapping(ActiveCompressor):
    """What the three methods share.

    Raises
    ------
    CompressionError
        From the constructor: TFMOT does not support such a model.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        _check_class(setup.model, self.entry.name)
        self._dense = setup.model
        inside = [name for name in self.targets if name not in {layer.name for layer in self._dense.layers}]
        if inside:
            raise CompressionError(
                f'{self.entry.name} reaches the layers of the model itself only, and "{inside[0]}" is inside another',
                where=f"config_list[{self.targets[inside[0]].entry}]",
                fix='leave it out, or use "level", which reaches all layers',
            )

    def count_flops_params(self, shape: Any) -> tuple[int, int, list[dict[str, Any]]]:
        """Return what the model has without the wrappers; see `KerasCompressor.count_flops_params`."""
        wrapped, self.model = self.model, self._dense
        try:
            return super().count_flops_params(shape)
        finally:
            self.model = wrapped

    def start(self) -> Any:
        """Wrap a copy of the model; it is compiled as the model was."""
        try:
            wrapped = self.wrap(_copy(self._dense))
        except (ValueError, RuntimeError, AttributeError) as error:
            raise CompressionError(
                f"TFMOT's {self.entry.name} failed on this model: {str(error).splitlines()[0]}",
                where=f"create_compressor, {type(self._dense).__name__}",
                fix='name other layers, or use "level"',
            ) from error
        _compile_like(wrapped, self._dense)
        return wrapped

    @abstractmethod
    def wrap(self, model: Any) -> Any:
        """Return `model` with its target layers wrapped."""

    def plain(self, values: Mapping[str, Array]) -> Any:
        """Return a fresh model of plain layers with these values, as the script's compiled one was made."""
        model = _copy(self._dense)
        for name, variable in variables_of(model).items():
            variable.assign(values[name])
        return model

    def trained(self) -> dict[str, Array]:
        """Return the values of the plain layers' variables inside the wrapped model, by their plain names."""
        found: dict[str, Array] = {}
        for layer in self.model.layers:
            name = getattr(layer, "layer", layer).name
            found |= {f"{name}.{_short(variable)}": np.array(variable.numpy()) for variable in layer.weights}
        return found

    def wrappers(self) -> dict[str, Any]:
        """Return the wrappers of the target layers by the layers' names."""
        layers = {layer.layer.name: layer for layer in self.model.layers if hasattr(layer, "layer")}
        return {name: layers[name] for name in self.targets}


class Magnitude(_Wrapping):
    """``prune_low_magnitude``: weights are chosen anew every `frequency` batches while the script trains."""

    def wrap(self, model: Any) -> Any:
        """Wrap, and hold the masks after each update, which TFMOT's own callback does once an epoch only."""
        sparsity = toolkit().sparsity.keras
        begin, end = int(self.arguments["begin_step"]), int(self.arguments["end_step"])
        frequency = int(self.arguments["frequency"])
        if frequency < 1 or begin < 0 or end < 0 or (end and end <= begin):
            raise ExperimentError(
                f"begin_step {begin}, end_step {end} and frequency {frequency} make no schedule",
                where="arguments",
                fix="0 <= begin_step < end_step (or end_step 0), frequency 1 or more",
            )

        def schedule(final: float) -> Any:
            if not end:
                return sparsity.ConstantSparsity(final, begin_step=begin, frequency=frequency)
            return sparsity.PolynomialDecay(0.0, final, begin_step=begin, end_step=end, frequency=frequency)

        wrapped = _cloned(
            model,
            self._pruned(),
            lambda layer: sparsity.prune_low_magnitude(
                layer, pruning_schedule=schedule(self.targets[layer.name].sparsity)
            ),
        )
        for layer in wrapped.layers:
            if hasattr(layer, "pruning_vars"):
                layer.pruning_step.assign(0)  # so that the steps count from the first batch with no callback's help
                for weight, mask, _ in layer.pruning_vars:
                    constrain(weight, mask)
        return wrapped

    def saved(self, example: KerasExample) -> Saved:
        """Return the plain model with its masks; raises CompressionError where the sparsity was not reached."""
        masks = {}
        wrappers = self.wrappers()
        for name in self._pruned():
            for weight, mask, _ in wrappers[name].pruning_vars:
                value, kept = weight.numpy(), mask.numpy() != 0
                self._check_reached(name, value, kept)
                masks[f"{name}.{_short(weight)}"] = kept.astype(np.uint8)
        return self.content(self.plain(self.trained()), example, masks=masks)

    def _pruned(self) -> list[str]:
        return [name for name, target in self.targets.items() if target.sparsity > 0]

    def _check_reached(self, name: str, value: Array, kept: Array) -> None:
        asked = self.targets[name].sparsity
        if np.any(value[~kept]):
            raise CompressionError(
                f'removed weights of "{name}" have come back: the training went around the masks',
                where="the training after compress()",
                fix="train the model that compress() returned, with an optimizer of tf_keras",
            )
        missing = int(asked * value.size) - np.count_nonzero(~kept)
        if missing > 1:  # TFMOT rounds, we count down
            share = np.count_nonzero(~kept) / value.size
            raise CompressionError(
                f'the sparsity of "{name}" is {share:.3g}, and {asked:g} was asked for',
                where="the training after compress()",
                fix="train the model that compress() returned, for more batches, or lower the steps in arguments",
            )


class Cluster(_Wrapping):
    """``cluster_weights``: the weights of a layer have one of a few values, which are trained."""

    def wrap(self, model: Any) -> Any:
        """Wrap; the first values come from k-means++ over the weights."""
        clustering = toolkit().clustering.keras
        number = self.arguments["number_of_clusters"]
        if not isinstance(number, int) or number < 2:
            raise ExperimentError(
                f"number_of_clusters is a whole number from 2, not {number!r}", where="arguments", fix="16 are 4 bits"
            )
        first = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
        return _cloned(
            model,
            self.targets,
            lambda layer: clustering.cluster_weights(layer, number_of_clusters=number, cluster_centroids_init=first),
        )

    def saved(self, example: KerasExample) -> Saved:
        """Return the plain model, whose kernels have few values; raises CompressionError where they have more."""
        import zlib

        values = self.trained()
        for name, wrapper in self.wrappers().items():
            for short, weight in wrapper.original_clusterable_weights.items():
                method = wrapper.clustering_algorithms[short]
                clustered = method.get_clustered_weight(method.get_pulling_indices(weight), weight).numpy()
                if len(np.unique(clustered)) > self.arguments["number_of_clusters"]:
                    raise CompressionError(
                        f'"{name}" has {len(np.unique(clustered))} different weights', where="export_model"
                    )
                values[f"{name}.{_short(weight)}"] = clustered
        plain = self.plain(values)
        content = self.content(plain, example)
        sizes = [
            sum(len(zlib.compress(np.ascontiguousarray(variable.numpy()).tobytes())) for variable in found.values())
            for found in (variables_of(self._dense), variables_of(plain))
        ]
        note = (
            f"the weights are floats as before, {content.before.size_bytes:,} bytes; zipped they have {sizes[1]:,}, "
            f"where the dense model's have {sizes[0]:,}"
        )
        return replace(content, notes=(note,))


class Qat(_Wrapping):
    """``quantize_apply``: training sees weights and activations rounded to 8 bits; what is saved is int8."""

    always_int8 = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        for target in self.targets.values():
            bits = target.settings.get("quant_bits", 8)
            if any(number != 8 for number in (bits.values() if isinstance(bits, Mapping) else (bits,))):
                raise ExperimentError(
                    f"qat of a Keras model has 8 bits, not {bits!r}",
                    where=f"config_list[{target.entry}].quant_bits",
                    fix="write 8, or leave it out",
                )

    def wrap(self, model: Any) -> Any:
        """Wrap the targets and the layers between them."""
        self._annotated = _annotated(model, self.targets)
        return _quantized(model, self._annotated)

    def saved(self, example: KerasExample) -> Saved:
        """Return the wrapped model for the bundle, a plain one with rounded weights, and the int8 model."""
        values = self.trained()
        for name, wrapper in self.wrappers().items():
            for weight, quantizer, ranges in wrapper._weight_vars:
                values[f"{name}.{_short(weight)}"] = quantizer(weight, False, weights=ranges).numpy()
        content = self.content(self.plain(values), example)
        inputs = content.calibration or [example]
        tflite = convert(self.model, inputs, content.before.size_bytes, has_ranges=True)
        return replace(
            content,
            model=self.model,
            after=measure.KerasSizes(content.after.params, content.after.flops, len(tflite.data)),
            plan={"rebuild": "qat", "layers": self._annotated},
            notes=("the Keras file holds rounded floats, without the rounding of activations",),
            tflite=tflite,
        )


def rebuild(model: Any, plan: Mapping[str, Any]) -> Any:
    """Return a fresh model as `Qat` had wrapped the original; see `raycompress.compressors.keras.loading`."""
    _check_class(model, "qat")
    return _quantized(_copy(model), plan["layers"])


def _quantized(model: Any, annotated: Collection[int]) -> Any:
    quantization = toolkit().quantization.keras
    names = {model.layers[index].name for index in annotated}
    return quantization.quantize_apply(_cloned(model, names, quantization.quantize_annotate_layer))


def _annotated(model: Any, targets: Collection[str]) -> list[int]:
    """Return the indices in ``model.layers`` of all layers that compute in 8 bits.

    Beside the targets those are the layers without weights, such as additions and pooling, so that numbers stay int8
    from target to target, and a BatchNorm that alone follows a target, which is folded into it.
    """
    registry = toolkit().quantization.keras.default_8bit.Default8BitQuantizeScheme().get_quantize_registry()
    names = {layer.name for layer in model.layers if layer.name in targets or not layer.weights}
    for layer in model.layers:
        after = [node.outbound_layer for node in layer.outbound_nodes]
        if layer.name in targets and len(after) == 1 and type(after[0]).__name__ == "BatchNormalization":
            names.add(after[0].name)
    return [
        index
        for index, layer in enumerate(model.layers)
        if layer.name in names and (layer.weights or registry.supports(layer))
    ]


def _check_class(model: Any, name: str) -> None:
    what = ""
    if library(model).__name__ != "tf_keras":
        what = "takes models of tf_keras only, and this one is of Keras 3"
    elif not getattr(model, "_is_graph_network", False):
        what = "takes Sequential and functional models only, built with an Input"
    if what:
        raise CompressionError(
            f"{name}, of the TensorFlow Model Optimization Toolkit, {what}",
            where=f"create_compressor, {type(model).__name__}",
            fix='use "level", which prunes every class of Keras model, or build the model with tf_keras',
        )


def _copy(model: Any) -> Any:
    """Return a model of the same layers with the same values, in variables of its own."""
    copied = library(model).models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


def _cloned(model: Any, names: Collection[str], wrap: Callable[[Any], Any]) -> Any:
    return library(model).models.clone_model(
        model, clone_function=lambda layer: wrap(layer) if layer.name in names else layer
    )


def _compile_like(wrapped: Any, model: Any) -> None:
    if getattr(model, "optimizer", None) is not None:
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        wrapped.compile(optimizer, loss=model.loss, metrics=model.compiled_metrics._user_metrics)


def _short(variable: Any) -> str:
    return str(variable.name).rpartition("/")[2].partition(":")[0]
