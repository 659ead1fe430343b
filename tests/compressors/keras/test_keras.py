"""`level` on Keras models: every class of model, every way to train it, of Keras 3 and of tf_keras."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from raycompress import create_compressor
from raycompress.compressors.keras.layers import layers_of, variables_of
from raycompress.errors import CompressionError, ExperimentError, SpeedupError
from tests.support.models.keras_networks import (
    IMAGES,
    KINDS,
    LAYERS,
    LIBRARIES,
    TRAININGS,
    fit,
    make,
    outputs,
    subclass,
    training_step,
)

HALF = [{"sparsity": 0.5, "op_types": ["default"]}]


def level(model: Any, config_list: Any = HALF, **more: Any) -> Any:
    return create_compressor(model, {"compressor": "level", "config_list": config_list}, **more)


def zeros(model: Any) -> dict[str, float]:
    """Return the share of zeros in each kernel."""
    return {
        name: float((variable.numpy() == 0).mean())
        for name, variable in variables_of(model).items()
        if name.endswith("kernel")
    }


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_pruned_stays_zero_while_the_script_trains(library: str, kind: str, training: str) -> None:
    model = make(LIBRARIES[library], kind)
    first, *_, last = LAYERS[kind]
    compressor = level(model, [*HALF, {"sparsity": 0.25, "op_names": [last]}, {"op_names": [first], "exclude": True}])
    assert compressor.compress() is model
    before = {name: variable.numpy() for name, variable in variables_of(model).items()}
    TRAININGS[training](model)
    shares = zeros(model)
    assert shares.pop(f"{last}.kernel") == 0.25
    assert shares.pop(f"{first}.kernel") == 0
    assert set(shares.values()) == {0.5}
    changed = [name for name, variable in variables_of(model).items() if np.any(variable.numpy() != before[name])]
    assert f"{last}.kernel" in changed  # it did train
    compressor.settle()


@pytest.mark.parametrize("library", LIBRARIES)
def test_fit_that_was_compiled_and_run_before_compress(library: str) -> None:
    model = make(LIBRARIES[library], "sequential")
    fit(model)
    compressor = level(model)
    compressor.compress()
    model.fit(IMAGES[:64], np.zeros(64, np.int64), batch_size=64, verbose=0)  # of the shapes that were compiled for
    compressor.settle()
    assert set(zeros(model).values()) == {0.5}


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_smallest_weights_go_and_a_constraint_of_the_script_stays(library: str) -> None:
    keras = LIBRARIES[library]
    limit = keras.constraints.MaxNorm(0.5)
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(6, kernel_constraint=limit, name="fc")])
    dense = model.layers[-1].kernel.numpy()
    level(model, [{"sparsity": 0.34, "op_names": ["fc"]}]).compress()
    removed = model.layers[-1].kernel.numpy() == 0
    assert removed.sum() == int(48 * 0.34)
    assert np.abs(dense[removed]).max() <= np.abs(dense[~removed]).min()
    model.compile(keras.optimizers.SGD(10.0), "mse")
    model.fit(np.ones((16, 8), np.float32), 50 * np.ones((16, 6), np.float32), verbose=0)
    kernel = model.layers[-1].kernel.numpy()
    assert np.all(kernel[removed] == 0)
    assert np.linalg.norm(kernel, axis=0).max() <= 0.5 + 1e-5


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_step_compiled_before_compress_is_found_out(library: str, tmp_path: Path) -> None:
    model = make(LIBRARIES[library], "sequential")
    step = tf.function(training_step(model))
    images, labels = IMAGES[:64], np.zeros(64, np.int64)
    step(images, labels)
    compressor = level(model)
    compressor.compress()
    step(images, labels)
    with pytest.raises(CompressionError, match="have come back"):
        compressor.export_model("m.keras", folder_name=str(tmp_path))
    assert not list(tmp_path.iterdir())
    compressor.step()
    compressor.export_model("m.keras", folder_name=str(tmp_path))


@pytest.mark.parametrize("library", LIBRARIES)
def test_layers_inside_layers_are_named_by_their_path(library: str) -> None:
    for kind in KINDS:
        model = make(LIBRARIES[library], kind)
        named = [name for name in layers_of(model) if name in LAYERS[kind]]
        assert named == LAYERS[kind]
        level(model, [{"sparsity": 0.5, "op_names": [name for name in named if "bn" not in name]}])


@pytest.mark.parametrize(
    ("config_list", "what"),
    [
        ([], "config_list is empty"),
        ([{"sparsity": 0.5, "op_names": ["fc3"]}], 'no layer "fc3"'),
        ([{"sparsity": 1.5, "op_types": ["Dense"]}], "from 0 to below 1"),
        ([{"sparsity": 0.5, "op_types": ["Conv3D"]}], "matches no layer"),
        ([{"sparsity": 0.5, "op_names": ["bn"]}], '"bn" is BatchNormalization'),
        ([{"sparsity": 0.5, "op_types": ["Dense"], "quant_bits": 8}], 'unknown key "quant_bits"'),
    ],
)
def test_mistakes_in_the_config_list(config_list: Any, what: str) -> None:
    with pytest.raises(ExperimentError, match=what):
        level(make(LIBRARIES["keras"], "sequential"), config_list)


def test_nothing_compressed_is_an_error() -> None:
    model = make(LIBRARIES["keras"], "sequential")
    with pytest.raises(CompressionError, match="every sparsity is 0"):
        level(model, [{"sparsity": 0.0, "op_types": ["Dense"]}]).compress()
    with pytest.raises(CompressionError, match="less than one: nothing goes"):
        level(model, [{"sparsity": 0.001, "op_names": ["conv"]}]).compress()
    with pytest.raises(SpeedupError, match="cannot shrink"):
        level(model).apply_speedup()
    with pytest.raises(CompressionError, match="before compress"):
        level(model).export_model("m.keras")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_without_weights_is_told_or_built_from_dummy_input(library: str) -> None:
    with pytest.raises(CompressionError, match="has no weights yet"):
        level(subclass(LIBRARIES[library]))
    model = subclass(LIBRARIES[library])
    level(model, dummy_input=IMAGES[:2]).compress()
    assert set(zeros(model).values()) == {0.5}


@pytest.mark.parametrize("library", LIBRARIES)
def test_flops_and_parameters_by_layer(library: str) -> None:
    compressor = level(make(LIBRARIES[library], "functional"))
    flops, parameters, rows = compressor.count_flops_params((1, 8, 8, 1))
    table = {row["name"]: (row["flops"], row["params"], row["weight_shape"]) for row in rows}
    assert table == {
        "conv": (8 * 64 * 9, 80, (3, 3, 1, 8)),
        "depthwise": (8 * 64 * 9, 80, (3, 3, 8, 1)),
        "inner.fc1": (512 * 16, 512 * 16 + 16, (512, 16)),
        "fc2": (160, 170, (16, 10)),
    }
    assert flops == sum(count for count, _, _ in table.values())
    assert parameters == sum(count for _, count, _ in table.values())


@pytest.mark.parametrize("library", LIBRARIES)
def test_flops_of_attention_and_of_a_step_of_a_recurrent_layer(library: str) -> None:
    layers = LIBRARIES[library].layers
    inputs = layers.Input((5, 8))
    attended = layers.MultiHeadAttention(2, 4, name="mha")(inputs, inputs)
    model = LIBRARIES[library].Model(inputs, layers.Dense(3, name="fc")(layers.LSTM(6, name="rnn")(attended)))
    flops, _, rows = level(model).count_flops_params((1, 5, 8))
    by_layer = {row["name"]: row["flops"] for row in rows}
    assert by_layer["fc"] == 18
    assert by_layer["rnn.lstm_cell"] == 4 * 6 * (8 + 6)
    assert sum(by_layer.values()) == 4 * (5 * 8 * 8) + 336 + 18
    assert flops == sum(by_layer.values()) + 2 * (2 * 5 * 5 * 4)  # and the products of the attention


def run(source: str, **environment: str) -> str:
    """Run Python code in a fresh process; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fresh_process_reloads_all_with_plain_keras_and_without_torch(tmp_path: Path) -> None:
    model = make(LIBRARIES["keras"], "sequential")
    compressor = level(model)
    compressor.compress()
    fit(model)
    for path in ("m.keras", "m.h5", "m.weights.h5"):
        compressor.export_model(path, "mask.npz", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    np.savez(tmp_path / "io.npz", images=IMAGES[-8:], outputs=outputs(model))
    source = f"""
import sys, keras, numpy as np
io = np.load({str(tmp_path / "io.npz")!r})
def differs(model): return np.abs(np.asarray(model(io["images"])) - io["outputs"]).max()
for name in ("m.keras", "m.h5"):
    assert differs(keras.models.load_model({str(tmp_path)!r} + "/" + name, compile=False)) < 1e-6, name
assert not any(name.startswith("raycompress") for name in sys.modules)
L = keras.layers
def fresh():
    return keras.Sequential([L.Input((8, 8, 1)), L.Conv2D(8, 3), L.BatchNormalization(), L.ReLU(), L.Flatten(),
                             L.Dense(32, activation="relu"), L.Dense(10)])
named = keras.Sequential([L.Input((8, 8, 1)), L.Conv2D(8, 3, name="conv"), L.BatchNormalization(name="bn"), L.ReLU(),
                          L.Flatten(), L.Dense(32, activation="relu", name="fc1"), L.Dense(10, name="fc2")])
other = fresh()
other.load_weights({str(tmp_path / "m.weights.h5")!r})
assert differs(other) < 1e-6
import raycompress
assert differs(raycompress.load({str(tmp_path / "bundle")!r}, named)) == 0
compressor = raycompress.create_compressor(named, {{"compressor": "level", "config_list": {HALF!r}}})
compressor.compress()
compressor.export_model("n.keras", folder_name={str(tmp_path)!r}, bundle_path={str(tmp_path / "second")!r})
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "nni", "tf_keras")))
"""
    assert run(source).strip() == "[]"


def test_a_script_of_torch_imports_no_tensorflow() -> None:
    source = """
import sys, torch, raycompress
model = torch.nn.Sequential(torch.nn.Linear(4, 4))
config = {"compressor": "level", "config_list": [{"sparsity": 0.5, "op_types": ["Linear"]}]}
raycompress.create_compressor(model, config, dummy_input=torch.randn(1, 4)).compress()
print([name for name in ("tensorflow", "keras", "tf_keras") if name in sys.modules])
"""
    assert run(source).strip() == "[]"


def test_keras_on_another_backend_is_told() -> None:
    source = """
import keras, raycompress, raycompress.errors
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(4)])
config = {"compressor": "level", "config_list": [{"sparsity": 0.5, "op_types": ["Dense"]}]}
try:
    raycompress.create_compressor(model, config)
except raycompress.errors.CompressionError as error:
    print(error)
"""
    assert "Keras's backend torch" in run(source, KERAS_BACKEND="torch")
