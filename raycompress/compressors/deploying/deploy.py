"""Deploys models to a target: converts them, proves each against torch, and times them in turn."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example, device_of
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
from raycompress.deployment.pace import SLOWER, Pace
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError

BOUNDS = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 3e-1}
"""Precision -> how far outputs may lie from those of the measured model, relative to their norm."""

PAUSES_THERE_S, PAUSES_HERE_S = (5.0, 10.0, 20.0, 40.0, 60.0), (2.0, 4.0, 8.0)
"""How long a device that throttles is left to cool down before each further measurement; here trials wait for it."""


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
        Of its outputs to those of the model in torch, relative to their norm; NaN where they were not compared.
    memory_mb
        What the runtime plans for one pass; None where it does not tell.
    identity
        A hash of all that decided the conversion.
    """

    key: str
    files: Files
    seconds: float
    difference: float
    memory_mb: float | None
    identity: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return sum(map(len, self.files.values()))


@dataclass(frozen=True)
class Measurement:
    """Latencies of models that were timed in turn.

    Attributes
    ----------
    latencies
        One for each model.
    notes
        What a reader should know that happened since the measurement before, a line each: a connection that was lost,
        a device that was slow.
    """

    latencies: list[Latency]
    notes: list[str]


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

    Attributes
    ----------
    notes
        What happened so far, see `Measurement`.
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
        self._paces: dict[str, Pace] = {}
        self._measured_notes = 0
        self._agent = LastingAgent(
            target, converting=not target.host, patience_s=patience_s, waits_at_start=waits_at_start
        )
        self._converter = LastingAgent(target.converting, running=False) if target.host else self._agent
        self.notes = self._converter.notes = self._agent.notes

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
    def circumstances(self) -> list[Any]:
        """What times depend on beside the model: the target, its runtime's and its converter's version, the machine."""
        facts = self._agent.facts
        machine = [facts[name] for name in ("machine", "processor", "cores", "version")]
        return [self.target.to_json(), *machine, self._converter.facts["version"]]

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
        identity = self._identity(model, onnx)
        files, seconds = self._converted(identity, model, onnx)
        return self.load(model, key, files, seconds=seconds, is_int8=onnx is not None, identity=identity)

    def deploy_unproved(self, model: nn.Module, key: str, *, keeps: bool = False) -> Deployed:
        """Convert a model that is only timed, whose weights may be anything, and load it under `key`.

        Parameters
        ----------
        keeps
            Whether the conversion is kept for whoever deploys the same model later.
        """
        files, seconds = self._converted(self._identity(model, None) if keeps else "", model, None)
        return Deployed(key, files, seconds, math.nan, self._agent.load(key, files))

    def load(
        self,
        model: nn.Module,
        key: str,
        files: Files,
        *,
        seconds: float = 0.0,
        is_int8: bool = False,
        identity: str = "",
    ) -> Deployed:
        """Load converted files under `key`, and prove that they compute what `model` does in torch.

        Parameters
        ----------
        seconds
            What converting took.
        is_int8
            Whether they are int8, whatever the target's precision: a quantizer has made them.
        identity
            As in `Deployed`.

        Raises
        ------
        DeploymentError
            As `deploy`.
        """
        memory = self._agent.load(key, files)
        difference = self._difference(model, key, self._examples())
        bound = BOUNDS["int8" if is_int8 else self.target.precision]
        if not difference <= bound:
            raise self._something_else(difference, bound, self._first(model, bound))
        return Deployed(key, files, seconds, difference, memory, identity)

    def load_known(
        self, key: str, files: Files, outputs: Sequence[Tensor], *, seconds: float = 0.0, is_int8: bool = False
    ) -> Deployed:
        """Load converted files of a model whose outputs for the example are known, as `load` does.

        For int8 the difference is found and not judged: the example may be noise, outside of the calibrated ranges.

        Parameters
        ----------
        outputs
            Of the example as it was given; for a larger batch they are repeated, as it is.
        """
        memory = self._agent.load(key, files)
        expected = of_batch(Example(tuple(outputs), {}), self.target.batch)
        found = self._agent.run(key, arrays_of(self.example))
        difference = relative_difference(arrays_of(expected), found)
        if not is_int8 and not difference <= (bound := BOUNDS[self.target.precision]):
            raise self._something_else(difference, bound, "")
        return Deployed(key, files, seconds, difference, memory)

    def convert(self, onnx: bytes) -> tuple[Files, float]:
        """Return an ONNX file as the runtime reads it, in the precision that it has, and the seconds that it took."""
        return self._converter.convert(onnx, as_it_is=True)

    def _something_else(self, difference: float, bound: float, layer: str) -> DeploymentError:
        return DeploymentError(
            f"{self.version} computes something else in {self.target.precision}: outputs differ by "
            f"{difference:.2g} of their norm, where {bound:g} is allowed{layer}",
            where=f"target {self.target.name}",
            fix="another precision or runtime, or leave this layer as it is",
        )

    def latencies(self, deployed: Sequence[Deployed], *, most: int = 240, seconds: float = 10.0) -> list[Latency]:
        """Time the models in turn until their intervals are narrow; see `timing.rounds`."""
        return [Latency.of(one) for one in self._times(deployed, most, seconds)[0]]

    def passes(self, deployed: Sequence[Deployed], *, rounds: int, seconds: float) -> list[Times]:
        """Return the times of up to so many passes of each model, one at least; the models run in turn."""
        keys = [one.key for one in deployed]
        return self._agent.time(keys, arrays_of(self.example), rounds=rounds, warm_up=2, seconds=seconds)

    def measure(self, deployed: Sequence[Deployed], *, most: int = 240, seconds: float = 10.0) -> Measurement:
        """Time the models in turn, as `latencies` does, and again after a while where the device is slower than it was.

        It is told by the first model, the dense one: by its blocks, and by its median in other measurements. A device
        that stays slow is accepted, with a note: all models were timed in turn, so that their shares stand.
        """
        pace, where = self._pace(deployed[0]), self.target.host or "this machine"
        pauses, worst, begun = iter(PAUSES_THERE_S if self.target.host else PAUSES_HERE_S), 1.0, time.monotonic()
        while True:
            times, blocks = self._times(deployed, most, seconds)
            slowdown = pace.slowdown(blocks)
            pause = next(pauses, None)
            if slowdown <= SLOWER or pause is None:
                break
            worst = max(worst, slowdown)
            time.sleep(pause)
        if worst > 1:
            self.notes.append(_slow(where, worst, slowdown, time.monotonic() - begun))
        if slowdown <= SLOWER < pace.excess(blocks):
            self.notes.append(_still_slow(where, pace.excess(blocks)))
        pace.accept(blocks)
        begin, self._measured_notes = self._measured_notes, len(self.notes)
        return Measurement([Latency.of(one) for one in times], self.notes[begin:])

    def _times(self, deployed: Sequence[Deployed], most: int, seconds: float) -> tuple[list[Times], list[float]]:
        """Return the times of each model, and the median of the first in each block; see `latencies`."""
        times: list[Times] = [[] for _ in deployed]
        blocks: list[float] = []
        inputs, keys = arrays_of(self.example), [one.key for one in deployed]
        block, left = 30, seconds
        while True:
            found = self._agent.time(keys, inputs, rounds=block, warm_up=5 if not times[0] else 1, seconds=left)
            for known, new in zip(times, found, strict=True):
                known += new
            if len(found[0]) >= timing.FEWEST or not blocks:
                blocks.append(median(max(wall if self.target.device == "gpu" else cpu, 1e-9) for wall, cpu in found[0]))
            left -= sum(wall for one in found for wall, _ in one)
            done = len(times[0])
            is_sharp = all(Latency.of(one).is_sharp for one in times)
            if done >= timing.FEWEST and (is_sharp or done >= most or left <= 0):
                return times, blocks
            block = max(min(done, most - done), timing.FEWEST - done)

    def _pace(self, dense: Deployed) -> Pace:
        """Return the pace of the dense model on this very machine."""
        if dense.identity not in self._paces:
            where = [*self.circumstances, dense.identity]
            name = f"pace-{hashlib.sha256(repr(where).encode()).hexdigest()[:16]}.json"
            self._paces[dense.identity] = Pace(self._conversions.beside(name))
        return self._paces[dense.identity]

    def _converted(self, name: str, model: nn.Module, onnx: bytes | None) -> tuple[Files, float]:
        """Return the files of a model and the seconds that they took; without a name nothing is looked up or kept."""
        known = self._conversions.find(name) if name else None
        if known is not None:
            return known, 0.0
        content = onnx
        if content is None:
            content = source_of(model, self.example, self._agent.entry.form)
        is_int8 = self.target.precision == "int8" and onnx is None
        samples = samples_of(self._calibration, self.example) if is_int8 else []
        files, seconds = self._converter.convert(content, samples, as_it_is=onnx is not None)
        if name:
            self._conversions.keep(name, files)
        return files, seconds

    def _identity(self, model: nn.Module, onnx: bytes | None) -> str:
        """Return a hash of all that decides what the conversion gives."""
        converter = [self._converter.facts["version"], self.target.converting.to_json()]
        facts = [*converter, str(model), self.example.shapes, fingerprint(model)]
        found = hashlib.sha256(repr(facts).encode())
        for tensor in model.state_dict().values():
            found.update(array_of(tensor).tobytes())
        found.update(onnx or b"")
        return found.hexdigest()

    def _examples(self) -> list[Example]:
        """Return the inputs to compare on: the example and a random one, or for int8 what it is calibrated with.

        Int8 cuts off what lies outside of the ranges that it was calibrated for, and scripts pass noise as an example.
        """
        if self.target.precision == "int8":
            known = [piece for one in self._calibration[:1] for piece in one.pieces(self.target.batch)]
            return [one for one in known[:4] if one.shapes == self.example.shapes] or [self.example]
        return [self.example, self.example.random(1)]

    def _difference(self, model: nn.Module, key: str, examples: Sequence[Example]) -> float:
        worst = 0.0
        device = device_of(model) or torch.device("cpu")
        for example in examples:
            expected = [array_of(tensor) for tensor in example.to(device).outputs(model)]
            found: list[Array] = self._agent.run(key, arrays_of(example))
            difference = relative_difference(expected, found)
            worst = max(worst, difference) if not math.isnan(difference) else math.inf
        return worst

    def _first(self, model: nn.Module, bound: float) -> str:
        """Return which layer is the first to differ, as the end of a sentence."""

        def differs(part: nn.Module, example: Example) -> bool:
            files, _ = self._converter.convert(source_of(part, example, self._agent.entry.form), samples)
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


def _slow(where: str, worst: float, last: float, seconds: float) -> str:
    """Return the note of a measurement that was repeated."""
    was = f"{where} ran the dense model up to {worst - 1:.0%} slower than usual"
    if last <= SLOWER:
        return f"{was}; measured again after {seconds:.0f} s, when it did no longer"
    return (
        f"{was}, and still {last - 1:.0%} slower after {seconds:.0f} s: times are of the slower machine, shares stand"
    )


def _still_slow(where: str, excess: float) -> str:
    """Return the note of a measurement at a slower pace that was accepted before."""
    return f"{where} runs the dense model {excess - 1:.0%} slower than its fastest: shares stand, times are of now"
