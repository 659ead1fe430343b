"""Every runtime beside ONNX Runtime and OpenVINO: converts, proves and times small models, and refuses what it must."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.deploying.deploy import BOUNDS, Deployment
from raycompress.compressors.deploying.forms import arrays_of, source_of
from raycompress.deployment.agent.runtime import RefusedError
from raycompress.deployment.agent.runtimes.programs import load_program
from raycompress.deployment.client import Agent
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError
from tests.deployment.test_agent import EXAMPLE, Overflowing
from tests.support.models.networks import DUMMY, NETWORKS, EncoderBlock, TorchAttention
from tests.support.outside.environments import TARGETS
from tests.support.outside.needs import needs_compiler, needs_targets

WHERE = {
    "executorch": pytest.param("executorch", TARGETS.python, id="executorch", marks=needs_targets),
    "litert": pytest.param("litert", TARGETS.python, id="litert", marks=needs_targets),
    "torch": pytest.param("torch", "", id="torch"),
    "torch.compile": pytest.param("torch.compile", "", id="torch.compile", marks=needs_compiler),
}


def at_night(*names: str) -> list[Any]:
    """Return all runtimes, these for the night: a conversion by ExecuTorch or LiteRT takes long, a compilation too."""
    return [
        pytest.param(*one.values, id=one.id, marks=[*one.marks, pytest.mark.night]) if name in names else one
        for name, one in WHERE.items()
    ]


class Encoder(nn.Module):
    """A small BERT: token numbers, one of them padding, and a weight of each; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.block = nn.Embedding(40, 32), EncoderBlock(32, TorchAttention(32, 4))
        self.head = nn.Linear(32, 3)

    def forward(self, weights: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self.block(self.words(tokens) + torch.where(tokens == 0, -1.0, 0.0).unsqueeze(-1))
        pooled = (x * weights.unsqueeze(-1)).sum(1)
        return self.head(pooled), torch.tanh(pooled)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return (Encoder if name == "encoder" else NETWORKS[name])().eval()


def samples(count: int = 16) -> list[Example]:
    torch.manual_seed(1)
    return [Example.from_dummy(torch.randn(count, *DUMMY.shape[1:]))]


TOKENS = Example((torch.linspace(0, 1, 7)[None], torch.tensor([[5, 3, 0, 9, 39, 1, 0]])), {})


@pytest.mark.parametrize(("runtime", "python"), at_night("torch.compile"))
def test_networks_are_converted_proved_and_timed(runtime: str, python: str) -> None:
    with Deployment(DeploymentTarget(runtime, python=python), EXAMPLE) as deployment:
        deployed = [deployment.deploy(network(name), name) for name in ("resnet", "vit")]
        latencies = deployment.latencies(deployed, seconds=1.0)
    for one, latency in zip(deployed, latencies, strict=True):
        assert one.difference <= BOUNDS["fp32"]
        assert one.size_bytes > 0 and one.seconds > 0
        assert 0 < latency.low_ms <= latency.wall_ms <= latency.high_ms


@pytest.mark.parametrize(("runtime", "python"), at_night("executorch", "litert", "torch.compile"))
def test_inputs_of_several_types_and_outputs_keep_their_order(runtime: str, python: str) -> None:
    with Deployment(DeploymentTarget(runtime, python=python), TOKENS) as deployment:
        assert deployment.deploy(network("encoder"), "encoder").difference <= 1e-4


@pytest.mark.parametrize(("runtime", "python"), at_night("executorch", "litert")[:3])
def test_half_precision_stays_within_its_bound_and_is_no_float32(runtime: str, python: str) -> None:
    with Deployment(DeploymentTarget(runtime, precision="fp16", python=python), EXAMPLE) as deployment:
        found = deployment.deploy(network("vit"), "vit")
    assert 1e-5 < found.difference <= BOUNDS["fp16"]
    floats = sum(parameter.numel() * 4 for parameter in network("vit").parameters())
    assert found.size_bytes < floats * 2  # the graph itself is much of so small a file


def test_torch_computes_in_bfloat16() -> None:
    with Deployment(DeploymentTarget("torch", precision="bf16"), EXAMPLE) as deployment:
        assert 1e-4 < deployment.deploy(network("resnet"), "net").difference <= BOUNDS["bf16"]


@pytest.mark.night
@pytest.mark.parametrize(("runtime", "python"), [WHERE["executorch"], WHERE["litert"]])
def test_int8_is_calibrated_by_the_samples_and_stays_within_its_bound(runtime: str, python: str) -> None:
    target = DeploymentTarget(runtime, precision="int8", python=python)
    with Deployment(target, EXAMPLE, calibration=samples()) as deployment:
        with pytest.raises(DeploymentError, match="int8 needs inputs to calibrate with"):
            deployment._agent.convert(source_of(network("resnet"), EXAMPLE, "program"))
        found = {name: deployment.deploy(network(name), name) for name in ("resnet", "vit")}
    for one in found.values():
        assert 1e-4 < one.difference <= BOUNDS["int8"]
    floats = sum(parameter.numel() * 4 for parameter in network("resnet").parameters())
    assert found["resnet"].size_bytes < 0.5 * floats


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc, which counts the threads of a process")
@pytest.mark.night
@pytest.mark.parametrize(("runtime", "python"), [WHERE["executorch"], WHERE["litert"]])
def test_a_model_runs_with_the_threads_asked_for(runtime: str, python: str) -> None:
    with Agent(DeploymentTarget(runtime, python=python)) as agent:
        files, _ = agent.convert(source_of(network("resnet"), EXAMPLE, "program"))
    counts = {}
    for threads in (1, 3):
        with Agent(DeploymentTarget(runtime, python=python, threads=threads), converting=False) as agent:
            agent.load("net", files)
            (found,) = agent.run("net", arrays_of(EXAMPLE))
            assert agent._process is not None
            counts[threads] = len(list(Path(f"/proc/{agent._process.pid}/task").iterdir()))
        assert torch.allclose(torch.as_tensor(found), network("resnet")(DUMMY), atol=1e-4)
    assert counts[3] == counts[1] + 2


# a conversion for each cut
BY_NIGHT = pytest.param("executorch", TARGETS.python, marks=[needs_targets, pytest.mark.night])


@pytest.mark.parametrize(("runtime", "python"), [WHERE["torch"], BY_NIGHT])
def test_the_first_layer_of_a_program_that_differs_is_named(runtime: str, python: str) -> None:
    target = DeploymentTarget(runtime, precision="fp16", python=python)
    layer = r'in fp16: .*the first layer that differs is "big" \(conv2d\)'
    with Deployment(target, EXAMPLE) as deployment, pytest.raises(DeploymentError, match=layer):
        deployment.deploy(Overflowing().eval(), "net")


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "evil")


