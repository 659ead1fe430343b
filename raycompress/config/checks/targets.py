"""Checks of the deployment targets, and of the metrics that are measured in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raycompress.catalog import CompressorEntry
from raycompress.catalog.quantizers import IN_ONNX
from raycompress.catalog.runtimes import RUNTIMES, RuntimeEntry
from raycompress.config.objective import is_measured
from raycompress.config.schema.ranges import Finding
from raycompress.config.text.reader import JsonPath, read
from raycompress.deployment.target import PRECISIONS, DeploymentTarget
from raycompress.errors import Problem, UsageError
from raycompress.model.measures import EAGER, MEMORY, at, measure_of, target_of
from raycompress.text import did_you_mean, join_names


def check_targets(
    objectives: Mapping[str, Any],
    constraints: Mapping[str, Any],
    data: Mapping[str, Any],
    compressor: CompressorEntry | None,
) -> Iterator[Finding]:
    """Yield what a target cannot do, and metrics in a target that is not there."""
    written = list(_written(data.get("target")))
    names = [EAGER] if written else []
    tells_memory = False
    for path, one in written:
        entries = RUNTIMES.find(one["runtime"]) if one.get("runtime") in RUNTIMES.names() else ()
        for entry in entries:
            tells_memory |= entry.tells_memory
            yield from _check_target(path, one, entry)
            if compressor is not None and compressor.kind == "quantization" and entry.form != "onnx":
                what = f"what {compressor.name} makes is saved as ONNX, which {entry.name} does not read"
                fix = 'write "runtime": "onnxruntime", or "openvino"; a pruner with "precision": "int8" goes to any'
                yield Finding((*path, "runtime"), what, fix)
            elif not entry.reads_four_bits and compressor is not None and _writes_four_bits(compressor, data):
                what = f"{entry.name} does not read the layers of 4 bits that {compressor.name} writes"
                yield Finding(
                    (*path, "runtime"), what, 'write "runtime": "onnxruntime"; or give no layer "quant_bits": 4'
                )
        if entries and all(isinstance(value, str | int) for value in one.values()):
            name = DeploymentTarget.from_json(one).name
            if name in names:
                yield Finding(path, f"the target {name} is there twice", "remove one of the two")
            names.append(name)
    resource_args = data.get("resource_args")
    if written and isinstance(resource_args, dict) and resource_args.get("save_model") is False:
        what = '"save_model" is false, so that there is no model for the target'
        yield Finding(("resource_args", "save_model"), what, "remove it")
    if written and compressor is not None and compressor.framework != "torch":
        yield Finding(("target",), "models of torch alone are converted for a target", "remove it")
    for key, named in (("objectives", objectives), ("constraints", constraints)):
        for metric in named:
            where = target_of(metric)
            if is_measured(metric) and where and where not in names:
                every = [at(measure_of(metric), name) for name in names]
                what = f'"{metric}" is measured in the target "{where}", which "target" does not name'
                yield Finding((key, metric), what, did_you_mean(metric, every) or f"use one of {join_names(every)}")
            if measure_of(metric) == MEMORY and not tells_memory:
                what = f'no runtime of "target" tells "{metric}"'
                yield Finding((key, metric), what, "remove it")


def _written(given: Any) -> Iterator[tuple[JsonPath, Mapping[str, Any]]]:
    """Yield each deployment target of a key ``target`` with its place; the name of a runtime is one too."""
    for place, one in enumerate(given if isinstance(given, list) else [given]):
        target = {"runtime": one} if isinstance(one, str) and one in RUNTIMES.names() else one
        if isinstance(target, dict):
            yield ("target", place) if isinstance(given, list) else ("target",), target


def _writes_four_bits(compressor: CompressorEntry, data: Mapping[str, Any]) -> bool:
    """Tell whether a layer may get 4 bits in the ONNX file that the compressor, the last stage, writes."""
    if compressor.name not in IN_ONNX:
        return False
    stages = data.get("compression")
    last = stages[-1] if isinstance(stages, list) and stages else stages
    entries = last.get("config_list") if isinstance(last, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        bits = entry.get("quant_bits") if isinstance(entry, dict) else None
        values = bits.get("range") if isinstance(bits, dict) else [bits]
        if isinstance(values, list) and 4 in values:
            return True
    return False


def read_targets(text: str, where: str) -> list[dict[str, Any]]:
    """Return the targets that a person writes on a command line, as an experiment file has them.

    Parameters
    ----------
    text
        The name of a runtime, or a target as JSON: an object, or a list of several.
    where
        The option that it stands behind, for errors.

    Raises
    ------
    UsageError
        It is neither.
    """
    given: Any = read(text).value if text.strip().startswith(("{", "[")) else {"runtime": text}
    return checked_targets(given, where)


def checked_targets(given: Any, where: str) -> list[dict[str, Any]]:
    """Return the targets in the value of a key ``target``, one or a list; UsageError where it is none."""
    from pydantic import TypeAdapter, ValidationError

    from raycompress.config.schema.keys import Targets
    from raycompress.config.schema.messages import findings_of
    from raycompress.config.schema.spelling import respell

    spelled = respell({"target": given if isinstance(given, list) and given else [given]})
    problems, found = list(spelled.findings), []
    try:
        if not problems:
            valid = TypeAdapter(dict[str, Targets]).validate_python(spelled.data)
            found = [one.model_dump(exclude_unset=True) for one in valid["target"]]
    except ValidationError as error:
        problems = list(findings_of(error.errors(include_url=False)))
    if not problems:
        problems = list(check_targets({}, {}, {"target": found}, None))
    if problems:
        raise UsageError.of([Problem(what, where, fix) for _, what, fix in problems])
    return found


def _check_target(path: JsonPath, one: Mapping[str, Any], entry: RuntimeEntry) -> Iterator[Finding]:
    precision, device = one.get("precision", "fp32"), one.get("device", "cpu")
    if precision in PRECISIONS and precision not in entry.precisions:
        fix = f"use one of {join_names(entry.precisions)}"
        yield Finding((*path, "precision"), f"{entry.name} does not compute in {precision}", fix)
    if device == "gpu" and "gpu" not in entry.devices:
        yield Finding((*path, "device"), f"{entry.name} runs on no GPU here", 'write "device": "cpu"')
