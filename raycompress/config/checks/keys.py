"""Checks between the keys of an experiment."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from raycompress.bundle.manifest import RESERVED as BUNDLE_FILES
from raycompress.catalog import COMPRESSORS, FRAMEWORKS, CompressorEntry, find
from raycompress.catalog.catalogue import Catalogue
from raycompress.catalog.exports import EXPORTS
from raycompress.catalog.instead import SELECTION
from raycompress.catalog.plugins import is_of
from raycompress.catalog.proposers import PROPOSERS
from raycompress.catalog.quantizers import value_such_as
from raycompress.config.checks.bits import check_bits, check_sensitivity
from raycompress.config.checks.names import check_compressor, check_export_names, slipped
from raycompress.config.checks.objective import check_objective
from raycompress.config.checks.stages import check_order
from raycompress.config.compression import first_stage, stages_in
from raycompress.config.places import S3Address, is_remote
from raycompress.config.schema.ranges import Finding, Note, check_range, find_ranges, is_range
from raycompress.config.text.reader import JsonPath
from raycompress.errors import PluginError
from raycompress.script.config import DEPTH_KEY, SLICE_KEY, STAGES_KEY
from raycompress.text import abbreviate, closest_name, describe_value, dotted, join_names

RESERVED = (
    *("compressor", "compression_framework", "compression_type", "config_list", "arguments", "save_model"),
    *("folder_name", "tid", "job_id", "n_iterations"),
)
"""What the script finds in its config beside its own parameters."""
_OF_COMPRESSION = {"slice": SLICE_KEY, "depth": DEPTH_KEY}
"""Key of ``compression`` -> what the script finds it under, where the file has it."""
MOST_OF_SPEARMINT = 100_000


def check(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong in the experiment `data`; values of a wrong type are passed over."""
    framework = first_stage(data).get("framework")
    framework = framework if framework in FRAMEWORKS else "torch"
    broken = list(_check_plugins(data))
    yield from broken
    yield from _check_script(data)
    yield from _check_storage(data.get("storage"))
    compressors: list[CompressorEntry | None] = []
    for home, stage in stages_in(data):
        compressors.append(None if broken else _compressor_of(stage))
        for found in _check_stage(stage, compressors[-1], is_broken=bool(broken)):
            yield found._replace(path=(*home, *found.path[1:]))
        if len(compressors) > 1 and "depth" in stage:
            what = "blocks are dropped before anything else is compressed: a depth is for the first stage"
            yield Finding((*home, "depth"), what, "move it there")
    yield from check_order(compressors)
    yield from _check_parameters(data)
    if not broken:
        yield from _check_export(data, framework)
    yield from check_objective(data, compressors)
    yield from check_sensitivity(data)
    yield from _check_workers(data)
    if data.get("proposer") == "sequence":
        yield from _check_grid(data)
    if data.get("proposer") == "spearmint":
        yield from _check_countable(data)
    yield from _check_lists(data)


def _compressor_of(stage: Mapping[str, Any]) -> CompressorEntry | None:
    """Return the entry of the compressor that a stage names, or was meant to name, with its arguments."""
    framework = stage.get("framework")
    found = find(str(stage.get("compressor")), framework if framework in FRAMEWORKS else "torch") or slipped(stage)
    return None if found is None else found.given(_dict(stage.get("arguments")))


def _check_stage(stage: Mapping[str, Any], compressor: CompressorEntry | None, *, is_broken: bool) -> Iterator[Finding]:
    """Yield what is wrong in one stage of the compression, by paths as if it was the only one."""
    if not is_broken:
        yield from check_compressor(stage)
    if compressor is not None and compressor.name == stage.get("compressor"):
        yield from _check_kind(stage, compressor)
    yield from _check_config_list(stage, compressor)
    yield from _check_arguments(stage, compressor)
    yield from _check_slice(stage, compressor)
    yield from _check_depth(stage, compressor)


