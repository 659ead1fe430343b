"""Checks of deployment targets: the device and its runtime, the converter here, and what a small model takes there."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from statistics import median

from raycompress.clusters.file.check import Check, State, warning
from raycompress.compressors.deploying.probe import probe
from raycompress.config.checks.targets import checked_targets, read_targets
from raycompress.config.text.reader import read
from raycompress.config.text.source import text_of
from raycompress.deployment.client import Agent
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import ExperimentError, RaycompressError

_FILES = (".json", ".jsonc")
_TRIPS = 9


def examine_targets(text: str) -> Iterator[Check]:
    """Yield the checks of every target that `text` names; see `targets_in`."""
    for target in targets_in(text):
        yield from _examine(target)


def targets_in(text: str) -> list[DeploymentTarget]:
    """Return the targets that a person names.

    Parameters
    ----------
    text
        An experiment file with the key ``target``, the name of a runtime, or a target as JSON: an object, or a list of
        several.

    Raises
    ------
    UsageError, ExperimentError
        It is none of these.
    """
    is_json = text.strip().startswith(("{", "["))
    if not is_json and (Path(text).is_file() or text.endswith(_FILES)):
        content = read(text_of(Path(text))).value
        found = content.get("target") if isinstance(content, Mapping) else None
        if found in (None, "max", "min"):
            raise ExperimentError(
                "this experiment has no deployment target",
                where=text,
                fix='"target": {"runtime": "onnxruntime"}, or --target with the name of a runtime',
            )
        return [DeploymentTarget.from_json(one) for one in checked_targets(found, text)]
    return [DeploymentTarget.from_json(one) for one in read_targets(text, "--target")]


def _examine(target: DeploymentTarget) -> Iterator[Check]:
    running = yield from _device(target)
    converter = yield from _converter(target, running)
    if running and converter:
        yield _small_model(target)


def _device(target: DeploymentTarget) -> Generator[Check, None, str]:
    """Look at the device; return the version of the runtime there, empty where it cannot run."""
    begun = time.monotonic()
    try:
        with Agent(target, converting=False) as agent:
            facts = agent.facts
            took = time.monotonic() - begun
            where = f"on {target.host}" if target.host else "here"
            yield Check(f"{target.name} runs", State.OK, f"{facts['version']} {where}, ready in {took:.1f} s")
            machine = f"{facts['machine']}: Python {facts['python']}, {facts['cores']} cores, {facts['processor']}"
            yield Check(f"{target.name} device", State.OK, machine)
            trips = []
            for _ in range(_TRIPS):
                begun = time.perf_counter()
                agent.ping()
                trips.append(1e3 * (time.perf_counter() - begun))
            yield Check(f"{target.name} round trip", State.OK, f"{median(trips):.2f} ms")
            return str(facts["version"])
    except RaycompressError as error:
        yield _failed(f"{target.name} runs", error)
        return ""


def _converter(target: DeploymentTarget, running: str) -> Generator[Check, None, str]:
    """Look at what converts models here; return its version, empty where it cannot."""
    name = f"{target.name} converts"
    try:
        with Agent(target.converting, running=False) as agent:
            version = str(agent.facts["version"])
    except RaycompressError as error:
        yield _failed(name, error)
        return ""
    if running and version != running:
        what = f"{version} converts here what {running} runs on {target.host}: it may not read it"
        yield warning(name, what, fix="install the same version in both places")
    else:
        yield Check(name, State.OK, f"{version} here")
    return version


def _small_model(target: DeploymentTarget) -> Check:
    name = f"{target.name} small model"
    try:
        latency, notes = probe(target)
    except RaycompressError as error:
        return _failed(name, error)
    found = f"{latency.wall_ms:.3f} ms, 95 % interval {latency.low_ms:.3f} to {latency.high_ms:.3f}"
    return Check(name, State.OK, "; ".join([f"{found}, in {target.precision}", *notes]))


def _failed(name: str, error: RaycompressError) -> Check:
    return Check(name, State.FAILED, error.problems[0].what, error.problems[0])
