"""Trials of Keras models: bundles, the witness, TFLite, inspection, verification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

import raycompress
from raycompress import create_compressor
from raycompress.bundle import bundle
from raycompress.compressors.keras.base import KerasCompressor
from raycompress.compressors.keras.layers import arrays_of
from raycompress.compressors.saving.witness import NOTE
from raycompress.errors import BundleError, CompressionError, ExperimentError, UsageError
from raycompress.model.info import ModelInfo
from raycompress.script.context import EndOfInspection, Trial
from tests.support.models.keras_networks import (
    IMAGES,
    KINDS,
    LAYERS,
    LIBRARIES,
    compiled_loop,
    eager_loop,
    fit,
    make,
    outputs,
    subclass,
)

CONFIG = {"compressor": "level", "config_list": [{"sparsity": 0.5, "op_types": ["Dense", "Conv2D"]}]}


def finish(trial: Trial) -> None:
    for hook in trial.on_finish:
        hook()


def report(trial: Trial) -> None:
    for hook in trial.on_report:
        hook({"accuracy": 0.5})


def fresh(library: str, kind: str) -> Any:
    """Return a model as a user has it in a new process: of a class of its own without weights."""
    return subclass(LIBRARIES[library]) if kind == "subclass" else make(LIBRARIES[library], kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_trial_exports_a_bundle_that_loads_into_a_fresh_model(enter: Any, library: str, kind: str) -> None:
    forms = ("tflite",) if kind == "subclass" else ()
    trial, sent = enter("trial", exports=forms)
    model = make(LIBRARIES[library], kind)
    compressor = create_compressor(model, CONFIG)
    compressor.compress()
    fit(model)
    model.predict(IMAGES[:8], verbose=0)
    report(trial)
    for _ in range(2):
        compressor.export_model("model.keras", mask_path="masks/mask.h5", folder_name="saved", save_best_only=True)
    finish(trial)
    folder = trial.candidate
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *bundle.FILES, "saved/model.keras", "saved/masks/mask.h5", *(f"model.{form}" for form in forms),
    }  # fmt: skip
    message = sent[-1]
    assert message["type"] == "candidate"
    assert message["before"] == message["after"]
    assert message["before"]["flops"] > 0
    assert message["before"]["size_bytes"] == sum(array.nbytes for array in arrays_of(model).values())
    assert len(message["notes"]) == len(forms)
    assert all("the Keras weights" in note and "of 100 inputs" in note for note in message["notes"])
    with h5py.File(folder / "saved/masks/mask.h5") as masks:
        assert np.asarray(masks[f"{LAYERS[kind][0]}.kernel"]).mean() == 0.5
    loaded = raycompress.load(folder, fresh(library, kind))
    assert np.array_equal(outputs(loaded), outputs(model))
    bundle.check_hashes(folder)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_int8_model_is_small_and_agrees(library: str, tmp_path: Path) -> None:
    model = make(LIBRARIES[library], "sequential")
    compressor = create_compressor(model, CONFIG, calibration_data=IMAGES[:50])
    compressor.compress()
    fit(model, 4)
    compressor.export_model("m.keras", folder_name=str(tmp_path), tflite_path="m.tflite")
    data = (tmp_path / "m.tflite").read_bytes()
    assert len(data) < 0.5 * sum(array.nbytes for array in arrays_of(model).values())
    interpreter = tf.lite.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    assert any(detail["dtype"] == np.int8 for detail in interpreter.get_tensor_details())
    answers = []
    for image in IMAGES[-100:]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis])
        interpreter.invoke()
        answers.append(int(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).argmax()))
    assert np.mean(outputs(model, 100).argmax(axis=1) == answers) >= 0.95


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_with_several_inputs(library: str, tmp_path: Path) -> None:
    layers = LIBRARIES[library].layers
    one, two = layers.Input((6,), name="b"), layers.Input((3,), name="a")

    def build() -> Any:
        joined = layers.Concatenate()([layers.Dense(4)(one), layers.Dense(5)(two)])
        return LIBRARIES[library].Model({"b": one, "a": two}, layers.Dense(2)(joined))

    model = build()
    inputs = {"b": np.ones((4, 6), np.float32), "a": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)}
    compressor = create_compressor(model, CONFIG, dummy_input=inputs)
    compressor.compress()
    compressor.export_model(
        "m.keras", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"), tflite_path="m.tflite"
    )
    loaded = raycompress.load(tmp_path / "bundle", build())
    assert np.array_equal(np.asarray(loaded(inputs)), np.asarray(model(inputs)))


@pytest.mark.parametrize("library", LIBRARIES)
def test_tflite_says_what_it_lacks(library: str, tmp_path: Path) -> None:
    model = make(LIBRARIES[library], "sequential")
    compressor = create_compressor(model, CONFIG)
    compressor.compress()
    compiled_loop(model)  # no input that has values was seen
    with pytest.raises(CompressionError, match="no inputs are known to choose the int8 ranges by"):
        compressor.export_model("m.keras", folder_name=str(tmp_path), tflite_path="m.tflite")
    layers = LIBRARIES[library].layers
    recurrent = LIBRARIES[library].Sequential([layers.Input((5, 8)), layers.LSTM(4), layers.Dense(2)])
    compressor = create_compressor(recurrent, CONFIG, dummy_input=np.ones((2, 5, 8), np.float32))
    compressor.compress()
    with pytest.raises(CompressionError, match="inside a loop"):
        compressor.export_model("m.keras", folder_name=str(tmp_path), tflite_path="m.tflite")


def test_a_metric_of_other_weights_fails_the_trial(enter: Any) -> None:
    trial, _ = enter("trial")
    model = make(LIBRARIES["keras"], "sequential")
    compressor = create_compressor(model, CONFIG)
    compressor.compress()
    eager_loop(model)
    report(trial)
    eager_loop(model)
    compressor.export_model("model.keras")
    with pytest.raises(CompressionError, match="the model changed between the last report and the save"):
        finish(trial)
    report(trial)
    finish(trial)


def test_a_script_that_compresses_nothing_or_trains_on_unsaved_fails(enter: Any) -> None:
    trial, _ = enter("trial")
    compressor = create_compressor(make(LIBRARIES["keras"], "sequential"), CONFIG)
    with pytest.raises(CompressionError, match="never called its compress"):
        finish(trial)
    compressor.compress()
    report(trial)
    fit(compressor.model)
    with pytest.raises(CompressionError, match="saved no model"):
        finish(trial)


@pytest.mark.parametrize(("kind", "name"), [("sequential", "model.keras"), ("subclass", "model.weights.h5")])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_model_of_a_script_that_never_saves_is_saved(enter: Any, library: str, kind: str, name: str) -> None:
    trial, sent = enter("trial")
    model = make(LIBRARIES[library], kind)
    create_compressor(model, CONFIG).compress()
    fit(model)
    report(trial)
    finish(trial)
    assert [message["notes"] for message in sent] == [[NOTE]]
    assert {path.name for path in trial.candidate.iterdir()} == {*bundle.FILES, name, "mask.npz"}
    loaded = raycompress.load(trial.candidate, fresh(library, kind))
    assert np.array_equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("more", [{}, {"folder_name": True}])
def test_a_file_may_be_named_by_its_place_in_the_trials_folder(enter: Any, more: dict[str, Any]) -> None:
    trial, _ = enter("trial")
    compressor = create_compressor(make(LIBRARIES["keras"], "sequential"), CONFIG)
    compressor.compress()
    config = {**CONFIG, "save_model": True, "tid": 3, "folder_name": str(trial.candidate)}
    if more:
        compressor.export_model("m.h5", **config)
    else:
        compressor.export_model(str(trial.candidate / "m.h5"))
    assert (trial.candidate / "m.h5").exists()
    with pytest.raises(UsageError, match="would leave the folder"):
        compressor.export_model("m.h5", **{**config, "folder_name": str(trial.candidate.parent)})


def test_bad_paths_and_forms(enter: Any, tmp_path: Path) -> None:
    trial, _ = enter("trial")
    compressor = create_compressor(make(LIBRARIES["keras"], "subclass"), CONFIG)
    compressor.compress()
    for path in ("../m.keras", "/tmp/m.keras", "manifest.json", "model.pth"):
        with pytest.raises(UsageError):
            compressor.export_model(path)
    with pytest.raises(UsageError, match=r"\.npz or \.h5"):
        compressor.export_model("m.keras", mask_path="mask.pth")
    with pytest.raises(CompressionError, match="neither Sequential nor functional"):
        compressor.export_model("m.h5")
    assert not (trial.candidate / bundle.MANIFEST).exists()
    enter("trial", latency=True)
    with pytest.raises(ExperimentError, match="latency of a Keras model is no metric"):
        create_compressor(make(LIBRARIES["keras"], "sequential"), CONFIG)
    enter("trial", exports=("onnx",))
    with pytest.raises(ExperimentError, match="ONNX is for torch models"):
        create_compressor(make(LIBRARIES["keras"], "sequential"), CONFIG)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_inspection_ends_at_create_compressor(enter: Any, library: str, kind: str) -> None:
    _, sent = enter("inspect")
    with pytest.raises(EndOfInspection):
        create_compressor(make(LIBRARIES[library], kind), CONFIG)
    (message,) = sent
    info = ModelInfo.from_json(message["model"])
    assert [layer.name for layer in info.layers] == LAYERS[kind]
    assert (info.ties, info.output_layers, info.input_shapes) == ((), (), ((1, 8, 8, 1),))
    assert info.flops == sum(layer.flops or 0 for layer in info.layers) > 0
    conv = info.layers[0]
    assert (conv.type, conv.channels, conv.weight_shape, conv.parameters) == ("Conv2D", 8, (3, 3, 1, 8), 80)


def test_inspection_waits_for_an_input_of_unknown_size(enter: Any) -> None:
    layers = LIBRARIES["keras"].layers
    model = LIBRARIES["keras"].Sequential([layers.Input((None, None, 1)), layers.Conv2D(4, 3, name="conv")])
    _, sent = enter("inspect")
    compressor = create_compressor(model, CONFIG)
    with pytest.raises(EndOfInspection):
        compressor.compress().fit(IMAGES[:4], np.zeros((4, 6, 6, 4)))
    assert ModelInfo.from_json(sent[0]["model"]).flops == 36 * 4 * 9


def test_the_baseline_prunes_and_saves_nothing(enter: Any) -> None:
    trial, sent = enter("baseline")
    model = make(LIBRARIES["keras"], "functional")
    before = arrays_of(model)
    compressor = create_compressor(model, CONFIG)
    assert type(compressor) is KerasCompressor
    assert compressor.compress() is model
    compressor.step()
    compressor.update_epoch(0)
    assert compressor.apply_speedup() is model
    compressor.export_model("m.keras")
    finish(trial)
    assert all(np.array_equal(before[name], value) for name, value in arrays_of(model).items())
    assert not sent and not trial.candidate.exists()


@pytest.mark.parametrize("library", LIBRARIES)
def test_verification_reloads_compares_and_measures(enter: Any, library: str, tmp_path: Path) -> None:
    model = make(LIBRARIES[library], "sequential")
    compressor = create_compressor(model, CONFIG)
    compressor.compress()
    fit(model)
    compressor.export_model("m.keras", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    _, sent = enter("verify", bundle=tmp_path / "bundle")
    with pytest.raises(EndOfInspection):
        create_compressor(make(LIBRARIES[library], "sequential"), CONFIG)
    (message,) = sent
    assert message["relative_difference"] <= 1e-6
    assert message["before"]["params"] == message["after"]["params"] == 9674
    assert min(message[side][key] for side in ("before", "after") for key in ("latency_low_ms", "cpu_ms")) > 0
    with pytest.raises(BundleError, match="does not fit Functional"):
        create_compressor(make(LIBRARIES[library], "functional"), CONFIG)
