"""The agent: a real process that converts, runs and times in real runtimes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.deploying.deploy import BOUNDS, Deployment
from raycompress.compressors.deploying.forms import of_batch, source_of
from raycompress.deployment import package
from raycompress.deployment.agent.runtimes.int8 import product_saturates
from raycompress.deployment.client import Agent, LostAgentError
from raycompress.deployment.conversions import Conversions
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError, MissingDependencyError
from tests.support.models.networks import DUMMY, MODELS

RUNTIMES = ("onnxruntime", "openvino")
EXAMPLE = Example.from_dummy(DUMMY)


class Overflowing(nn.Module):
    """Computes values that half precision does not hold, in the layer ``big``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.big, self.last = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.big.weight.data *= 1e6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.big(torch.relu(self.a(x)))) / 1e6
        return self.last(x.mean((2, 3)))


def model(name: str = "resnet") -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_is_converted_proved_and_timed(runtime: str, precision: str) -> None:
    dense, small = model(), model("cnn")
    calibration = [Example.from_dummy(torch.randn(16, *DUMMY.shape[1:]))]
    target = DeploymentTarget(runtime, precision=precision, batch=2)
    with Deployment(target, EXAMPLE, calibration=calibration) as deployment:
        deployed = [deployment.deploy(dense, "dense"), deployment.deploy(small, "small")]
        latencies = deployment.latencies(deployed, seconds=1.0)
    for one, latency in zip(deployed, latencies, strict=True):
        assert one.difference <= BOUNDS[precision]
        assert one.seconds > 0
        assert 0 < latency.low_ms <= latency.wall_ms <= latency.high_ms
    floats = sum(parameter.numel() * 4 for parameter in dense.parameters())
    weights = sum(len(file) for name, file in deployed[0].files.items() if not name.endswith(".xml"))
    assert weights < floats * {"fp32": 1.1, "fp16": 0.6, "int8": 0.6}[precision]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_another_batch_is_computed_as_torch_computes_it(runtime: str) -> None:
    net, example = model(), of_batch(EXAMPLE, 3)
    assert example.batch == 3
    with Deployment(DeploymentTarget(runtime, batch=3), EXAMPLE) as deployment:
        assert deployment.deploy(net, "net").difference < 1e-5


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are read from Linux's /proc")
def test_a_conversion_starts_no_process() -> None:  # OpenVINO's own would send telemetry, from a process for each call
    with Agent(DeploymentTarget("openvino")) as agent:
        agent.convert(source_of(model(), EXAMPLE, "onnx"))
        assert agent._process is not None
        tasks = Path(f"/proc/{agent._process.pid}/task").iterdir()
        assert "".join((task / "children").read_text() for task in tasks) == ""


def test_the_first_layer_that_differs_is_named() -> None:
    net = Overflowing().eval()
    layer = r'in fp16: .*the first layer that differs is "big" \(conv2d\)'
    with (
        Deployment(DeploymentTarget("onnxruntime", precision="fp16"), EXAMPLE) as deployment,
        pytest.raises(DeploymentError, match=layer),
    ):
        deployment.deploy(net, "net")


def test_a_conversion_is_made_once(tmp_path: Path) -> None:
    kept = Conversions(tmp_path)
    net = model()
    with Deployment(DeploymentTarget("onnxruntime"), EXAMPLE, conversions=kept) as deployment:
        assert deployment.deploy_unproved(net, "one of many").seconds > 0
        assert not list(tmp_path.iterdir())
        assert deployment.deploy_unproved(net, "net", keeps=True).seconds > 0
    with Deployment(DeploymentTarget("onnxruntime"), EXAMPLE, conversions=kept) as deployment:
        assert deployment.deploy(net, "net").seconds == 0
    with torch.no_grad():
        next(net.parameters()).mul_(2)
    with Deployment(DeploymentTarget("onnxruntime"), EXAMPLE, conversions=kept) as deployment:
        assert deployment.deploy(net, "net").seconds > 0
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_have_seven_bits_where_products_of_eight_saturate() -> None:
    import onnx

    with Agent(DeploymentTarget("onnxruntime", precision="int8")) as agent:
        files, _ = agent.convert(source_of(model(), EXAMPLE, "onnx"), [[DUMMY.numpy()]])
    weights = onnx.load_from_string(files["model.onnx"]).graph.initializer
    arrays = [onnx.numpy_helper.to_array(one) for one in weights if one.data_type == onnx.TensorProto.INT8]
    largest = max(int(abs(one.astype(int)).max()) for one in arrays if one.ndim > 1)
    assert largest <= 127
    assert (largest <= 64) is product_saturates()


def test_what_the_runtime_cannot_read_is_an_error_of_ours_and_the_agent_goes_on() -> None:
    with Agent(DeploymentTarget("onnxruntime")) as agent:
        agent.load("junk", agent.convert(source_of(model(), EXAMPLE, "onnx"))[0])
        with pytest.raises(DeploymentError, match="onnxruntime cannot load the model"):
            agent.load("broken", {"model.onnx": b"this is no model"})
        assert len(agent.run("junk", [DUMMY.numpy()])) == 1


def test_an_agent_that_is_gone_is_told() -> None:
    with Agent(DeploymentTarget("onnxruntime")) as agent:
        assert agent._process is not None
        os.kill(agent._process.pid, 9)
        with pytest.raises(LostAgentError, match="lost while it was to ping"):
            agent.ping()


def test_a_runtime_that_is_not_installed_is_told_with_its_extra(tmp_path: Path) -> None:
    bare = tmp_path / "python"  # the same Python, and none of its packages
    bare.write_text('#!/bin/sh\nexec /usr/bin/env -u PYTHONPATH python3 -S "$@"\n')
    bare.chmod(0o700)
    agent = Agent(DeploymentTarget("openvino", python=str(bare)))
    with pytest.raises((MissingDependencyError, DeploymentError)) as caught, agent:
        pass
    assert '"python"' in caught.value.problems[0].fix


def test_the_agent_is_one_file_that_needs_no_raycompress() -> None:
    path = package.path()
    assert path.read_bytes() == package.content()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert b"import" in archive.read("raycompress/__init__.py")  # of the standard library, and nothing of ours
        assert b"from raycompress" not in archive.read("raycompress/__init__.py")
    assert {name.partition("/")[0] for name in names} == {"__main__.py", "raycompress"}
    assert all(name.startswith("raycompress/deployment/agent") or name.count("/") < 3 for name in names)