def _check_workers(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what cannot go together with several workers in one trial."""
    resource = _dict(data.get("resource"))
    workers, gpu = resource.get("workers"), resource.get("gpu", 0)
    if type(workers) is not int or workers < 2:
        return
    place = ("resource", "workers")
    if first_stage(data).get("framework") == "tensorflow":
        what = "a trial of a Keras model has one worker: several are started as torchrun does, for torch.distributed"
        yield Finding(place, what, 'remove "workers"')
    if data.get("proposer") == "passive":
        what = "a passive experiment runs its one trial in this very process, which is one worker"
        yield Finding(place, what, 'remove "workers", or write another "proposer"')
    if isinstance(gpu, float) and not gpu.is_integer():
        what = f"each of {workers} workers needs GPUs of its own, and {gpu:g} is a part of one"
        yield Finding(("resource", "gpu"), what, f'write "gpu": {math.ceil(gpu)}')


def _check_plugins(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Load the plug-ins that the experiment names, and tell of each that cannot be used."""
    wanted = data.get("export")
    named: list[tuple[JsonPath, Any, Catalogue[Any]]] = [
        *(((*home, "compressor"), stage.get("compressor"), COMPRESSORS) for home, stage in stages_in(data)),
        (("proposer",), data.get("proposer"), PROPOSERS),
        *((("export", place), name, EXPORTS) for place, name in enumerate(wanted if isinstance(wanted, list) else ())),
    ]
    for path, name, catalogue in named:
        try:
            catalogue.find(str(name))
        except PluginError as error:
            for problem in error.problems:
                yield Finding(path, f"{problem.what} ({problem.where})", problem.fix)


def _check_script(data: Mapping[str, Any]) -> Iterator[Finding]:
    if "cwd" in data and "workingdir" in data:
        yield Finding(("cwd",), '"cwd" and "workingdir" are the same thing', "keep one of the two")
    script = data.get("script")
    if isinstance(script, str) and script:
        try:
            shlex.split(script)
        except ValueError:
            yield Finding(("script",), f"a quote in the script's arguments is not closed: {script}", "close it")


def _check_storage(storage: Any) -> Iterator[Finding]:
    if isinstance(storage, str) and (scheme := re.match(r"(s3|gs|gcs|hdfs|az|abfs):/?(?!/)", storage)):
        rest = storage[scheme.end() :]
        yield Finding(("storage",), f'"{storage}" is no folder', f'write "storage": "s3://{rest}"')
    elif isinstance(storage, str) and "://" in storage:
        fix = "write a folder, or s3://bucket/prefix"
        if not is_remote(storage):
            yield Finding(("storage",), f"results cannot go to {storage.split('://', 1)[0]}://", fix)
            return
        try:
            S3Address.parse(storage)
        except ValueError as error:
            yield Finding(("storage",), str(error), fix)


def _check_kind(compression: Mapping[str, Any], compressor: CompressorEntry) -> Iterator[Finding]:
    for key, right in (("framework", compressor.framework), ("type", compressor.kind)):
        wrong = compression.get(key)
        if wrong in (*FRAMEWORKS, "pruning", "quantization") and wrong != right:
            what = f'"{compressor.name}" is for {right}, not {wrong}'
            yield Finding(("compression", key), what, f'write "{key}": "{right}", or choose another compressor')


def _check_config_list(compression: Mapping[str, Any], compressor: CompressorEntry | None) -> Iterator[Finding]:
    entries = compression.get("config_list")
    path: JsonPath = ("compression", "config_list")
    if entries == [] and compressor is not None and not compressor.without_entries and "depth" not in compression:
        settings = '"sparsity": 0.5, ' if "sparsity" in compressor.keys else ""
        fix = f'write an entry, such as {{{settings}"op_types": ["default"]}}'
        yield Finding(path, "config_list is empty: nothing would be compressed", fix)
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield from _check_entry(entry, (*path, index), compressor)


def _check_entry(entry: Mapping[str, Any], path: JsonPath, compressor: CompressorEntry | None) -> Iterator[Finding]:
    if "op_names" not in entry and "op_types" not in entry:
        yield Finding(path, "an entry that names no layers", 'add "op_names": [...] or "op_types": [...]')
    for key in ("op_names", "op_types"):
        for name, count in _counted(entry.get(key)):
            yield Finding((*path, key), f'"{name}" stands {count} times', "keep one of them")
    if entry.get("exclude") is True:
        for inner, _ in find_ranges(dict(entry)):
            what = f'"{dotted(inner)}" is searched in an entry that leaves its layers alone'
            yield Finding((*path, *inner), what, 'remove it, or "exclude"')
        return
    if compressor is None:
        return
    for key in entry:
        if key not in SELECTION and key not in compressor.keys:
            has = f"it has {join_names(compressor.keys)}" if compressor.keys else "it has none but the choice of layers"
            yield Finding((*path, key), f'"{key}" is no key of {compressor.name}', f"remove it; {has}")
    for need in compressor.needs:
        either = (need,) if isinstance(need, str) else need
        if not any(key in entry for key in either):
            what = f'"{" or ".join(either)}" is missing: how much to compress is not said'
            yield Finding(path, what, f'add "{either[0]}": {json.dumps(value_such_as(either[0], compressor.name))}')
    yield from check_bits(entry, path, compressor)
    if entry.get("expand_op_names") == "dependency" and not compressor.removes_channels:
        what = f"{compressor.name} removes no channels, so that no layers are tied together"
        yield Finding((*path, "expand_op_names"), what, "write true or false")


def _check_arguments(compression: Mapping[str, Any], compressor: CompressorEntry | None) -> Iterator[Finding]:
    arguments = _dict(compression.get("arguments"))
    path: JsonPath = ("compression", "arguments")
    for inner, value in find_ranges(arguments, anything=True):
        for found in check_range(value):
            yield found._replace(path=path + inner + found.path)
    if compressor is None:
        return
    known = {argument.name: argument for argument in compressor.arguments}
    for key in arguments:
        if key not in known:
            fix = _other_argument(key, arguments, compressor)
            yield Finding((*path, key), f'unknown argument "{key}" of {compressor.name}', fix)
        elif known[key].from_script:
            fix = f"remove it, and pass {key}= to create_compressor in the script"
            yield Finding((*path, key), f'"{key}" is nothing that a file can hold', fix)
        elif wrong := [one for one in _values(arguments[key]) if not is_of(known[key].type, one)]:
            what = f'"{key}" of {compressor.name} is of type {known[key].type}, not {describe_value(wrong[0])}'
            yield Finding((*path, key), what, f"{known[key].summary}; default {abbreviate(known[key].default)}")


def _other_argument(key: str, arguments: Mapping[str, Any], compressor: CompressorEntry) -> str:
    """Return what to do about the unknown argument `key`."""
    choose = [argument.name for argument in compressor.arguments if not argument.from_script]
    near = closest_name(key, [argument.name for argument in compressor.arguments])
    if near in arguments:
        return f'remove it: "{near}" is there as well'
    if near is not None and near not in choose:
        return f"remove it, and pass {near}= to create_compressor in the script"
    takes = f"{compressor.name} takes {join_names(choose)}" if choose else f"{compressor.name} takes none"
    return f'did you mean "{near}"?' if near else f"remove it; {takes}"


def _values(value: Any) -> list[Any]:
    """Return what an argument may become: the ends or choices of a search range, or the value itself."""
    ends = value.get("range") if is_range(value) else [value]
    return ends if isinstance(ends, list) else []


def _check_slice(compression: Mapping[str, Any], compressor: CompressorEntry | None) -> Iterator[Finding]:
    when = compression.get("slice")
    if compressor is not None and when in ("before", "after"):
        what, fix = compressor.why_not_sliced(when)
        if what:
            yield Finding(("compression", "slice"), what, fix)


def _check_depth(compression: Mapping[str, Any], compressor: CompressorEntry | None) -> Iterator[Finding]:
    if "depth" not in compression:
        return
    path: JsonPath = ("compression", "depth")
    if compressor is not None and (what := compressor.why_no_depth()):
        yield Finding(path, what, 'remove "depth", or take a compressor such as group_l1')
    for name, count in _counted(_dict(compression["depth"]).get("blocks")):
        yield Finding((*path, "blocks"), f'"{name}" stands {count} times', "keep one of them")


def _check_parameters(data: Mapping[str, Any]) -> Iterator[Finding]:
    path: JsonPath = ("parameter_config",)
    parameters: Any = data.get("parameter_config")
    stages, several = [stage for _, stage in stages_in(data)], isinstance(data.get("compression"), list)
    own = [key for name, key in _OF_COMPRESSION.items() if any(name in stage for stage in stages)]
    taken = (*RESERVED, *own, *([STAGES_KEY] if several else []))
    entries = [entry for entry in parameters if isinstance(entry, dict)] if isinstance(parameters, list) else []
    for index, entry in enumerate(parameters if entries else ()):
        if not isinstance(entry, dict):
            continue
        for found in check_range({key: value for key, value in entry.items() if key != "name"}):
            yield found._replace(path=(*path, index, *found.path))
        if entry.get("name") in taken:
            what = f'the parameter name "{entry["name"]}" is taken: the script finds something else under it'
            yield Finding((*path, index, "name"), what, "choose another name")
    for name, count in _counted([entry.get("name") for entry in entries]):
        yield Finding(path, f'the parameter "{name}" stands {count} times', "keep one of them")


def _check_export(data: Mapping[str, Any], framework: str) -> Iterator[Finding]:
    wanted = data.get("export")
    wanted = wanted if isinstance(wanted, list) else []
    yield from check_export_names(wanted, framework)
    for place, name in enumerate(wanted):
        for entry in EXPORTS.find(str(name)):
            if entry.framework != framework:
                own = next(one.name for one in EXPORTS.built_in if one.framework == framework)
                what = f'a model of {framework} cannot be exported as "{name}"'
                yield Finding(("export", place), what, f'write "export": ["{own}"]')
            elif entry.distribution and entry.file in BUNDLE_FILES:
                what = f'the export "{name}" of {entry.distribution} writes {entry.file}, a file of the bundle'
                yield Finding(("export", place), what, "its author chooses another name")
    if wanted and _dict(data.get("resource_args")).get("save_model") is False:
        what = '"save_model" is false, so that there is no model to export'
        yield Finding(("export",), what, 'remove "export", or write "save_model": true')
    for form, count in _counted(wanted):
        yield Finding(("export",), f'"{form}" stands {count} times', "keep one of them")


def _check_grid(data: Mapping[str, Any]) -> Iterator[Finding]:
    for path, value in every_range(data):
        if value.get("type") == "float" and "interval" not in value and "n" not in value:
            yield Finding(
                path, "a float range has no end of values for the grid of sequence", 'add "n": 5 or "interval": 0.1'
            )


def _check_countable(data: Mapping[str, Any]) -> Iterator[Finding]:
    for path, value in every_range(data):
        if value.get("type") == "int" and not check_range({key: value[key] for key in value if key != "name"}):
            low, high = value["range"]
            if high - low >= MOST_OF_SPEARMINT:
                what = f"spearmint looks at each whole number of a range, and this one has {high - low + 1}"
                yield Finding(path, what, f"narrow it to {MOST_OF_SPEARMINT}, or choose the proposer optuna")


def _check_lists(data: Mapping[str, Any]) -> Iterator[Finding]:
    labels = _dict(data.get("resource_args")).get("multi_res_labels")
    for label, count in _counted(labels):
        path: JsonPath = ("resource_args", "multi_res_labels")
        yield Finding(path, f'"{label}" stands {count} times', "give each number a name of its own")
    for name in _dict(_dict(data.get("runtime_args")).get("env")):
        if not name or "=" in name or "\0" in name:
            yield Finding(("runtime_args", "env", name), f'"{name}" is no name of a variable', "write another name")


def notes(data: Mapping[str, Any]) -> Iterator[Note]:
    """Yield a note for each key that is accepted and ignored, or read as another one."""
    if data.get("resource") in ("node", "aws"):
        what = f'resource "{data["resource"]}" is read as "cpu": which machine runs a trial is for Ray to say'
        yield Note(("resource",), what)
    if data.get("resource") == "passive":
        what = 'resource "passive" is read as "cpu"; "proposer": "passive" runs one trial in this very process'
        yield Note(("resource",), what)
    yield from _notes_on_settings(data)
    if data.get("proposer") != "sequence":
        for path, value in every_range(data):
            for key in ("interval", "n"):
                if key in value:
                    inner = (*path, key)
                    yield Note(inner, f'"{dotted(inner)}" is for the proposer sequence only')


_SETTINGS_OF: Mapping[str, tuple[str, ...]] = {
    "engine": ("hyperopt",),
    **dict.fromkeys(("eta", "max_iter"), ("hyperband", "bohb")),
    "exploration": ("guided",),
    **dict.fromkeys(("num_samples", "min_points_in_model", "top_n_percent"), ("bohb",)),
    **dict.fromkeys(("random_fraction", "bandwidth_factor", "min_bandwidth"), ("bohb",)),
}
"""Setting -> the proposers that read it."""


def _notes_on_settings(data: Mapping[str, Any]) -> Iterator[Note]:
    early_stop = _dict(_dict(data.get("resource_args")).get("early_stop"))
    proposer = data.get("proposer", "random")
    policy = early_stop.get("aup_policy", _dict(data.get("scheduler")).get("type"))
    for key, proposers in _SETTINGS_OF.items():
        by_asha = key in ("eta", "max_iter") and policy == "asha"
        if key in data and proposer not in proposers and not by_asha:
            yield Note((key,), f'"{key}" is for the proposer {" or ".join(proposers)} only')
    if proposer == "hyperopt" and data.get("engine") in ("anneal", "mix"):
        what = f'engine "{data["engine"]}" is read as "tpe", the one that Ray Tune runs of hyperopt'
        yield Note(("engine",), what)
    for key in early_stop:
        stem = key.partition("_")[0]
        if key not in ("aup_policy", "aup_policy_steps", "warmup") and stem != str(policy).partition("_")[0]:
            path = ("resource_args", "early_stop", key)
            yield Note(path, f'"{dotted(path)}" is for another policy than {policy}')


def every_range(data: Mapping[str, Any]) -> Iterator[tuple[JsonPath, Mapping[str, Any]]]:
    """Yield path and object of each search range of an experiment."""
    for home, stage in stages_in(data):
        for key, anything in (("config_list", False), ("arguments", True), ("depth", False)):
            for path, value in find_ranges(stage.get(key), anything=anything):
                yield (*home, key, *path), value
    parameters = data.get("parameter_config")
    for index, entry in enumerate(parameters if isinstance(parameters, list) else ()):
        if isinstance(entry, dict):
            yield ("parameter_config", index), entry


def _counted(names: Any) -> Iterable[tuple[str, int]]:
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return [(name, count) for name, count in Counter(texts).items() if count > 1]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
