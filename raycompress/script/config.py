"""The configuration that a script is given: a dictionary with attribute access, in a JSON file (or JSONC)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raycompress.errors import UsageError
from raycompress.jsonc import as_json
from raycompress.script import context

SLICE_KEY = "compression_slice"
"""What ``compression.slice`` of an experiment is called in the configuration of a trial."""
DEPTH_KEY = "compression_depth"
"""What ``compression.depth`` is called there: ``drop`` has the names of the blocks that go, or how many."""
STAGES_KEY = "compression_stages"
"""What the stages after the first are called in it: a list of ``compressor``, ``config_list`` and ``arguments``."""


class BasicConfig(dict[str, Any]):
    """A dictionary whose keys are attributes too.

    In a trial it notes which keys the script reads; see `raycompress.script.context.Reads`.

    Examples
    --------
    >>> config = BasicConfig(compressor="l1_filter")
    >>> config.compressor
    'l1_filter'
    >>> hasattr(config, "sparsity")
    False
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}; it has {', '.join(self) or 'nothing'}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}") from None

    def __getitem__(self, name: str) -> Any:
        _note(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        _note(name)
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        _note_whole()
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:  # noqa: D102 - dict's
        _note(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:  # noqa: D102 - dict's
        _note(name)
        return super().pop(name, *default)

    def setdefault(self, name: str, default: Any = None) -> Any:  # noqa: D102 - dict's
        _note(name)
        return super().setdefault(name, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]  # noqa: D102 - dict's
        _note_whole()
        return super().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # noqa: D102 - dict's
        _note_whole()
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # noqa: D102 - dict's
        _note_whole()
        return super().items()

    def copy(self) -> BasicConfig:
        """Return a copy of the same class."""
        return BasicConfig(unrecorded(self))

    def load(self, path: str | Path | None = None) -> BasicConfig:
        """Add what the JSON file at `path` holds, and return itself; comments and trailing commas may be in it (JSONC).

        Without a path the trial's own configuration is loaded, and trials of a script that writes so get none on their
        command line, where a parser of its own would refuse it.

        An experiment file without a search range is taken as the configuration of its only trial, so that a script runs
        by hand on the same file. So does the configuration of a trial, and then it saves below the current folder, not
        among the trial's own files.

        In a trial its own configuration rules: it is loaded in place of any other that compresses, whichever file
        `path` names. A JSON file that holds something else is loaded as it is.

        Raises
        ------
        UsageError
            When there is no such file, it holds no JSON object, is a pickle, or has search ranges; or when a script
            that is run by hand gives no path.
        """
        trial = context.current()
        if path is None:
            path = _own_path(trial)
        if trial is not None and trial.config is not None and _is_replaced(Path(path), trial):
            trial.reads.is_loaded = True
            self.update(json.loads(json.dumps(dict(trial.config))))
            return self
        data = _read(Path(path))
        if "compression" in data and "script" in data:
            data = _trial_config(data, Path(path))
        if context.current() is None and "folder_name" in data:
            data = _by_hand(data, Path(path))
        self.update(data)
        return self

    def save(self, path: str | Path) -> None:
        """Write a JSON file.

        Raises
        ------
        UsageError
            When a value has no place in JSON, or `path` ends in ``.pkl``.
        """
        _refuse_pickle(Path(path))
        try:
            text = json.dumps(unrecorded(self), indent=2)
        except TypeError as error:
            raise UsageError(
                f"the configuration cannot be written as JSON: {error}",
                where=str(path),
                fix="keep to numbers, strings, true, false, null, lists and objects",
            ) from None
        Path(path).write_text(text + "\n", encoding="utf-8")

    def to_flags(self, flags: Any) -> None:
        """Assign the values to the flags (of absl, or TensorFlow's) of the same names; the others are left out."""
        for name, value in self.items():
            if name in flags:
                setattr(flags, name, value)


def unrecorded(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `config` as a plain dictionary, without its reading being taken for the script's."""
    return dict(dict.items(config)) if isinstance(config, BasicConfig) else config


def is_configuration(data: Any) -> bool:
    """Tell whether `data` of a JSON file says how to compress: the configuration of a trial, or an experiment."""
    return isinstance(data, dict) and ("compressor" in data or ("compression" in data and "script" in data))


def command_line(
    arguments: Sequence[str], own: Path, values: Mapping[str, Any] = MappingProxyType({}), *, appends: bool = True
) -> list[str]:
    """Return a script's arguments in a trial, whose configuration stands in the place of any other that they name.

    Parameters
    ----------
    arguments
        As by hand, such as ``config.json --epochs 3`` or ``--config=config.json``; or with values of the trial in them,
        ``--lr {lr} --config {config}``.
    own
        The trial's configuration. Where no argument names another one, or has a value of the trial in it, it comes last
        if it `appends`.
    values
        What it holds. Those that are passed on count as read.
    """
    known = {CONFIG_PLACE: str(own), **values}
    filled = [_PLACE.sub(lambda match: _filled(match, known), argument) for argument in arguments]
    replaced = [_replaced(argument, own) for argument in filled]
    return replaced if replaced != list(arguments) or not appends else [*arguments, str(own)]


CONFIG_PLACE = "config"
"""What stands in braces for the path of a trial's configuration in the arguments of a script."""
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")


def places(arguments: Sequence[str]) -> list[str]:
    """Return the names that stand in braces in a script's arguments."""
    return [name for argument in arguments for name in _PLACE.findall(argument)]


def _filled(match: re.Match[str], values: Mapping[str, Any]) -> str:
    name = match[1]
    if name not in values:  # of the script's own
        return match[0]
    _note(name)
    return values[name] if isinstance(values[name], str) else json.dumps(values[name])


def _own_path(trial: context.Trial | None) -> Path:
    if trial is not None and trial.config_path is not None:
        return trial.config_path
    raise UsageError(
        "BasicConfig().load() without a path is for trials: by hand there is no configuration",
        where=Path(sys.argv[0]).name,
        fix='write BasicConfig().load("config.json"); in a trial its own is loaded in place of that file',
    )


def _replaced(argument: str, own: Path) -> str:
    option, is_option, value = argument.rpartition("=")
    if not value.endswith((".json", ".jsonc")):
        return argument
    try:
        data = _read(Path(value))
    except UsageError:  # the script may know better what that is
        return argument
    return f"{option}{is_option}{own}" if is_configuration(data) else argument


def _is_replaced(path: Path, trial: context.Trial) -> bool:
    """Tell whether a trial loads its own configuration in place of `path`, and say so where that is another file."""
    if trial.config_path is not None and path.resolve() == trial.config_path.resolve():
        return True
    if not is_configuration(_read(path)):
        return False
    print(f"raycompress: the trial's own configuration is loaded in place of {path}", file=sys.stderr)
    return True


def _note(name: object) -> None:
    trial = context.current()
    if trial is not None:
        trial.reads.names.add(str(name))


def _note_whole() -> None:
    trial = context.current()
    if trial is not None:
        trial.reads.is_whole = True


def _refuse_pickle(path: Path) -> None:
    if path.suffix in (".pkl", ".pickle"):
        raise UsageError(
            "a pickle is no configuration file: loading one runs whatever code it holds",
            where=str(path),
            fix="write the configuration as JSON: BasicConfig(...).save('config.json')",
        )


def _read(path: Path) -> dict[str, Any]:
    _refuse_pickle(path)
    text = ""
    try:
        text = as_json(path.read_text(encoding="utf-8-sig"))
        data = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot read the configuration: {reason}", where=str(path)) from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"the configuration is no JSON, nor JSON with comments: {error.msg}",
            where=f"{path}:{error.lineno}, column {error.colno}",
            fix=_fix(text[error.pos :]),
        ) from None
    if not isinstance(data, dict):
        raise UsageError(f"the configuration is a JSON {type(data).__name__}, not an object", where=str(path))
    return data


def _fix(rest: str) -> str:
    """Return what to write where a JSON parser stopped, by what comes next."""
    known = {
        "#": "begin the comment with // instead of #",
        "/*": "close the comment with */",
        "*/": "remove the */, or the /* inside the comment: comments do not nest",
        "'": 'write the text in double quotes: "..."',
    }
    found = [fix for start, fix in known.items() if rest.startswith(start)]
    return found[0] if found else "`raycompress validate` says more about an experiment file"


def _by_hand(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the configuration that lies in a trial's folder with another place for the model than that folder."""
    trial = path.resolve().parent
    inside = Path(str(config["folder_name"])).is_relative_to(trial)
    return {**config, "folder_name": f"trial-{trial.name}"} if inside else dict(config)


def _trial_config(experiment: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Flatten an experiment file into the configuration of its only trial."""
    given = experiment["compression"]
    stages = given if isinstance(given, list) else [given]
    if not stages or any(not isinstance(stage, dict) or "compressor" not in stage for stage in stages):
        raise UsageError("`compression` names no compressor", where=str(path), fix="`raycompress validate` says more")
    searched = [
        *(
            place
            for at, stage in _places(given)
            for key in ("config_list", "arguments", "depth")
            for place in _ranges(stage.get(key, {}), f"{at}.{key}")
        ),
        *(f"{at}.depth" for at, stage in _places(given) if "drop" not in stage.get("depth", {"drop": 0})),
        *(f"parameter_config[{i}]" for i, _ in enumerate(experiment.get("parameter_config", []))),
    ]
    if searched:
        raise UsageError(
            f"the file asks for a search over {', '.join(searched)}, and a script runs on single values",
            where=str(path),
            fix=f"run `raycompress launch {path}`, or give the script a file with a value in place of each range",
        )
    saving = experiment.get("resource_args", {}).get("save_model")
    compression, *later = stages
    return {
        "compression_framework": compression.get("framework"),
        "compression_type": compression.get("type"),
        **_of_stage(compression),
        **({SLICE_KEY: compression["slice"]} if "slice" in compression else {}),
        **({DEPTH_KEY: compression["depth"]} if "depth" in compression else {}),
        **({STAGES_KEY: [_of_stage(stage) for stage in later]} if later else {}),
        **({} if saving is None else {"save_model": saving}),
    }


def _places(compression: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each stage of ``compression`` with its path in the file."""
    if isinstance(compression, dict):
        yield "compression", compression
        return
    for index, stage in enumerate(compression):
        yield f"compression[{index}]", stage


def _of_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "compressor": stage["compressor"],
        "config_list": [_without_expansion(entry) for entry in stage.get("config_list", [])],
        "arguments": stage.get("arguments", {}),
    }


def _without_expansion(entry: Any) -> Any:
    return {k: v for k, v in entry.items() if k != "expand_op_names"} if isinstance(entry, dict) else entry


def _ranges(value: Any, path: str) -> Iterator[str]:
    """Yield the paths of the search ranges in `value`: objects with `type` and `range`."""
    if isinstance(value, dict):
        if "type" in value and "range" in value:
            yield path
            return
        for key, member in value.items():
            yield from _ranges(member, f"{path}.{key}")
    elif isinstance(value, list):
        for i, member in enumerate(value):
            yield from _ranges(member, f"{path}[{i}]")
