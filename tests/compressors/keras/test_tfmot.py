"""TFMOT's methods on tf_keras: magnitude, cluster, qat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import raycompress
from raycompress import create_compressor
from raycompress.compressors.keras.layers import arrays_of, variables_of
from raycompress.compressors.keras.modes import compare
from raycompress.errors import CompressionError, ExperimentError, UsageError
from tests.support.models.keras_networks import (
    IMAGES,
    LIBRARIES,
    accuracy,
    compiled_loop,
    eager_loop,
    fit,
    flat,
    make,
    outputs,
    subclass,
)

METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "magnitude": ({"sparsity": 0.6}, {}),
    "cluster": ({}, {"number_of_clusters": 8}),
    "qat": ({}, {}),
}
MODELS = {"sequential": lambda: make(tf_keras, "sequential"), "functional": lambda: flat(tf_keras)}


def config_of(name: str, **arguments: Any) -> dict[str, Any]:
    entry, more = METHODS[name]
    return {
        "compressor": name,
        "config_list": [{**entry, "op_types": ["Conv2D", "Dense"]}],
        "arguments": {**more, **arguments},
    }


def manifest(folder: Path) -> Any:
    return json.loads((folder / "bundle" / "manifest.json").read_text())


TRAININGS = [("sequential", fit), ("functional", compiled_loop), ("functional", eager_loop)]


@pytest.mark.parametrize(
    ("name", "kind", "training"),
    [
        pytest.param(name, kind, training, marks=[] if method == way else pytest.mark.night)
        for method, name in enumerate(METHODS)
        for way, (kind, training) in enumerate(TRAININGS)
    ],
)
def test_trained_saved_and_reloaded(name: str, kind: str, training: Any, tmp_path: Path) -> None:
    model = MODELS[kind]()
    fit(model, 6)
    dense = arrays_of(model)
    compressor = create_compressor(model, config_of(name), dummy_input=IMAGES[:20])
    wrapped = compressor.compress()
    training(wrapped)
    compressor.export_model("m.h5", "mask.npz", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    assert all(np.array_equal(dense[key], value) for key, value in arrays_of(model).items())  # the script's own stays
    assert accuracy(wrapped) > 0.5
    loaded = raycompress.load(tmp_path / "bundle", MODELS[kind]())
    assert np.array_equal(outputs(loaded), outputs(wrapped))
    plain = tf_keras.models.load_model(tmp_path / "m.h5", compile=False)
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model.layers]
    kernels = [plain.get_layer(layer).kernel.numpy() for layer in ("conv", "fc2")]
    if name == "magnitude":
        assert all(abs((kernel == 0).mean() - 0.6) < 0.02 for kernel in kernels)
        assert (np.load(tmp_path / "mask.npz")["fc2.kernel"] == (kernels[1] != 0)).all()
    elif name == "cluster":
        assert all(len(np.unique(kernel)) <= 8 for kernel in kernels)
        assert np.array_equal(outputs(plain), outputs(wrapped))
    else:
        assert all(len(np.unique(channel)) <= 255 for kernel in kernels for channel in np.moveaxis(kernel, -1, 0))
        sizes = manifest(tmp_path)
        assert sizes["after"]["size_bytes"] == (tmp_path / "bundle/model.tflite").stat().st_size
        assert sizes["after"]["size_bytes"] < 0.6 * sizes["before"]["size_bytes"]


def test_in_a_trial_the_int8_model_is_compared_on_what_the_script_trains_with(enter: Any) -> None:
    trial, sent = enter("trial")
    compressor = create_compressor(MODELS["sequential"](), config_of("qat"))
    fit(compressor.compress())
    compressor.export_model("m.h5")
    assert "of 100 inputs" in sent[-1]["notes"][-1]
    assert (trial.candidate / "model.tflite").exists()


def test_verification_of_a_rebuilt_model(tmp_path: Path) -> None:
    model = MODELS["sequential"]()
    compressor = create_compressor(model, config_of("qat"))
    fit(compressor.compress())
    compressor.export_model("m.keras", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    found = compare(MODELS["sequential"](), tmp_path / "bundle")
    assert found["relative_difference"] == 0
    assert found["after"]["size_bytes"] < found["before"]["size_bytes"]


def test_the_int8_model_of_qat_gives_what_was_measured(tmp_path: Path) -> None:
    compressor = create_compressor(MODELS["sequential"](), config_of("qat"))
    wrapped = compressor.compress()
    fit(wrapped, 4)
    compressor.export_model("m.keras", folder_name=str(tmp_path), tflite_path="m.tflite")
    interpreter = tf.lite.Interpreter(str(tmp_path / "m.tflite"))
    interpreter.allocate_tensors()
    answers = []
    for image in IMAGES[-100:]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis])
        interpreter.invoke()
        answers.append(int(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).argmax()))
    assert np.mean(outputs(wrapped, 100).argmax(axis=1) == answers) >= 0.98


def test_a_sparsity_that_was_not_reached_is_an_error(tmp_path: Path) -> None:
    for arguments, training in (({"frequency": 100}, fit), ({}, lambda model: None)):
        compressor = create_compressor(MODELS["sequential"](), config_of("magnitude", **arguments))
        training(compressor.compress())  # eight batches
        with pytest.raises(CompressionError, match=r"is 0, and 0\.6 was asked for"):
            compressor.export_model("m.h5", folder_name=str(tmp_path))


def test_the_sparsity_rises_to_its_end(tmp_path: Path) -> None:
    compressor = create_compressor(MODELS["functional"](), config_of("magnitude", begin_step=1, end_step=10))
    wrapped = compressor.compress()
    fit(wrapped)  # eight batches
    kernel = variables_of(wrapped)["prune_low_magnitude_fc2.fc2.kernel"]
    early = float((kernel.numpy() == 0).mean())
    assert 0 < early < 0.6
    fit(wrapped)
    assert abs(float((kernel.numpy() == 0).mean()) - 0.6) < 0.02
    compressor.export_model("m.h5", folder_name=str(tmp_path))


def test_a_compiled_model_stays_compiled_and_keeps_its_layers_table() -> None:
    model = MODELS["sequential"]()
    fit(model)
    compressor = create_compressor(model, config_of("cluster"))
    wrapped = compressor.compress()
    wrapped.fit(IMAGES[:64], np.zeros(64), verbose=0)
    assert compressor.count_flops_params((1, 8, 8, 1))[1] == 9674


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("make_model", "what"),
    [
        (lambda: make(LIBRARIES["keras"], "sequential"), "tf_keras only"),
        (lambda: make(tf_keras, "subclass"), "Sequential and functional models only"),
        (lambda: make(tf_keras, "functional"), '"inner.fc1" is inside another'),
    ],
)
def test_models_that_tfmot_does_not_take(name: str, make_model: Any, what: str) -> None:
    with pytest.raises(CompressionError, match=what) as error:
        create_compressor(make_model(), config_of(name))
    assert '"level"' in str(error.value)


def test_arguments_are_checked() -> None:
    with pytest.raises(ExperimentError, match="number_of_clusters is a whole number"):
        create_compressor(MODELS["sequential"](), config_of("cluster", number_of_clusters=1)).compress()
    with pytest.raises(ExperimentError, match="make no schedule"):
        create_compressor(MODELS["sequential"](), config_of("magnitude", frequency=0)).compress()
    four_bits = {"compressor": "qat", "config_list": [{"op_types": ["Dense"], "quant_bits": 4}]}
    with pytest.raises(ExperimentError, match="has 8 bits, not 4"):
        create_compressor(MODELS["sequential"](), four_bits)
    with pytest.raises((UsageError, CompressionError), match="has no weights yet"):
        create_compressor(subclass(tf_keras), config_of("qat"))
