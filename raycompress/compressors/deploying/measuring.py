"""`measure`: a bundle, or a model, run and timed in an inference runtime, here or on another machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.bundle.manifest import DEPLOYED, Manifest, deployed_files
from raycompress.compressors.deploying.deploy import BOUNDS, Deployed, Deployment, measured
from raycompress.compressors.deploying.in_trial import calibration_of
from raycompress.config.checks.targets import checked_targets, read_targets
from raycompress.deployment.client import Files, entry_of
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError, UsageError

Target = str | Mapping[str, Any]
"""A deployment target as a caller writes it: the name of a runtime, or an object as in an experiment file."""
_OF_NOISE = (
    "outputs for the bundle's example are others in int8: it lies outside of the ranges that int8 was calibrated for, "
    "as noise does; the file was proved on inputs of the calibration when it was saved"
)


@dataclass(frozen=True)
class Measured:
    """What a model takes in a target.

    Attributes
    ----------
    target
        The target's name.
    version
        Name and version of its runtime.
    latency_ms, latency_low_ms, latency_high_ms
        Median time of one pass, and a 95 % confidence interval of it.
    cpu_ms
        Its CPU time.
    size_bytes
        Bytes of the files that the runtime reads.
    relative_difference
        Of its outputs to the bundle's, or to the model's in torch.
    peak_memory_mb
        What the runtime plans for one pass; None where it does not tell.
    notes
        What happened meanwhile: a lost connection, a device that was slow.
    """

    target: str
    version: str
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    cpu_ms: float
    size_bytes: int
    relative_difference: float
    peak_memory_mb: float | None = None
    notes: tuple[str, ...] = ()


def measure(
    what: nn.Module | str | os.PathLike[str],
    /,
    target: Target,
    *,
    example_inputs: Any = None,
    model: nn.Module | None = None,
    calibration: Any = None,
    seconds: float = 10.0,
) -> Measured:
    """Run and time a model in the runtime of a target.

    Parameters
    ----------
    what
        A bundle's folder, or a model.
    target
        The name of a runtime, or a target as in an experiment file.
    example_inputs
        An input of the model, as `raycompress.compress` takes it; of a bundle its own is used.
    model
        A fresh instance of the bundle's class, for a target that the bundle holds no file for.
    calibration
        A loader of inputs, for a target in int8.
    seconds
        For how long it is timed at most.

    Raises
    ------
    UsageError
        The target is none, or there are several, or an argument is missing.
    BundleError
        The bundle is broken.
    DeploymentError
        The runtime cannot run the model, or computes something else.

    Examples
    --------
    >>> measure("raycompress_results/digits-auto-20260101-120000/best", "openvino")  # doctest: +SKIP
    """
    place, *others = targets_from(target)
    if others:
        several = f"a model is measured in one target at a time, not in {1 + len(others)}"
        raise UsageError(several, where="target", fix="measure it in one after the other")
    if isinstance(what, nn.Module):
        if example_inputs is None:
            raise UsageError("a model is measured with an input of it", where="rc.measure", fix="example_inputs=")
        example = Example.for_model(example_inputs, what)
        inputs = calibration_of([place], what, calibration, None)
        with Deployment(place, example, calibration=inputs) as deployment:
            return _measured(deployment, deployment.deploy(what, "model"), seconds)
    folder = Path(what)
    bundle.check_hashes(folder)
    return _of_bundle(folder, place, model, calibration, seconds)


def targets_from(given: Target | Sequence[Target]) -> tuple[DeploymentTarget, ...]:
    """Return the target that a caller names, or several, checked; UsageError where one is none."""
    if isinstance(given, str):
        found = read_targets(given, "target")
    else:
        found = checked_targets([*given] if isinstance(given, Sequence) else given, "target")
    return tuple(map(DeploymentTarget.from_json, found))


def _of_bundle(
    folder: Path, target: DeploymentTarget, model: nn.Module | None, calibration: Any, seconds: float
) -> Measured:
    manifest = bundle.read(folder)
    example, outputs = bundle.reference(folder)
    files = _deployed_files(folder, manifest, target)
    if model is not None and files is None:
        inputs = calibration_of([target], model, calibration, None)
        small = bundle.load(folder, model)
        with Deployment(target, example, calibration=inputs) as deployment:
            return _measured(deployment, deployment.deploy(small, "model"), seconds)
    source = None if files is not None else _onnx_of(folder, manifest, target)
    is_int8 = manifest.kind == "quantized" or target.precision == "int8"
    with Deployment(target, example) as deployment:
        ready, taken = (files, 0.0) if files is not None else deployment.convert(source or b"")
        found = deployment.load_known("model", ready, outputs, seconds=taken, is_int8=is_int8)
        return _measured(deployment, found, seconds)


def _deployed_files(folder: Path, manifest: Manifest, target: DeploymentTarget) -> Files | None:
    """Return the files that the bundle holds for such a target, on whatever device; None where there are none."""
    for name, about in manifest.targets.items():
        known = DeploymentTarget.from_json(about.target)
        if (known.runtime, known.precision, known.batch) == (target.runtime, target.precision, target.batch):
            return deployed_files(folder, manifest, name)
    return None


def _onnx_of(folder: Path, manifest: Manifest, target: DeploymentTarget) -> bytes:
    """Return an ONNX file of the bundle that a target's converter reads."""
    names = [bundle.INT8_ONNX, bundle.ONNX]
    names += [
        f"{DEPLOYED}/{name}/model.onnx"
        for name, about in manifest.targets.items()
        if about.target["runtime"] == "onnxruntime" and "precision" not in about.target
    ]
    there = [name for name in names if name in manifest.files]
    if entry_of(target).form == "onnx" and target.precision == "fp32" and there:
        return (folder / there[0]).read_bytes()
    needs = "an ONNX file" if entry_of(target).form == "onnx" else "a program of torch.export"
    raise DeploymentError(
        f"the bundle holds no file for {target.name}, which is made of {needs}",
        where=str(folder),
        fix="rc.measure(bundle, target, model=YourModel()) converts it; a search with this target keeps its file",
    )


def _measured(deployment: Deployment, deployed: Deployed, seconds: float) -> Measured:
    measurement = deployment.measure([deployed], seconds=seconds)
    (latency,) = measurement.latencies
    notes = [*measurement.notes, *([_OF_NOISE] if deployed.difference > BOUNDS["int8"] else [])]
    return Measured(
        target=deployment.target.name,
        version=deployment.version,
        relative_difference=deployed.difference,
        notes=tuple(notes),
        **measured(latency, deployed),
    )
