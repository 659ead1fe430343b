"""What is known of a latency in an inference runtime before a model is trained: predicted against measured.

For each network and runtime a `LatencyModel` is fitted to networks at random widths, as at the start of a search, and
asked about others that it has not seen. The peer is the table of eager torch's times, layer by layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.fits.latency_model import Networks, undisturbed
from raycompress.compressors.analysis.fits.latency_table import latency_table
from raycompress.compressors.deploying.deploy import Deployment
from raycompress.compressors.measure import timing
from raycompress.compressors.measure.timing import Times
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import RaycompressError
from raycompress.model.latency_fit import Sample, fitted, kendall_tau
from tests.benchmarks.compression.networks import ResNet
from tests.benchmarks.outcome import Outcome
from tests.support.models.networks import Attention, EncoderBlock
from tests.support.outside.environments import TARGETS

HERE = ("onnxruntime", "openvino")
ELSEWHERE = ("executorch", "litert")
_TURNS, _PASSES = 5, 20


class MobileNet(nn.Module):
    """Inverted bottlenecks as in MobileNetV2, without the additions: many groups of channels."""

    BLOCKS = (
        *((64, 24, 1), (96, 24, 1), (96, 32, 2), (144, 32, 1)),
        *((144, 64, 2), (256, 64, 1), (256, 96, 1), (384, 96, 1)),
    )

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
        inputs = 32
        for inner, outputs, stride in self.BLOCKS:
            layers += [nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()]
            depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
            layers += [depthwise, nn.BatchNorm2d(inner), nn.ReLU6()]
            layers += [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean([2, 3]))


class Vit(nn.Module):
    """Four blocks of width 192 on 64 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 192, 8, 8)
        self.positions = nn.Parameter(torch.randn(1, 64, 192) * 0.02)
        self.blocks = nn.Sequential(*[EncoderBlock(192, Attention(192, 6)) for _ in range(4)])
        self.norm = nn.LayerNorm(192)
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (lambda: ResNet(64), (1, 1, 16, 16)),
    "mobilenet": (MobileNet, (1, 3, 64, 64)),
    "vit": (Vit, (1, 3, 64, 64)),
}


@dataclass(frozen=True)
class Agreement:
    """How predicted shares of the dense network's time agree with measured ones."""

    tau: float
    median: float
    ninth: float

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
        errors = np.abs(np.array(predicted) / np.array(measured) - 1)
        return cls(kendall_tau(predicted, measured), float(np.median(errors)), float(np.quantile(errors, 0.9)))

    def cells(self) -> list[str]:
        return [f"{self.tau:.2f}", f"{self.median:.3f}", f"{self.ninth:.3f}"]


def targets() -> list[DeploymentTarget]:
    """Return the runtimes of this environment, and those of the one of `make targets` where it is there."""
    more = [DeploymentTarget(name, python=TARGETS.python) for name in ELSEWHERE] if TARGETS.is_there else []
    return [*map(DeploymentTarget, HERE), *more]


def measure(seen: int, unseen: int, names: Sequence[str], say: Callable[[str], None]) -> Outcome:
    """Fit to `seen` networks and predict `unseen` others, of each kind in each runtime."""
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    raw: dict[str, Any] = {}
    failed = False
    for name in names:
        make, shape = NETWORKS[name]
        torch.manual_seed(0)
        model, example = make().eval(), Example.from_dummy(torch.randn(shape))
        networks = Networks(model, example)
        held_out = list(networks.draws(unseen, seed=1))
        table = latency_table(model, example)
        by_table = [table.share(networks.widths(removed)) for removed in held_out]
        eager = _eager(networks, held_out)
        rows.append([name, "eager torch", *["-"] * 5, *Agreement.of(by_table, eager).cells(), "1"])
        say(f"{name}: eager torch done")
        for target in targets():
            try:
                cells, facts = _in_runtime(networks, target, seen, held_out, by_table, eager)
            except RaycompressError as error:
                say(f"{name} in {target.runtime}: {error}")
                cells, facts, failed = ["failed", *["-"] * 8], {"failed": str(error)}, True
            rows.append([name, target.runtime, *cells])
            raw[f"{name} in {target.runtime}"] = facts
            say(f"{name}: {target.runtime} done")
    return Outcome(
        f"Predicted against measured latency of {unseen} networks at widths that were not seen, {seen} seen",
        [
            *("network", "runtime", "seconds", "multiples of", "tau", "median error", "90 %"),
            *("tau, table", "median", "90 %", "tau of eager"),
        ],
        rows,
        notes=[
            "errors are relative; one thread, batch of one, CPU time as share of the dense one's, in turn with it",
            "seconds: of fitting, the networks' conversion and measurement included",
            "multiples of: those that the runtime computes channels in, as was found; in brackets if not beyond doubt",
            "table: eager torch's times layer by layer; tau of eager: of its measured order and the runtime's",
        ],
        raw=raw,
        failed=failed,
    )


def _in_runtime(
    networks: Networks,
    target: DeploymentTarget,
    seen: int,
    held_out: Sequence[list[int]],
    by_table: Sequence[float],
    eager: Sequence[float],
) -> tuple[list[str], dict[str, Any]]:
    with Deployment(target, networks.example) as deployment:
        begun = time.monotonic()
        dense = deployment.deploy_unproved(networks.model, "dense")
        known = list(networks.timed(deployment, dense, networks.draws(seen)))
        model = fitted(networks.works(), known, target=target.name, dense_ms={"latency_ms": 1.0, "cpu_ms": 1.0})
        seconds = time.monotonic() - begun
        tested: list[Sample] = list(networks.timed(deployment, dense, iter(held_out)))
    measured = [one.share for one in tested]
    predicted = [model.share(one.widths) for one in tested]
    ours, peer = Agreement.of(predicted, measured), Agreement.of(by_table, measured)
    tau = kendall_tau(eager, measured)
    step = str(model.multiple) if model.is_stepped or model.multiple == 1 else f"({model.multiple})"
    facts = {
        **{"model": asdict(ours), "table": asdict(peer), "tau_of_eager": tau, "seconds": seconds},
        **{"step": model.step, "even": model.even, "is_stepped": model.is_stepped, "accuracy": asdict(model.accuracy)},
        **{"predicted": predicted, "measured": measured, "eager": list(eager), "by_table": list(by_table)},
    }
    return [f"{seconds:.0f}", step, *ours.cells(), *peer.cells(), f"{tau:.2f}"], facts


def _eager(networks: Networks, held_out: Sequence[list[int]]) -> list[float]:
    """Return the times in eager torch, as shares of the dense network's, measured in turns as in a runtime."""
    models = [networks.narrow(removed) for removed in held_out]
    times: list[tuple[Times, Times]] = [([], []) for _ in models]
    with torch.no_grad():
        for _ in range(_TURNS):
            for model, own in zip(models, times, strict=True):
                for number in range(-2, _PASSES):
                    for one, passes in zip((networks.model, model), own, strict=True):
                        spent = timing.once(lambda one=one: networks.example.call(one), time.thread_time)
                        if number >= 0:
                            passes.append(spent)
    return [undisturbed(own, cpu=True) / undisturbed(reference, cpu=True) for reference, own in times]
