"""What a trial does with its model in the targets of its experiment: files for the bundle, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from raycompress.bundle.bundle import read
from raycompress.bundle.example import Example
from raycompress.bundle.manifest import DEPLOYED, deployed_files
from raycompress.compressors.analysis.inputs import inputs_of, watched
from raycompress.compressors.deploying.deploy import Deployed, Deployment, Measurement, measured
from raycompress.deployment.client import entry_of
from raycompress.deployment.conversions import Conversions
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError, RaycompressError
from raycompress.model.measures import at
from raycompress.script.context import Trial


@dataclass
class InTargets:
    """A model and the dense one beside it, in all targets.

    Attributes
    ----------
    before, after
        What was measured of the dense model and of the other one: ``latency_ms@openvino``, and what was measured in
        the first target under plain names too.
    files
        Name in the bundle -> content.
    about
        Target -> what the bundle's manifest says of it.
    notes
        What a person should know.
    is_left_out
        Whether the model was not deployed, since it breaks a constraint already.
    """

    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_left_out: bool = False

    def add(
        self, place: int, target: DeploymentTarget, deployed: tuple[Deployed, Deployed], measurement: Measurement
    ) -> None:
        """Add what was measured in one target: of the dense model, and of the other one."""
        for side, one, latency in zip((self.before, self.after), deployed, measurement.latencies, strict=True):
            facts = measured(latency, one)
            side.update({at(name, target.name): value for name, value in facts.items()})
            side.update(facts if place == 0 else {})
        self.notes += [f"{target.name}: {note}" for note in measurement.notes]


def targets_of(trial: Trial | None) -> list[DeploymentTarget]:
    """Return the targets of a trial's experiment; none by hand."""
    return [] if trial is None else [DeploymentTarget.from_json(one) for one in trial.targets]


def conversions_of(trial: Trial) -> Conversions:
    """Return what the trials of a search have converted on this node."""
    return Conversions(None if trial.shared is None else trial.shared / "conversions")


def calibration_of(
    targets: Iterable[DeploymentTarget],
    model: nn.Module,
    calibration: Iterable[Any] | None,
    evaluator: Callable[[nn.Module], Any] | None,
) -> list[Example]:
    """Return inputs to find the ranges of int8 with: of the loader, or what the evaluator calls the model with.

    Raises
    ------
    DeploymentError
        A target wants int8, and the script gives neither.
    """
    wanting = [target for target in targets if target.precision == "int8"]
    if not wanting:
        return []
    if calibration is None and evaluator is None:
        raise DeploymentError(
            "int8 needs inputs to find the ranges of activations with, and the script gives none",
            where=f"target {wanting[0].name}",
            fix="create_compressor(..., calibration=loader), or evaluator=",
        )
    return inputs_of(model, calibration, lambda: watched(model, evaluator)[1] if evaluator is not None else [])


def deploy_in(
    trial: Trial,
    dense: nn.Module,
    small: nn.Module,
    example: Example,
    *,
    calibration: Sequence[Example] = (),
    onnx: bytes | None = None,
) -> InTargets:
    """Convert both models for each target of the trial, prove them, and time them in turn; several devices at a time.

    Parameters
    ----------
    dense, small
        The model before it was compressed, and what is saved, as it was measured.
    onnx
        The small one's int8 file, where a quantizer has made it.

    Raises
    ------
    DeploymentError
        A target's runtime cannot convert or run one of them, or computes something else.
    """
    found = InTargets()
    with ExitStack() as opened, ThreadPoolExecutor() as pool:
        running = []
        # a target was reached at inspection: one that is gone now is waited for
        for target, deployment in _deployments(trial, example, calibration, waits_at_start=True):
            is_onnx = entry_of(target).form == "onnx"
            with ExitStack() as this:
                this.enter_context(deployment)
                whole = deployment.deploy(dense, "dense")
                rest = deployment.deploy(small, "small", onnx=onnx if is_onnx else None)
                measuring = pool.submit(deployment.measure, [whole, rest])
                if target.host:  # while it measures, this machine goes on with the next
                    opened.push(this.pop_all())
                else:
                    measuring.result()
            running.append((target, deployment.version, (whole, rest), measuring))
        for place, (target, version, pair, measuring) in enumerate(running):
            found.add(place, target, pair, measuring.result())
            found.files |= {f"{DEPLOYED}/{target.name}/{name}": content for name, content in pair[1].files.items()}
            found.about[target.name] = _about(target, version, pair[1])
    return found


def verify_in(
    targets: Iterable[DeploymentTarget],
    folder: Path,
    dense: nn.Module,
    small: nn.Module,
    example: Example,
    arguments: Mapping[str, Any],
    conversions: Conversions | None = None,
) -> InTargets:
    """Run the files of a bundle in the runtimes that they are for, beside conversions of the dense model.

    Parameters
    ----------
    targets
        Of the experiment. What a bundle itself says of its targets is not followed: it may come from a stranger, and a
        target names a program to start and a machine to reach.
    folder
        The bundle.
    small
        The model that it gives.
    arguments
        What the script passed by name, ``calibration`` and ``evaluator`` among them.
    conversions
        Where the dense model's is known from.

    Raises
    ------
    DeploymentError
        A runtime is not there, or the files compute something else than `small`.
    """
    found = InTargets()
    manifest = read(folder)
    there = [target for target in targets if target.name in manifest.targets]
    calibration = calibration_of(there, dense, arguments.get("calibration"), arguments.get("evaluator"))
    for place, target in enumerate(there):
        files = deployed_files(folder, manifest, target.name)
        with Deployment(target, example, calibration=calibration, conversions=conversions) as deployment:
            whole = deployment.deploy(dense, "dense")
            rest = deployment.load(small, "small", files, is_int8=manifest.kind == "quantized")
            found.add(place, target, (whole, rest), deployment.measure([whole, rest]))
        found.about[target.name] = {"relative_difference": rest.difference}
    return found


def rehearse_deployment(
    trial: Trial, model: nn.Module, example: Example, int8_inputs: Callable[[], Sequence[Example]]
) -> None:
    """Deploy the dense model in each target; send what goes wrong as a message of type ``refused``.

    Parameters
    ----------
    int8_inputs
        Returns what `calibration_of` does, or raises its error.
    """
    try:
        for _, deployment in _deployments(trial, example, int8_inputs()):
            with deployment:
                deployment.deploy(model, "dense")
    except RaycompressError as error:
        problems = [asdict(problem) for problem in error.problems]
        trial.send({"type": "refused", "error": type(error).__name__, "problems": problems})


def _deployments(
    trial: Trial, example: Example, calibration: Sequence[Example], *, waits_at_start: bool = False
) -> Iterator[tuple[DeploymentTarget, Deployment]]:
    kept = conversions_of(trial)
    for target in targets_of(trial):
        yield (
            target,
            Deployment(target, example, calibration=calibration, conversions=kept, waits_at_start=waits_at_start),
        )


def _about(target: DeploymentTarget, version: str, deployed: Deployed) -> dict[str, Any]:
    return {
        "target": target.to_json(),
        "version": version,
        "relative_difference": deployed.difference,
        "conversion_s": round(deployed.seconds, 3),
        "files": sorted(deployed.files),
    }
