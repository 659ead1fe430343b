"""The decorator that turns a script's main function into one that loads its configuration."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raycompress.errors import UsageError
from raycompress.script import report
from raycompress.script.config import BasicConfig


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
        if config is None:
            config = _named_on_command_line()
        loaded = BasicConfig(config) if isinstance(config, Mapping) else BasicConfig().load(config)
        before = report.reports()
        result = function(loaded)
        if result is not None and report.reports() == before:
            report.print_result(result)
        return result

    return main


def _named_on_command_line() -> str:
    """Return the first argument that ends in ``.json``: a script's own arguments may stand before it."""
    arguments = sys.argv[1:]
    for argument in arguments:
        if argument.endswith(".json"):
            return argument
    if arguments:
        return arguments[0]
    script = Path(sys.argv[0]).name or "script.py"
    raise UsageError(
        "the script was started without a configuration",
        where=script,
        fix=f"python {script} config.json",
    )
