"""TensorRT and Core ML: what this machine can do of them is done, and what it cannot is skipped by its name."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from raycompress.bundle.example import Example
from raycompress.compressors.deploying.deploy import BOUNDS
from raycompress.compressors.deploying.forms import array_of, samples_of, source_of
from raycompress.compressors.measure.difference import relative_difference
from raycompress.deployment import package
from raycompress.deployment.agent.runtime import Options
from raycompress.deployment.agent.runtimes.onnxruntime import FILE, OnnxRuntime
from raycompress.deployment.agent.runtimes.tensorrt import typed_onnx
from raycompress.deployment.client import Agent
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError, MissingDependencyError
from tests.deployment.test_agent import EXAMPLE
from tests.support.models.networks import DUMMY, MODELS
from tests.support.outside.environments import TARGETS
from tests.support.outside.needs import needs_targets

try:
    import tensorrt
except ImportError:
    tensorrt = None

CONVERT = """
import json, sys, zipfile
from pathlib import Path
from raycompress.deployment.agent.runtime import Options, RefusedError
from raycompress.deployment.agent.runtimes import coreml
from raycompress.deployment.agent.runtimes.programs import load_program

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
found = {}
for precision in ("fp32", "fp16"):
    (folder / precision).mkdir()
    coreml.CoreMl().convert(source, folder / precision, Options(precision), [])
    with zipfile.ZipFile(folder / precision / coreml.FILE) as archive:
        found[precision] = sum(one.file_size for one in archive.infolist() if one.filename.endswith("weight.bin"))
small = coreml.with_int8_weights(coreml.converted(load_program(source), "int8"))
small.save(str(folder / "int8.mlpackage"))
found["int8"] = sum(one.stat().st_size for one in (folder / "int8.mlpackage").rglob("weight.bin"))
found["inputs"] = [one.name for one in small.get_spec().description.input]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS["resnet"]().eval()


@pytest.fixture(scope="module")
def samples() -> list[list[np.ndarray]]:
    torch.manual_seed(1)
    return samples_of([Example.from_dummy(torch.randn(16, *DUMMY.shape[1:]))], EXAMPLE)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_file_for_tensorrt_computes_what_the_model_does(net, samples, tmp_path: Path, precision: str) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(source_of(net, EXAMPLE, "onnx"))
    typed_onnx(source, tmp_path / FILE, precision, samples)
    found = OnnxRuntime().load(tmp_path, Options()).run([array_of(DUMMY)])
    assert relative_difference([array_of(net(DUMMY))], found) <= BOUNDS[precision]


def test_int8_for_tensorrt_is_symmetric_and_leaves_biases_in_float(net, samples, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    source, path = tmp_path / "source.onnx", tmp_path / FILE
    source.write_bytes(source_of(net, EXAMPLE, "onnx"))
    typed_onnx(source, path, "int8", samples)
    graph = onnx.load(path).graph
    values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) > 10
    for node in quantized:
        zero = values[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any(), node.name
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    biases = [values[node.input[2]] for node in convolutions if len(node.input) > 2 and node.input[2] in values]
    assert convolutions and all(bias.dtype == np.float32 for bias in biases)
    assert len(biases) == sum(len(node.input) > 2 for node in convolutions)


@pytest.mark.skipif(tensorrt is None, reason="TensorRT: its wheel is not installed, so that its parser was not asked")
def test_tensorrts_parser_takes_the_files(net, samples, tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(source_of(net, EXAMPLE, "onnx"))
    for precision in ("fp32", "fp16", "int8"):
        typed_onnx(source, tmp_path / FILE, precision, samples)
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        network = tensorrt.Builder(logger).create_network(
            1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )
        assert tensorrt.OnnxParser(network, logger).parse_from_file(str(tmp_path / FILE)), precision


@pytest.mark.skipif(
    tensorrt is None or not torch.cuda.is_available(),
    reason="TensorRT: no GPU with its wheel, so that no engine was built, run or timed",
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_computes_what_the_model_does(net, samples, precision: str) -> None:
    with Agent(DeploymentTarget("tensorrt", precision=precision, device="gpu")) as agent:
        agent.load("net", agent.convert(source_of(net, EXAMPLE, "onnx"), samples)[0])
        found = agent.run("net", [array_of(DUMMY)])
        assert agent.time(["net"], [array_of(DUMMY)], rounds=3, warm_up=1, seconds=5)[0]
    assert relative_difference([array_of(net(DUMMY))], found) <= BOUNDS[precision]


@pytest.mark.skipif(tensorrt is not None, reason="there is a TensorRT")
def test_tensorrt_that_is_not_installed_is_told_with_its_extra_before_anything_is_converted() -> None:
    with pytest.raises(MissingDependencyError, match="tensorrt needs tensorrt, which is not installed") as caught:
        Agent(DeploymentTarget("tensorrt", device="gpu")).__enter__()
    assert "raycompress[tensorrt]" in caught.value.problems[0].fix


@pytest.mark.night
@needs_targets
def test_coremltools_converts_in_every_precision(net, tmp_path: Path) -> None:
    source = tmp_path / "source.pt2"
    source.write_bytes(source_of(net, EXAMPLE, "program"))
    done = subprocess.run(
        [TARGETS.python, "-c", CONVERT, source, tmp_path],
        env={"PYTHONPATH": str(package.path()), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    floats = sum(parameter.numel() * 4 for parameter in net.parameters())
    assert len(found["inputs"]) == 1
    assert 0.95 * floats < found["fp32"] < 1.15 * floats
    assert found["fp16"] < 0.55 * floats
    assert found["int8"] < 0.35 * floats


@needs_targets
def test_a_model_for_core_ml_is_converted_where_core_ml_does_not_run(net) -> None:
    with Agent(DeploymentTarget("coreml", precision="fp16", python=TARGETS.python), running=False) as agent:
        files, _ = agent.convert(source_of(net, EXAMPLE, "program"))
    with zipfile.ZipFile(io.BytesIO(files["model.mlpackage.zip"])) as archive:
        assert "model.mlpackage/Manifest.json" in archive.namelist()


@pytest.mark.night
@needs_targets
@pytest.mark.skipif(sys.platform == "darwin", reason="this is macOS")
def test_core_ml_on_another_system_is_told_when_the_agent_starts() -> None:
    with pytest.raises(DeploymentError, match=r"coreml cannot run on .*: Core ML runs on macOS") as caught:
        Agent(DeploymentTarget("coreml", python=TARGETS.python)).__enter__()
    assert "ssh://" in caught.value.problems[0].fix


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML: no macOS, so that nothing was run, timed or calibrated")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_core_ml_computes_what_the_model_does(net, samples, precision: str) -> None:
    with Agent(DeploymentTarget("coreml", precision=precision, python=TARGETS.python)) as agent:
        agent.load("net", agent.convert(source_of(net, EXAMPLE, "program"), samples)[0])
        found = agent.run("net", [array_of(DUMMY)])
    assert relative_difference([array_of(net(DUMMY))], found) <= BOUNDS[precision]
