"""A plug-in of raycompress: a compressor, a proposer, an export and a runtime. Importing it imports no torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycompress.catalog.entry import Argument, CompressorEntry
from raycompress.catalog.exports import ExportEntry
from raycompress.catalog.proposers import ProposerEntry
from raycompress.catalog.rounding import removable
from raycompress.catalog.runtimes import RuntimeEntry
from raycompress.deployment.agent.runtime import Options
from raycompress.deployment.agent.runtimes.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raycompress.bundle.example import Example
    from raycompress.compressors.engine import PruningDecision, Request


class Alike:
    """Prunes the filters that point the same way as another filter of their layer."""

    entry = CompressorEntry(
        name="alike",
        summary="Removes the filters that are most like another one of their layer, by the angle between them.",
        arguments=(
            Argument("opposite", False, "whether a filter counts as like its negative too", type="bool"),
            Argument("others", 1, "how many of the nearest filters to compare each with", type="int"),
        ),
        layer_types=("Conv2d", "Linear"),
        paper="the example of docs/plugins.md",
    )

    def choose(self, request: Request) -> PruningDecision:
        """Return the channels that go of each layer: as many as its sparsity says."""
        from raycompress.compressors.engine import PruningDecision

        channels = {}
        for name, target in request.targets.items():
            weight = request.model.get_submodule(name).weight.detach()
            count = removable(len(weight), target.sparsity)
            ranks = _likeness(weight, request.arguments["opposite"], request.arguments["others"])
            channels[name] = tuple(sorted(ranks.argsort(descending=True, stable=True)[:count].tolist()))
        return PruningDecision(channels=channels, asked={name: len(gone) for name, gone in channels.items()})


def _likeness(weight: Tensor, opposite: bool, others: int) -> Tensor:
    from torch.nn import functional as F

    directions = F.normalize(weight.flatten(1), dim=1)
    cosines = directions @ directions.T
    cosines = (cosines.abs() if opposite else cosines).fill_diagonal_(-1)
    return cosines.topk(min(others, len(weight) - 1), dim=1).values.mean(dim=1)


class Halton:
    """Proposes the points of a Halton sequence, which fill the space evenly.

    Halton, On the efficiency of certain quasi-random sequences of points, Numerische Mathematik 1960.
    """

    entry = ProposerEntry("halton", "Points of a Halton sequence, which fill the space evenly.", paper="Halton, 1960")
    repeats = True
    note = ""

    def __init__(self, space: Any, *, objective: Any, seed: int | None, history: Any) -> None:
        self._dimensions = space.dimensions
        self._count = 1 if seed is None else 1 + 1009 * seed

    def propose(self, number: int) -> dict[str, Any]:
        """Return the next point."""
        point = {
            dimension.name: _value(dimension, _radical_inverse(self._count, base))
            for dimension, base in zip(self._dimensions, _primes(len(self._dimensions)), strict=True)
        }
        self._count += 1
        return point

    def learn(self, number: int, score: float | None, scores: Mapping[int, float], judgement: Any = None) -> None:
        """Learn nothing: the points are given."""


def _value(dimension: Any, share: float) -> Any:
    """Return the value of a dimension at `share`, in [0, 1), of its range."""
    if dimension.choices is not None:
        return copy.deepcopy(dimension.choices[int(share * len(dimension.choices))])
    low, high = dimension.low, dimension.high
    if dimension.kind == "int":
        return int(low) + int(share * (int(high) - int(low) + 1))
    return low * (high / low) ** share if dimension.log else low + share * (high - low)


def _radical_inverse(number: int, base: int) -> float:
    inverse, digit = 0.0, 1.0 / base
    while number:
        number, remainder = divmod(number, base)
        inverse += remainder * digit
        digit /= base
    return inverse


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


class ExportedProgram:
    """Writes the model as a program of ``torch.export``, which runs without the model's class."""

    entry = ExportEntry("pt2", "A program of torch.export, which needs no Python class.", file="model.pt2")

    def write(self, model: nn.Module, example: Example, path: Path) -> None:
        """Trace the model and save the program."""
        import torch

        torch.export.save(torch.export.export(model, example.args, dict(example.kwargs)), path)

    def run(self, path: Path, example: Example) -> Sequence[Tensor]:
        """Return the outputs of the program that was saved."""
        import torch

        from raycompress.bundle.structures import tensors_in

        with torch.no_grad():
            return tensors_in(example.call(torch.export.load(path).module()))


class Unfused(OnnxRuntime):
    """ONNX Runtime without its own rewriting of the graph, as a build for a small device may be."""

    entry = RuntimeEntry(
        name="unfused",
        summary="ONNX Runtime that fuses nothing.",
        make="raycompress_example:Unfused",
        form="onnx",
        libraries=("onnxruntime", "onnx"),
        install="raycompress[onnx]",
    )

    def settings(self, options: Options) -> Any:
        """Return the session's options, without optimizations."""
        import onnxruntime

        found = super().settings(options)
        found.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return found