def test_nothing_but_tensors_is_unpickled_from_a_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    content, evil = io.BytesIO(source_of(network("cnn"), EXAMPLE, "program")), io.BytesIO()
    torch.save(((Evil(tmp_path / "written"),), {}), evil)
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(tmp_path / "model.pt2", "w") as new:
        for name in old.namelist():
            new.writestr(name, evil.getvalue() if "sample_inputs" in name else old.read(name))
    with pytest.raises(Exception, match=r"weights_only|Weights only|unsupported"):
        load_program(tmp_path / "model.pt2")
    assert not (tmp_path / "written").exists()
    with zipfile.ZipFile(tmp_path / "model.pt2", "a") as archive:
        archive.writestr("model/data/constants/opaque_obj_0", b"")
    with pytest.raises(RefusedError, match="opaque_obj_0"):
        load_program(tmp_path / "model.pt2")


class Branching(nn.Module):
    """Takes one of two ways by a value that it computes."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_what_torch_export_cannot_follow_is_an_error_of_ours() -> None:
    with (
        Deployment(DeploymentTarget("torch"), EXAMPLE) as deployment,
        pytest.raises(DeploymentError, match="cannot follow Branching"),
    ):
        deployment.deploy(Branching(), "net")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (DeploymentTarget("torch", precision="int8"), 'torch has no precision "int8"'),
        (DeploymentTarget("executorch", precision="bf16"), 'executorch has no precision "bf16"'),
        (DeploymentTarget("litert", device="gpu"), 'litert has no device "gpu"'),
    ],
)
def test_what_a_runtime_does_not_have_is_told_before_it_starts(target: DeploymentTarget, message: str) -> None:
    with pytest.raises(DeploymentError, match=message), Agent(target):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("runtime", "reason"),
    [("torch", "no CUDA GPU"), ("onnxruntime", "no CUDAExecutionProvider"), ("openvino", "OpenVINO sees no GPU")],
)
def test_a_gpu_that_is_not_there_is_told_when_the_agent_starts(runtime: str, reason: str) -> None:
    with pytest.raises(DeploymentError, match=f"{runtime} cannot run on .*: .*{reason}"):
        Agent(DeploymentTarget(runtime, device="gpu")).__enter__()


def test_torch_compile_without_a_compiler_is_told_when_the_agent_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeploymentError, match="there is no no-such-compiler") as caught:
        Agent(DeploymentTarget("torch.compile", python=sys.executable)).__enter__()
    assert "CXX" in caught.value.problems[0].fix
