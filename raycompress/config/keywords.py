"""An experiment asked for in Python: keywords -> the keys of an experiment file, and its mistakes -> keywords."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from raycompress.catalog import CompressorEntry, find
from raycompress.catalog.quantizers import value_such_as
from raycompress.config.places import is_remote
from raycompress.config.schema.ranges import is_range
from raycompress.errors import ExperimentError, Problem

_COMPRESSION = ("compressor", "framework", "type", "config_list", "arguments", "slice", "depth")
_LAYERS = ("sparsity", "op_types", "op_names", "exclude", "expand_op_names")
_ALIASES = {"seed": "random_seed"}
_RESULTS = "raycompress_results"

Data = dict[str, Any]


def experiment_data(keywords: Mapping[str, Any], caller: str, known: Any = None) -> Data:
    """Return the keys of an experiment file that `keywords` ask for.

    ``compressor``, ``config_list``, ``arguments``, ``slice``, ``depth``, ``framework`` and ``type`` are those of
    ``compression``; ``sparsity``, ``op_types``, ``op_names``, ``exclude`` and ``expand_op_names`` make a
    ``config_list``; every other keyword is a key of the file. Where ``compressor`` is a list, the keywords are about
    the first stage; a later one is a name, or an object as in the file.

    Parameters
    ----------
    caller
        What was called, for the place of a mistake: ``rc.launch``.
    known
        ``compression`` of the file that the keywords change, where they do; ``arguments``, ``slice`` and ``depth``
        alone leave the rest of it.

    Raises
    ------
    ExperimentError
        No compressor is named, or the layers are named twice, or of one stage in a file of several.
    """
    data = {_ALIASES.get(key, key): value for key, value in keywords.items() if key not in (*_COMPRESSION, *_LAYERS)}
    compression = {key: keywords[key] for key in _COMPRESSION if key in keywords}
    layers = {key: keywords[key] for key in _LAYERS if key in keywords}
    if not compression and not layers:
        return data
    if isinstance(known, list) and "compressor" not in compression:
        raise ExperimentError(
            "the file compresses in stages, and this does not say which of them it is about",
            where=f"{caller}  {next(iter([*compression, *layers]))}",
            fix="give all of them: compression=[{...}, {...}]",
        )
    if known and not layers and set(compression) <= {"arguments", "slice", "depth"}:
        return {**data, "compression": {**known, **compression}}
    if "compressor" not in compression:
        raise ExperimentError(
            "no compressor is named", where=f"{caller}  compressor", fix='compressor="group_l1", for instance'
        )
    named = compression["compressor"]
    first, *later = named if isinstance(named, list | tuple) and named else [named]
    compression["compressor"] = first
    entry = find(str(first), str(compression.get("framework", "torch")))
    compression.setdefault("framework", "torch" if entry is None else entry.framework)
    compression.setdefault("type", "pruning" if entry is None else entry.kind)
    if layers and "config_list" in compression:
        raise ExperimentError(
            f'"config_list" says which layers, and "{next(iter(layers))}" says it again',
            where=f"{caller}  {next(iter(layers))}",
            fix="keep one of the two",
        )
    if "config_list" not in compression:
        compression["config_list"] = config_list(entry, **layers)
    return {**data, "compression": [compression, *map(_later_stage, later)] if later else compression}


def _later_stage(stage: Any) -> Data:
    """Return a later stage as a file has it; `stage` is a name, or an object in which keys may be left out."""
    given: Data = dict(stage) if isinstance(stage, Mapping) else {"compressor": stage}
    entry = find(str(given.get("compressor")))
    framework, kind = ("torch", "pruning") if entry is None else (entry.framework, entry.kind)
    return {"framework": framework, "type": kind, "config_list": config_list(entry), **given}


def config_list(
    entry: CompressorEntry | None,
    sparsity: Any = None,
    op_types: Sequence[str] | None = None,
    op_names: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    expand_op_names: Any = None,
) -> list[Data]:
    """Return NNI's config_list for one sparsity of all layers, or for a sparsity of each.

    Parameters
    ----------
    entry
        The compressor's, where it is known.
    sparsity
        A number; ``(low, high)`` or a search range; or a mapping of layers to such. None for a compressor that takes
        none.
    op_types, op_names
        The layers; by default those of type Conv2d, of a compressor that removes channels from them (a layer that
        makes the model's outputs cannot lose any), and of another one all that it works on. Of a quantizer that has to
        be told what to quantize, weights, in 8 bits where it has those.
    exclude
        Names of layers to leave alone.
    expand_op_names
        As in an experiment file; by default ``"dependency"`` where whole channels are searched by the types of layers.
    """
    rest: list[Data] = [] if exclude is None else [{"exclude": True, "op_names": _listed(exclude)}]
    if isinstance(sparsity, Mapping) and not is_range(sparsity):
        return [{"sparsity": _range(each), "op_names": [name]} for name, each in sparsity.items()] + rest
    # what is quantized, of a compressor that has to know: weights, in 8 bits where it has those
    needs = [] if entry is None else [need for need in entry.needs if need in ("quant_types", "quant_bits")]
    if sparsity is None and op_types is None and op_names is None and not needs:
        return rest
    cuts = entry is not None and entry.removes_channels and entry.framework == "torch"
    item: Data = {} if sparsity is None else {"sparsity": _range(sparsity)}
    if entry is not None:
        item |= {str(need): value_such_as(str(need), entry.name) for need in needs}
    if op_types is not None or op_names is None:
        takes_convolutions = cuts and entry is not None and "Conv2d" in (entry.layer_types or ("Conv2d",))
        item["op_types"] = _listed(op_types or ("Conv2d" if takes_convolutions else "default"))
    if op_names is not None:
        item["op_names"] = _listed(op_names)
    if expand_op_names is not None:
        item["expand_op_names"] = expand_op_names
    elif cuts and op_names is None and is_range(item.get("sparsity")):
        item["expand_op_names"] = "dependency"
    return [item, *rest]


def _range(sparsity: Any) -> Any:
    if isinstance(sparsity, tuple) and len(sparsity) == 2:
        return {"type": "float", "range": [float(end) for end in sparsity]}
    return sparsity


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def absolute(data: Data, home: Path) -> Data:
    """Return `data` with its folders absolute, which start from `home`."""
    return {
        key: _absolute(value, home) if key in ("workingdir", "cwd", "storage") else value for key, value in data.items()
    }


def with_folders(data: Data, home: Path) -> Data:
    """Return `data` with the defaults of its folders written out, for a file that lies elsewhere than in `home`."""
    folder = {} if "cwd" in data or "workingdir" in data else {"workingdir": str(home)}
    # of a file too it starts from where the command is run
    return {"storage": str(Path.cwd() / _RESULTS), **data, **folder}


def _absolute(path: Any, home: Path) -> Any:
    if not isinstance(path, str | os.PathLike) or is_remote(str(path)):
        return path
    return str(home / Path(path).expanduser())


def as_json(data: Data, caller: str) -> str:
    """Return the text of the file.

    Raises
    ------
    ExperimentError
        A value cannot stand in JSON; all of them at once.
    """
    problems = []
    plain: Data = {}
    for key, value in data.items():
        try:
            plain[key] = json.loads(json.dumps(value, allow_nan=False, default=_plain))
        except (TypeError, ValueError) as error:
            fix = "pass numbers, texts, lists and dicts, as an experiment file has them"
            problems.append(Problem(f"this cannot stand in an experiment file: {error}", f"{caller}  {key}", fix))
    if problems:
        raise ExperimentError.of(problems)
    return json.dumps(plain, indent=2) + "\n"


def _plain(value: Any) -> Any:
    """Return what JSON has for a path, or for a number of numpy."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(item := getattr(value, "item", None)):
        return item()
    raise TypeError(f"a {type(value).__name__} is no JSON")


@contextmanager
def mistakes_by_keyword(file: Path, keywords: Mapping[str, Any], caller: str) -> Iterator[None]:
    """Have mistakes of `file`, which was made from `keywords`, name the keyword instead of a line of the file."""
    try:
        yield
    except ExperimentError as error:
        found = [
            replace(problem, where=by_keyword(problem.where, file, keywords, caller), fix=_as_keyword(problem.fix))
            for problem in error.problems
        ]
        raise ExperimentError.of(found) from error.__cause__


def _as_keyword(fix: str) -> str:
    return re.sub(r'add an entry after it: \{"exclude": true, "op_names": (\[[^]]*\])\}', r"exclude=\1", fix)


def by_keyword(text: str, file: Path, keywords: Mapping[str, Any], caller: str) -> str:
    """Return `text` with the keyword in place of each line and path of `file`."""
    place = re.compile(re.escape(str(file)) + r":\d+(?:  ([^\s:]+))?")
    return place.sub(lambda found: f"{caller}  {_keyword(found[1] or '', keywords)}".rstrip(), text)


def _keyword(path: str, keywords: Mapping[str, Any]) -> str:
    """Return the keyword that the key at `path` was made from."""
    if "compression" not in keywords:
        if "config_list" not in keywords and (entry := re.match(r"compression\.config_list\[(\d+)\]\.?", path)):
            return _layer_keyword(path[entry.end() :], int(entry[1]), keywords)
        path = path.removeprefix("compression.") if path != "compression" else "compressor"
    return "seed" if path == "random_seed" and path not in keywords else path


def _layer_keyword(inner: str, index: int, keywords: Mapping[str, Any]) -> str:
    sparsity = keywords.get("sparsity")
    if isinstance(sparsity, Mapping) and not is_range(sparsity):
        return f"sparsity[{list(sparsity)[index]!r}]"
    return inner or "sparsity"
