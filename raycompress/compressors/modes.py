"""create_compressor in trials that compress nothing: the dense baseline, inspection, verification, analysis."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from raycompress.bundle import bundle
from raycompress.bundle.example import Example, device_of
from raycompress.compressors.analysis.fits.latency_table import latency_table
from raycompress.compressors.base import Inspection, verify
from raycompress.compressors.create import evaluator_of
from raycompress.compressors.deploying.deploy import Deployment
from raycompress.compressors.deploying.in_trial import (
    calibration_of,
    conversions_of,
    rehearse_deployment,
    targets_of,
    verify_in,
)
from raycompress.compressors.distillation.teacher import too_late
from raycompress.compressors.interface import Compressor
from raycompress.compressors.masking.masks import FirstCall
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.rehearsal import Make, rehearse
from raycompress.compressors.saving.fingerprint import fingerprint
from raycompress.compressors.structure.inspection import inspect
from raycompress.deployment.conversions import Conversions
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import CompressionError, RaycompressError
from raycompress.model.costs import CostModel
from raycompress.model.info import BlockInfo, ModelInfo
from raycompress.model.latency_model import LatencyModel, LatencyPredictor
from raycompress.model.measures import EAGER, beside_eager
from raycompress.script.context import Trial


def for_mode(model: nn.Module, trial: Trial, dummy: Any, arguments: Mapping[str, Any], make: Make) -> Compressor:
    """Return the compressor for a mode other than ``trial``.

    Parameters
    ----------
    dummy
        What the script passed as ``dummy_input``, or None.
    arguments
        What else it passed by name.
    make
        Makes the compressor of a trial.
    """
    if trial.mode == "baseline":
        return DenseCompressor(model)
    if trial.mode == "verify":
        verify(trial, lambda folder: _loaded_and_compared(model, folder, arguments, trial))
    if trial.mode == "analyze":
        from raycompress.compressors.analysis.analyser import Analyser

        return Analyser(model, trial, dummy, arguments)
    if trial.mode == "survey":
        from raycompress.compressors.analysis.surveyor import Surveyor

        return Surveyor(model, trial, dummy, arguments)
    example = None if dummy is None else Example.for_model(dummy, model)
    return Inspector(model, trial, example, make, arguments)


class DenseCompressor(Compressor):
    """Prunes nothing and saves nothing: the baseline that compressed models are compared with."""


class Inspector(Compressor):
    """Records the model as soon as one input of it is known, and leaves the script there; see `Inspection`."""

    def __init__(
        self, model: nn.Module, trial: Trial, example: Example | None, make: Make, arguments: Mapping[str, Any]
    ) -> None:
        super().__init__(model)
        self._trial = trial
        self._make, self._arguments = make, arguments
        self._inspection: Inspection[Example] = Inspection(trial, self._described, self._rehearse)
        self._first_call = FirstCall(self._leave)
        if example is not None:
            self._leave(example)
        self._first_call.watch(model)
        self._is_late = False

    def compress(self, *_args: Any, **_kwargs: Any) -> nn.Module:
        """Return the model as it is."""
        self._is_late = True
        return self.model

    @property
    def teacher(self) -> nn.Module:
        """See `Compressor.teacher`: what a trial would be refused is refused here."""
        if self._teacher is None and self._is_late:
            raise too_late(self.model)
        return super().teacher

    def apply_speedup(self, dummy_input: Any = None, mask_path: str | None = None) -> nn.Module:
        """Record the model with this input, and leave."""
        if dummy_input is not None:
            self._leave(Example.for_model(dummy_input, self.model))
        return self.model

    def _leave(self, example: Example) -> NoReturn:
        self._first_call.cancel()  # looking at the model calls it
        self._inspection.leave(example)

    def _rehearse(self, example: Example) -> None:
        if self._trial.targets and "rehearse" in self._trial.analysis:
            rehearse_deployment(self._trial, self.model, example, lambda: self._int8_inputs)
        rehearse(self._trial, self._make, example)

    @cached_property
    def _int8_inputs(self) -> list[Example]:
        arguments = self._arguments
        targets = targets_of(self._trial)
        return calibration_of(targets, self.model, arguments.get("calibration"), arguments.get("evaluator"))

    def _described(self, example: Example | None) -> ModelInfo:
        given = self._arguments
        known = replace(inspect(self.model, example), has_evaluator=given.get("evaluator") is not None)
        if isinstance(round_to := given.get("round_to"), int):
            known = replace(known, script_round_to=round_to)
        if (asked := self._trial.analysis.get("blocks")) and example is not None:
            known = replace(known, blocks=self._blocks(example, is_ordered=asked == "ordered"))
        if self._trial.analysis.get("costs") and example is not None:
            known = _with_costs(known, self.model, example)
        if known.costs is not None and self._trial.latency and example is not None:
            known = self._with_latency(known, known.costs, example)
        if known.costs is not None and (asked := self._trial.analysis.get("file")) and example is not None:
            known = self._with_file_bytes(known, known.costs, example, asked)
        if example is not None and (names := self._trial.analysis.get("dense")):
            known = replace(known, dense_ms=self._dense_ms(names, example))
        return known

    def _blocks(self, example: Example, *, is_ordered: bool) -> tuple[BlockInfo, ...]:
        from raycompress.compressors.depth.in_pruner import influence_inputs
        from raycompress.compressors.depth.inspecting import inspect_blocks

        among = (self._arguments.get("calibration"), evaluator_of(self._arguments))
        return inspect_blocks(self.model, example, influence_inputs(self.model, *among) if is_ordered else None)

    def _dense_ms(self, names: Sequence[str], example: Example) -> dict[str, float]:
        """Time the model in some of the targets; those that it cannot be deployed in the rehearsal refuses."""
        from raycompress.compressors.analysis.fits.latency_model import alone

        found: dict[str, float] = {}
        for target in targets_of(self._trial):
            if target.name in names:
                with contextlib.suppress(RaycompressError):
                    inputs = self._int8_inputs if target.precision == "int8" else ()
                    kept = conversions_of(self._trial)
                    with Deployment(target, example, calibration=inputs, conversions=kept) as deployment:
                        deployed = deployment.deploy_unproved(self.model, "dense", keeps=True)
                        found[target.name] = alone(deployment, deployed)["latency_ms"]
        return found

    def _with_file_bytes(
        self, known: ModelInfo, costs: CostModel, example: Example, asked: Mapping[str, Any]
    ) -> ModelInfo:
        """Add what predicts the size of the file that the last stage makes."""
        from raycompress.compressors.analysis.fits.file_bytes import file_bytes

        try:
            found = file_bytes(self.model, example, costs, **asked, progress=self._progress)
            return replace(known, file_bytes=found)
        except RaycompressError as error:  # what cannot be quantized at all the rehearsal refuses
            return replace(known, file_bytes_unknown=error.problems[0].what)

    def _with_latency(self, known: ModelInfo, costs: CostModel, example: Example) -> ModelInfo:
        """Add what predicts the latency: in the deployment targets that are asked for, without any target in torch."""
        targets = targets_of(self._trial)
        if not targets:
            return replace(known, latency=latency_table(self.model, example))
        wanted = self._trial.analysis.get("deployed", {"targets": []})
        found: dict[str, LatencyPredictor] = {}
        unknown: list[str] = []
        for target in targets:
            if target.name in wanted["targets"]:
                try:
                    found[target.name] = self._in_target(target, costs, example, wanted)
                except RaycompressError as error:  # where the dense model cannot be deployed the rehearsal refuses it
                    unknown.append(error.problems[0].what)
        if EAGER in wanted["targets"]:
            found[EAGER] = latency_table(self.model, example)
        first = found.pop(targets[0].name, None)
        return replace(known, latency=first, latency_in=found, latency_unknown="; ".join(dict.fromkeys(unknown)))

    def _in_target(
        self, target: DeploymentTarget, costs: CostModel, example: Example, wanted: Mapping[str, Any]
    ) -> LatencyModel:
        from raycompress.compressors.analysis.fits.latency_model import latency_model

        return latency_model(
            self.model,
            example,
            target,
            costs=costs,
            calibration=self._int8_inputs if target.precision == "int8" else (),
            conversions=conversions_of(self._trial),
            known=[LatencyModel.from_json(one) for one in wanted["known"]],
            budget_s=wanted["budget_s"],
            progress=self._progress,
        )

    def _progress(self, done: int, total: int, what: str) -> None:
        self._trial.send({"type": "progress", "done": done, "total": total, "layer": what})


def _with_costs(known: ModelInfo, model: nn.Module, example: Example) -> ModelInfo:
    from raycompress.compressors.structure.costing import cost_model

    known = replace(known, weights=hashlib.sha256(json.dumps(fingerprint(model)).encode()).hexdigest())
    try:
        blocks = [block.name for block in known.blocks if not block.why_not]
        return replace(known, costs=cost_model(model, example, blocks))
    except CompressionError as error:
        return replace(known, costs_unknown=error.problems[0].what)


def _loaded_and_compared(model: nn.Module, folder: Path, arguments: Mapping[str, Any], trial: Trial) -> dict[str, Any]:
    dense = copy.deepcopy(model)
    bundle.load(folder, model)
    return compare(dense, model, folder, arguments, targets_of(trial), conversions_of(trial))


def compare(
    dense: nn.Module,
    small: nn.Module,
    folder: Path,
    arguments: Mapping[str, Any],
    targets: Sequence[DeploymentTarget] = (),
    conversions: Conversions | None = None,
) -> dict[str, Any]:
    """Compare `small` with the bundle's stored outputs, and measure it beside `dense`; plain JSON data.

    The files of a bundle that was deployed run in their runtimes.

    Parameters
    ----------
    arguments
        What `create_compressor` was given by name: ``calibration`` and ``evaluator`` are for targets in int8.
    targets
        What the model was deployed on.
    conversions
        Where the dense model's is known from.
    """
    example, outputs = bundle.reference(folder)
    device = device_of(small)
    if device is not None:
        example = example.to(device)
    difference = relative_difference(outputs, example.outputs(small))
    sizes = [measure.sizes(dense, example).to_json()]
    if bundle.read(folder).kind == "quantized":
        from raycompress.compressors.quantization.loading import fastest

        sizes.append(bundle.read(folder).after.model_dump())
        timed = fastest(folder, dense, small)
    else:
        sizes.append(measure.sizes(small, example).to_json())
        timed = small
    times = measure.latencies([dense, timed], measure.first_of_batch(example.with_least(small)))
    before, after = ({**size, **time.to_json()} for size, time in zip(sizes, times, strict=True))
    facts: dict[str, Any] = {"relative_difference": difference, "before": before, "after": after}
    deployed = verify_in(targets, folder, dense, small, example, arguments, conversions)
    if deployed.about:
        for side, there in (("before", deployed.before), ("after", deployed.after)):
            facts[side] = beside_eager(facts[side], there)
        facts["targets"] = {name: about["relative_difference"] for name, about in deployed.about.items()}
    return facts
