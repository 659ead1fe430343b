"""The shipped examples: their scripts by hand, their weights, their experiment files."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.jsonc import as_json
from raycompress.results.record import SearchRecord
from tests.support.commands import run
from tests.support.launching import raycompress

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = ("digits", "digits_resnet")
EXPERIMENTS = sorted(
    path for name in EXAMPLES for path in (CONFIGS / name).glob("*.json") if path.name != "config.json"
)
N_HELD_OUT = 600
KEEPS = ("stage1.0.keep", "stage1.1.keep", "stage2.1.keep")

ByHand = Callable[[str, str], tuple[dict[str, float], Path]]


def load_script(example: str) -> ModuleType:
    """Import the script under a name of its own: both are called train.py."""
    spec = importlib.util.spec_from_file_location(f"{example}_train", CONFIGS / example / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    """Run a script as a person does, once per file; return what it printed and the folder that it ran in."""

    @functools.cache
    def run(example: str, config: str) -> tuple[dict[str, float], Path]:
        folder = tmp_path_factory.mktemp("by_hand")
        command = [sys.executable, str(CONFIGS / example / "train.py"), str(CONFIGS / example / config)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        lines = (line.partition(": ") for line in done.stdout.splitlines())
        return {name: float(value) for name, _, value in lines}, folder

    return run


@pytest.mark.parametrize(
    ("example", "config"),
    [
        ("digits", "config.json"),
        ("digits", "one_time.json"),
        ("digits_resnet", "config.json"),
        pytest.param("digits_resnet", "one_time.json", marks=pytest.mark.night),
    ],
)
def test_script_by_hand_prints_its_result_and_saves_a_smaller_model(by_hand: ByHand, example: str, config: str) -> None:
    result, folder = by_hand(example, config)

    assert list(result) == ["score", "accuracy", "flops_ratio"]
    assert result["accuracy"] > 0.95
    assert 0.05 < result["flops_ratio"] < 0.8
    assert result["score"] == pytest.approx(result["accuracy"] - 0.1 * result["flops_ratio"])
    saved = torch.load(folder / "model.pth", weights_only=True)
    dense = torch.load(CONFIGS / example / "pretrained.pth", weights_only=True)
    assert set(saved) == set(dense)
    assert sum(t.numel() for t in saved.values()) < 0.9 * sum(t.numel() for t in dense.values())
    assert (folder / "mask.pth").exists()


def test_saved_model_gives_the_reported_accuracy(by_hand: ByHand) -> None:
    result, folder = by_hand("digits", "config.json")
    script = load_script("digits")
    weights = torch.load(folder / "model.pth", weights_only=True)
    model = script.Net()
    for i in (1, 2, 3):  # the small layers, made by hand from the shapes that were saved
        outputs, inputs, *_ = weights[f"conv{i}.weight"].shape
        setattr(model, f"conv{i}", torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        setattr(model, f"bn{i}", torch.nn.BatchNorm2d(outputs))
    model.fc = torch.nn.Linear(*reversed(weights["fc.weight"].shape))
    model.load_state_dict(weights)

    assert script.evaluate(model, *script.load_data()[1]) == pytest.approx(result["accuracy"], abs=1e-6)


def test_same_configuration_gives_the_same_result(by_hand: ByHand) -> None:
    # in digits, config.json and one_time.json ask for the same sparsities
    assert by_hand("digits", "config.json")[0] == by_hand("digits", "one_time.json")[0]


@pytest.mark.night
@pytest.mark.parametrize("example", ["digits_ddp", "digits_accelerate"])
def test_the_examples_of_several_workers_run_as_they_stand(example: str, tmp_path: Path) -> None:
    shutil.copytree(CONFIGS / example, tmp_path / example)
    done = raycompress(tmp_path / example, "launch", "workers.json")
    assert done.code == 0, done.err
    assert done.record.best is not None and done.record.best.values["accuracy"] > 0.9


@pytest.mark.night
def test_the_example_of_depth_drops_blocks_that_its_bundle_is_without(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS / "digits_resnet", tmp_path / "digits_resnet")
    done = raycompress(tmp_path / "digits_resnet", "launch", "depth.json")
    assert done.code == 0, done.err
    trials = [trial for trial in done.record.records.values() if not all(trial.sample.get(k, True) for k in KEEPS)]
    assert trials, "no proposal drops a block"
    best = done.record.best
    assert best is not None and best.values is not None and best.values["accuracy"] > 0.95 and done.record.bundle
    script = load_script("digits_resnet")
    loaded = rc.load(done.record.bundle, script.ResNet())
    left = [type(loaded.get_submodule(name.removesuffix(".keep"))).__name__ for name in KEEPS]
    assert left == ["Block" if best.sample[name] else "DroppedBlock" for name in KEEPS]


def with_half(text: str) -> str:
    """Return the example of stages with one sparsity in place of each range, so that the script takes it by hand."""
    return text.replace('{"range": [0.0, 0.9], "type": "float"}', "0.5")


def test_the_example_of_stages_by_hand_reports_the_int8_model(tmp_path: Path) -> None:
    source = CONFIGS / "digits_resnet"
    (tmp_path / "stages.json").write_text(with_half((source / "stages.json").read_text()))
    command = [sys.executable, str(source / "train.py"), str(tmp_path / "stages.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    reported = float(next(line for line in done.stdout.splitlines() if line.startswith("accuracy")).split()[1])
    script = load_script("digits_resnet")
    dense = script.ResNet()
    masks = torch.load(tmp_path / "mask.pth", weights_only=True)
    assert masks["conv1.weight"].shape == dense.conv1.weight.shape and int(masks["conv1.weight"].sum()) == 16 * 9
    saved = torch.load(tmp_path / "model.pth", weights_only=True)
    assert saved["conv1.weight"].shape[0] == 16 and reported > 0.97


@pytest.mark.night
def test_the_example_of_stages_leaves_a_twentieth_of_the_bytes(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS / "digits_resnet", tmp_path / "digits_resnet")
    done = raycompress(tmp_path / "digits_resnet", "launch", "stages.json")
    assert done.code == 0, done.err
    best, manifest = done.record.best, bundle.read(done.record.bundle)
    assert best is not None and best.values is not None and best.values["accuracy"] > 0.97
    assert manifest.kind == "quantized" and manifest.after.size_bytes < 0.05 * manifest.before.size_bytes
    assert bundle.INT8_ONNX in manifest.files and manifest.removed["conv1"][1] == 32


def chosen(text: str) -> str:
    """Return the example of a tenth of the bytes with a value in place of each range, for a search of one trial."""
    data = json.loads(as_json(text))
    first, second = data["compression"]
    first["config_list"][0]["sparsity"] = 0.5
    first["depth"] = {"drop": 1}
    second["config_list"] = [{"op_types": ["default"], "quant_bits": 8}, {"op_names": ["fc"], "quant_bits": 32}]
    passive = {"proposer": "passive", "n_samples": 1, "constraints": {}}  # without Ray, nor a dense trial to compare
    return json.dumps({**data, **passive})


def test_half_of_the_channels_a_block_less_and_eight_bits_are_a_tenth_of_the_bytes(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS / "digits_resnet", tmp_path / "digits_resnet")
    path = tmp_path / "digits_resnet" / "tenth.json"
    path.write_text(chosen(path.read_text()))
    done = raycompress(tmp_path / "digits_resnet", "launch", "tenth.json")
    assert done.code == 0, done.err
    _check_tenth(done.record, 0.99167)


@pytest.mark.night
def test_the_example_of_a_tenth_of_the_bytes_loses_at_most_a_point(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS / "digits_resnet", tmp_path / "digits_resnet")
    done = raycompress(tmp_path / "digits_resnet", "launch", "tenth.json")
    assert done.code == 0, done.err
    dense = done.record.baseline
    assert dense is not None and dense.values is not None
    _check_tenth(done.record, dense.values["accuracy"])
    assert any(not all(one.sample[keep] for keep in KEEPS) for one in done.record.searched), "no block was dropped"
    bits = {value for one in done.record.searched for name, value in one.sample.items() if name.endswith("quant_bits")}
    assert len(bits) > 1


def _check_tenth(record: SearchRecord, dense: float) -> None:
    """Check that the best model, and its file, have a tenth of the bytes and lose at most a point."""
    best, manifest = record.best, bundle.read(record.bundle)
    assert best is not None and best.values is not None and best.values["accuracy"] >= dense - 0.01
    assert manifest.after.size_bytes <= 0.1 * manifest.before.size_bytes
    assert (record.bundle / bundle.INT8_ONNX).stat().st_size == manifest.after.size_bytes


TORCHRUN = (
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-endpoint",
    "127.0.0.1:0",
    "--rdzv-backend",
    "c10d",
)
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


@pytest.mark.parametrize(
    ("example", "launcher"),
    [
        ("digits_accelerate", TORCHRUN),
        pytest.param("digits_accelerate", (), marks=pytest.mark.night),
        pytest.param("digits_ddp", TORCHRUN, marks=pytest.mark.night),
        pytest.param("digits_accelerate", ACCELERATE, marks=pytest.mark.night),
    ],
)
def test_the_examples_of_several_processes_by_hand(example: str, launcher: tuple[str, ...], tmp_path: Path) -> None:
    if example == "digits_accelerate":
        pytest.importorskip("accelerate")
    folder = CONFIGS / example
    command = [sys.executable, *(("-m", *launcher) if launcher else ()), str(folder / "train.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(folder / "config.json")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (accuracy,) = [line for line in done.stdout.splitlines() if line.startswith("accuracy")]  # the first one's alone
    assert float(accuracy.partition(": ")[2]) > 0.9
    assert torch.load(tmp_path / "model.pth", weights_only=True)["0.weight"].shape[0] == 8


@pytest.mark.parametrize(
    ("example", "network", "accuracy"), [("digits", "Net", 0.995), ("digits_resnet", "ResNet", 0.99167)]
)
def test_pretrained_weights_reproduce_the_dense_accuracy(example: str, network: str, accuracy: float) -> None:
    script = load_script(example)
    model = getattr(script, network)()
    model.load_state_dict(torch.load(script.WEIGHTS, weights_only=True))
    _, held_out = script.load_data()

    assert len(held_out[1]) == N_HELD_OUT
    # one image may fall on the other side where another processor adds up in another order
    assert script.evaluate(model, *held_out) == pytest.approx(accuracy, abs=1.01 / N_HELD_OUT)


@pytest.mark.parametrize(("example", "most_bytes"), [("digits", 600_000), ("digits_resnet", 800_000)])
def test_weights_are_small_enough_to_ship(example: str, most_bytes: int) -> None:
    assert (CONFIGS / example / "pretrained.pth").stat().st_size < most_bytes


def test_all_kinds_of_experiment_are_shipped() -> None:
    assert {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in EXPERIMENTS} == {
        "digits/one_time",
        "digits/auto_l1",
        "digits/auto_grouped",
        "digits/auto_hyperopt",
        "digits/auto_hyperparameters",
        "digits/auto_sequence",
        "digits_resnet/one_time",
        "digits_resnet/auto_dependency",
        "digits_resnet/budget",
        "digits_resnet/depth",
        "digits_resnet/fastest",
        "digits_resnet/pareto",
        "digits_resnet/stages",
        "digits_resnet/tenth",
    }


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_experiment_file_passes_validate(experiment: Path) -> None:
    code, out, err = run("validate", str(experiment))
    assert code == 0, out + err
