"""Deploys models to a target: converts them, proves each against torch, and times them in turn."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.deploying.bisection import first_difference
from raycompress.compressors.deploying.forms import array_of, arrays_of, of_batch, samples_of, source_of
from raycompress.compressors.measure import timing
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.measure.timing import Latency, Times
from raycompress.compressors.saving.fingerprint import fingerprint
from raycompress.deployment.agent.frames import Array
from raycompress.deployment.client import Files
from raycompress.deployment.conversions import Conversions
from raycompress.deployment.lasting import PATIENCE_S, LastingAgent
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError

BOUNDS = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 3e-1}
"""Precision -> how far outputs may lie from those of the measured model, relative to their norm."""


@dataclass(frozen=True)
class Deployed:
    """One model, converted and loaded.

    Attributes
    ----------
    key
        The agent's name of it.
    files
        What the runtime reads.
    seconds
        What converting took; 0 where the conversion was known.
    difference
        Of its outputs to those of the model in torch, relative to their norm.
    memory_mb
        What the runtime plans for one pass; None where it does not tell.
    """

    key: str
    files: Files
    seconds: float
    difference: float
    memory_mb: float | None

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return sum(map(len, self.files.values()))


class Deployment:
    """A target's runtime at work; a context.

    Parameters
    ----------
    target
        What models are made for.
    example
        One input; it is brought to the target's batch.
    calibration
        Examples to find the ranges of int8 with.
    conversions
        What was converted before.
    patience_s, waits_at_start
        As in `LastingAgent`: for a trial of a search, whose target was reached before it began, `waits_at_start`.
    """

    def __init__(
        self,
        target: DeploymentTarget,
        example: Example,
        *,
        calibration: Sequence[Example] = (),
        conversions: Conversions | None = None,
        patience_s: float = PATIENCE_S,
        waits_at_start: bool = False,
    ) -> None:
        self.target = target
        self.example = of_batch(example.to(torch.device("cpu")), target.batch)
        self._calibration = calibration
        self._conversions = conversions or Conversions(None)
        self._open = ExitStack()
        self._agent = LastingAgent(
            target, converting=not target.host, patience_s=patience_s, waits_at_start=waits_at_start
        )
        self._converter = LastingAgent(target.converting) if target.host else self._agent

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            for agent in dict.fromkeys([self._converter, self._agent]):
                opened.enter_context(agent)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._open.close()

    @property
    def version(self) -> str:
        """Name and version of the runtime."""
        return str(self._agent.facts["version"])

    @property
    def notes(self) -> list[str]:
        """What happened to the agents, a line each: connections that were lost, and measurements repeated for it."""
        return [*self._converter.notes, *(self._agent.notes if self._agent is not self._converter else ())]

    def deploy(self, model: nn.Module, key: str, *, onnx: bytes | None = None) -> Deployed:
        """Convert `model`, load it under `key`, and prove that it computes what it does in torch.

        Parameters
        ----------
        onnx
            The model as ONNX, where it is that already, in the precision that it shall have.

        Raises
        ------
        DeploymentError
            It cannot be converted or run, or computes something else; then the first layer that differs is named.
        """
        files, seconds = self._converted(model, onnx)
        memory = self._agent.load(key, files)
        difference = self._difference(model, key, self._examples())
        bound = BOUNDS[self.target.precision if onnx is None else "int8"]
        if not difference <= bound:
            raise DeploymentError(
                f"{self.version} computes something else in {self.target.precision}: outputs differ by "
                f"{difference:.2g} of their norm, where {bound:g} is allowed{self._first(model, bound)}",
                where=f"target {self.target.name}",
                fix="another precision or runtime, or leave this layer as it is",
            )
        return Deployed(key, files, seconds, difference, memory)

    def latencies(self, deployed: Sequence[Deployed], *, most: int = 240, seconds: float = 10.0) -> list[Latency]:
        """Time the models in turn until their intervals are narrow; see `timing.rounds`."""
        times: list[Times] = [[] for _ in deployed]
        inputs, keys = arrays_of(self.example), [one.key for one in deployed]
        block, left = 30, seconds
        while True:
            found = self._agent.time(keys, inputs, rounds=block, warm_up=5 if not times[0] else 1, seconds=left)
            for known, new in zip(times, found, strict=True):
                known += new
            left -= sum(wall for one in found for wall, _ in one)
            done = len(times[0])
            is_sharp = all(Latency.of(one).is_sharp for one in times)
            if done >= timing.FEWEST and (is_sharp or done >= most or left <= 0):
                return [Latency.of(one) for one in times]
            block = max(min(done, most - done), timing.FEWEST - done)

    def _converted(self, model: nn.Module, onnx: bytes | None) -> tuple[Files, float]:
        name = self._identity(model, onnx)
        known = self._conversions.find(name)
        if known is not None:
            return known, 0.0
        content = onnx
        if content is None:
            content = source_of(model, self.example, self._agent.entry.form).content
        is_int8 = self.target.precision == "int8" and onnx is None
        samples = samples_of(self._calibration, self.example) if is_int8 else []
        files, seconds = self._converter.convert(content, samples, as_it_is=onnx is not None)
        self._conversions.keep(name, files)
        return files, seconds

    def _identity(self, model: nn.Module, onnx: bytes | None) -> str:
        """Return a hash of all that decides what the conversion gives."""
        converter = [self._converter.facts["version"], self.target.converting.to_json()]
        told = [*converter, str(model), self.example.shapes, fingerprint(model)]
        found = hashlib.sha256(repr(told).encode())
        for tensor in model.state_dict().values():
            found.update(array_of(tensor).tobytes())
        found.update(onnx or b"")
        return found.hexdigest()

    def _examples(self) -> list[Example]:
        """Return the inputs to compare on: the example, and what calibrates or, in float, a random one."""
        if self.target.precision == "int8":
            known = [piece for one in self._calibration[:1] for piece in one.pieces(self.target.batch)]
            return [self.example, *[one for one in known[:3] if one.shapes == self.example.shapes]]
        return [self.example, self.example.random(1)]

    def _difference(self, model: nn.Module, key: str, examples: Sequence[Example]) -> float:
        worst = 0.0
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        for example in examples:
            expected = [array_of(tensor) for tensor in example.to(device).outputs(model)]
            found: list[Array] = self._agent.run(key, arrays_of(example))
            difference = relative_difference(expected, found)
            worst = max(worst, difference) if not math.isnan(difference) else math.inf
        return worst

    def _first(self, model: nn.Module, bound: float) -> str:
        """Return which layer is the first to differ, as the end of a sentence."""

        def differs(part: nn.Module, example: Example) -> bool:
            files, _ = self._converter.convert(source_of(part, example, self._agent.entry.form).content, samples)
            self._agent.load("part", files)
            try:
                return not self._difference(part, "part", [example]) <= bound
            finally:
                self._agent.drop("part")

        samples = samples_of(self._calibration, self.example) if self.target.precision == "int8" else []
        layer = first_difference(model, self.example, differs)
        return f"; the first layer that differs is {layer}" if layer else ""


def measured(latency: Latency, deployed: Deployed) -> dict[str, Any]:
    """Return what a trial's message and a manifest say of a deployed model: its latency, size and memory."""
    memory = {} if deployed.memory_mb is None else {"peak_memory_mb": deployed.memory_mb}
    return {**latency.to_json(), "size_bytes": deployed.size_bytes, **memory}
