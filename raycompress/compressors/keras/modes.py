"""create_compressor for a Keras model in trials that compress nothing: baseline, inspection, verification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycompress.bundle import bundle
from raycompress.compressors.base import Inspection, verify
from raycompress.compressors.keras import measure as measure
from raycompress.compressors.keras.base import KerasCompressor, build, check_asked, example_of
from raycompress.compressors.keras.inputs import InputWatch, KerasExample, spec_example
from raycompress.compressors.keras.layers import arrays_of, layers_of, own_variables
from raycompress.compressors.keras.loading import load_into, reference
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.rehearsal import Make, rehearse
from raycompress.errors import UsageError
from raycompress.model.info import Layer, ModelInfo
from raycompress.script.context import Trial


def for_mode(model: Any, trial: Trial, dummy: Any, arguments: Mapping[str, Any], make: Make) -> KerasCompressor:
    """Return the compressor for a mode other than ``trial``; see `raycompress.compressors.modes.for_mode`."""
    check_asked(trial)
    if trial.mode == "analyze":
        raise UsageError("models of torch can be analysed, and this one is of Keras", where="raycompress analyze")
    example = example_of(dummy)
    build(model, example)
    if trial.mode == "baseline":
        return KerasCompressor(model, example)
    if trial.mode == "verify":
        verify(trial, lambda folder: compare(model, folder))
    return Inspector(model, trial, example or spec_example(model), make)


class Inspector(KerasCompressor):
    """Records the model as soon as one input of it is known, mostly at once, and leaves the script there."""

    def __init__(self, model: Any, trial: Trial, example: KerasExample | None, make: Make) -> None:
        super().__init__(model, example)
        inspection: Inspection[KerasExample] = Inspection(
            trial, lambda known: describe(model, known), lambda known: rehearse(trial, make, known)
        )
        if example is not None:
            inspection.leave(example)
        self._watch = InputWatch(1, inspection.leave).watch(model)


def describe(model: Any, example: KerasExample | None) -> ModelInfo:
    """Return what is known of `model`; ties are none, since no compressor of Keras models removes channels."""
    flops = None if example is None else measure.flops(model, example)
    layers = []
    for name, layer in layers_of(model).items():
        if own_variables(layer):
            counted = None if flops is None else flops.get(name, 0)
            shape = measure.weight_shape(layer)
            parameters = measure.own_parameters(layer)
            layers.append(Layer(name, type(layer).__name__, _channels(layer), parameters, counted, shape))
    return ModelInfo(
        layers=tuple(layers),
        ties=(),
        output_layers=(),
        parameters=measure.parameters(model),
        flops=None if flops is None else flops[""],
        size_bytes=measure.size_bytes(model),
        input_shapes=None if example is None else tuple((1, *shape[1:]) for shape in example.shapes),
    )


def _channels(layer: Any) -> int:
    for attribute in ("filters", "units", "output_dim"):
        value = getattr(layer, attribute, None)
        if isinstance(value, int):
            return value
    return 0


def compare(model: Any, folder: Path) -> dict[str, Any]:
    """Load the bundle into `model`, compare it with the stored outputs, and measure it before and after; plain JSON."""
    bundle.check_hashes(folder)
    manifest = bundle.read(folder)
    example, outputs = reference(folder, manifest)
    dense = model
    if not model.weights:
        example.outputs(model)
    before = arrays_of(dense)
    loaded = load_into(folder, manifest, model)
    difference = relative_difference(outputs, example.outputs(loaded))
    if loaded is dense:
        times = measure.latencies(model, [before, arrays_of(model)], example)
    else:
        times = [measure.latencies(each, [arrays_of(each)], example)[0] for each in (dense, loaded)]
    sizes = measure.sizes(dense, example).to_json()
    return {
        "relative_difference": difference,
        "before": {**sizes, **times[0].to_json()},
        "after": {**sizes, "size_bytes": manifest.after.size_bytes, **times[1].to_json()},
    }
