"""The decorators that turn a script's main function into one that loads its configuration."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raycompress.errors import UsageError
from raycompress.script import context, report
from raycompress.script.config import BasicConfig, unrecorded
from raycompress.script.saving import save_registered


def experiment(function: Callable[[BasicConfig], Any]) -> Callable[..., Any]:
    """Let `function` take its configuration from the command line, a file or a mapping.

    ``main()`` loads the file that the command line names, ``main(path)`` loads `path`, ``main(mapping)`` takes the
    mapping. What `function` returns is reported, if it is not None and the script reported nothing itself.

    Raises
    ------
    UsageError
        When the command line names no configuration, or the file cannot be read; see `BasicConfig.load`.

    Examples
    --------
    >>> @experiment
    ... def main(config):
    ...     return 0.97
    >>> main({"compressor": "l1_filter"})
    result: 0.97
    0.97
    """

    @functools.wraps(function)
    def main(config: str | Path | Mapping[str, Any] | None = None) -> Any:
        loaded = _loaded(_named_on_command_line() if config is None else config)
        before = report.reports()
        result = function(loaded)
        if result is not None and report.reports() == before:
            report.print_result(result)
        return result

    return main


def aup_args(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let `function` take the values of a configuration as its parameters, as scripts of the old tool do.

    ``main(path)`` loads the file (``main()`` the one that the command line names), passes what `function` has
    parameters for, and all the rest too where it takes ``**other``. Before that each function of its module whose name
    contains "init" is called with the configuration. What `function` returns is reported, if it is not None, and then
    what `aup_save_model` was given is called. Keywords of the call go before the values of the file.

    Raises
    ------
    UsageError
        The configuration lacks a parameter without a default, or holds ``arguments`` for the compressor that `function`
        would not pass on.

    Examples
    --------
    >>> @aup_args
    ... def main(compressor, config_list=()):
    ...     return 0.97
    >>> main({"compressor": "l1_filter"})
    result: 0.97
    0.97
    """

    @functools.wraps(function)
    def main(config: str | Path | Mapping[str, Any] | None = None, **overrides: Any) -> Any:
        source = _named_on_command_line() if config is None else config
        loaded = _loaded(source)
        loaded.update(overrides)
        given = _parameters(function, loaded, "" if isinstance(source, Mapping) else str(source))
        for prepare in _init_functions(function):
            prepare(loaded)
        result = function(**given)
        if result is not None:
            report.print_result(result)
        save_registered(loaded)
        return result

    return main


def aup_flags(flags: Any) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Let a main function find the values of a configuration in `flags` (absl's), as scripts of the old tool do.

    The decorated function is for ``app.run(main)``: the first argument that flags left on the command line is the
    configuration file; its values are assigned to the flags of the same names. What the function returns is reported,
    if it is not None, and then what `aup_save_model` was given is called. To ``app.run`` nothing is returned: it would
    exit with that.

    Raises
    ------
    UsageError
        The command line names no configuration, or the file cannot be read.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def main(argv: str | Path | Sequence[str] | None = None) -> None:
            if argv is None:
                argv = sys.argv
            loaded = BasicConfig().load(argv if isinstance(argv, str | Path) else _named_in(argv))
            if not getattr(flags, "is_parsed", lambda: True)():
                flags.mark_as_parsed()
            loaded.to_flags(flags)
            result = function(argv) if inspect.signature(function).parameters else function()
            if result is not None:
                report.print_result(result)
            save_registered(loaded)

        return main

    return decorate


def _loaded(config: str | Path | Mapping[str, Any]) -> BasicConfig:
    return BasicConfig(unrecorded(config)) if isinstance(config, Mapping) else BasicConfig().load(config)


def _parameters(function: Callable[..., Any], config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what `function` is called with."""
    parameters = inspect.signature(function).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    called = function.__name__
    lacking = [name for name, item in named.items() if item.default is item.empty and name not in config]
    if lacking:
        near = difflib.get_close_matches(lacking[0], [name for name in config if name not in named], n=1)
        raise UsageError(
            f"the configuration has no {', '.join(repr(name) for name in lacking)}, which {called}() needs",
            where=source,
            fix=f"did you mean {near[0]!r}?" if near else f"add it to the configuration, or give {called}() a default",
        )
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return dict(config)
    if config.get("arguments") and "arguments" not in named:
        raise UsageError(
            f"{called}() takes no `arguments`, so that the compressor would not get {', '.join(config['arguments'])}",
            where=source,
            fix=f"write def {called}(..., **other)",
        )
    return {name: config[name] for name in named if name in config}


def _init_functions(function: Callable[..., Any]) -> list[Callable[[Mapping[str, Any]], Any]]:
    """Return the functions of `function`'s own module with "init" in their names that can take the configuration."""
    main = inspect.unwrap(function)
    found = []
    for name, member in list(getattr(main, "__globals__", {}).items()):
        own = inspect.isfunction(member) and member.__module__ == main.__module__
        if own and "init" in name and inspect.unwrap(member) is not main and _takes_one(member):
            found.append(member)
    return found


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind({})
    except TypeError:
        return False
    return True


def _named_on_command_line() -> str:
    return _named_in(sys.argv)


def _named_in(argv: Sequence[str]) -> str:
    """Return the first argument that ends in ``.json`` or ``.jsonc``: a script's own arguments may stand before it.

    In a trial it is the trial's configuration, whatever the arguments are.
    """
    trial = context.current()
    if trial is not None and trial.config_path is not None:
        return str(trial.config_path)
    arguments = argv[1:]
    for argument in arguments:
        if argument.endswith((".json", ".jsonc")):
            return argument
    if arguments:
        return arguments[0]
    script = Path(sys.argv[0]).name or "script.py"
    raise UsageError(
        "the script was started without a configuration",
        where=script,
        fix=f"python {script} config.json",
    )
