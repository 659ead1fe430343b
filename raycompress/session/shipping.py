"""A function as the script of an experiment: pickled by value, beside a small script that runs it."""

from __future__ import annotations

import inspect
import pickle
import pickletools
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from raycompress.disk import translate_os_errors
from raycompress.errors import ScriptError
from raycompress.script.shipped import FUNCTION, is_entry

SCRIPT = "script.py"
_MOST_BYTES = 64 << 20
_NO_SCRIPT = "pass the path of a script instead, or have the function load what it needs"

_TEMPLATE = '''\
"""Made by raycompress: runs {name}(), which was launched from Python and lies beside this file, in {pickle}."""

{imports}
from raycompress.script import shipped

if __name__ == "__main__":
    shipped.main(__file__, {path!r})

# as it was written:
#
{source}
'''


def ship(function: Callable[..., Any], folder: Path) -> Path:
    """Write `function` and a script that runs it into `folder`; return the script.

    Parameters
    ----------
    function
        Takes the configuration of a trial: ``def main(config)``, decorated by `raycompress.experiment` or not.

    Raises
    ------
    ScriptError
        It does not take one argument, or it cannot be pickled, or it would carry more than 64 MiB with it.
    """
    _check_signature(function)
    data = _pickled(function)
    source = _source(function)
    with translate_os_errors("cannot write", folder):
        (folder / FUNCTION).write_bytes(pickle.dumps(_sources(function)) + data)
        script = folder / SCRIPT
        text = _TEMPLATE.format(
            name=name_of(function),
            pickle=FUNCTION,
            imports="\n".join(_imports(data)),
            path=list(_path()),
            source=textwrap.indent(source, "# ", lambda _line: True).replace("# \n", "#\n"),
        )
        script.write_text(text, encoding="utf-8")
    return script


def name_of(function: Callable[..., Any]) -> str:
    """Return what a function is called."""
    return str(getattr(function, "__name__", type(function).__name__))


def _check_signature(function: Callable[..., Any]) -> None:
    if is_entry(function):
        return
    try:
        inspect.signature(function).bind({})
    except TypeError:
        raise ScriptError(
            f"{name_of(function)}() cannot be called with one argument, the configuration of a trial",
            where=_where(function),
            fix=f"def {name_of(function)}(config): ...",
        ) from None
    except ValueError:  # a builtin that tells no signature
        return


def _pickled(function: Callable[..., Any]) -> bytes:
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(function)
    except Exception as error:  # what an object raises when it is pickled is its own affair
        culprit = next((name for name, value in _carried(function) if _weight(value) is None), None)
        what = f"it uses {culprit}, which cannot be pickled" if culprit else f"{type(error).__name__}: {error}"
        raise ScriptError(
            f"{name_of(function)}() cannot be sent to the trials: {what}",
            where=_where(function),
            fix=f"make it inside the function; or {_NO_SCRIPT}" if culprit else _NO_SCRIPT,
        ) from error
    if len(data) > _MOST_BYTES:
        weights = {name: _weight(value) or 0 for name, value in _carried(function)}
        heaviest = max(weights, key=lambda name: weights[name], default="")
        most = f", most of it {heaviest}" if heaviest else ""
        raise ScriptError(
            f"{name_of(function)}() would carry {len(data) / 2**20:,.0f} MiB to every trial{most}; "
            f"{_MOST_BYTES >> 20} MiB are the most",
            where=_where(function),
            fix="load it inside the function, by rc.shared(...) once for all trials of a machine",
        )
    return data


def _weight(value: Any) -> int | None:
    """Return how many bytes a value is when pickled; None where it cannot be."""
    import cloudpickle

    try:
        return len(cloudpickle.dumps(value))
    except Exception:  # noqa: BLE001 - as above
        return None


def _carried(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of what the function, and functions that it uses, find outside of themselves."""
    waiting, seen = [inspect.unwrap(function)], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or not inspect.isfunction(one):
            continue
        seen.add(id(one))
        names = inspect.getclosurevars(one)
        for name, value in {**names.globals, **names.nonlocals}.items():
            if inspect.isfunction(value) and value.__module__ == function.__module__:
                waiting.append(inspect.unwrap(value))
            elif not inspect.ismodule(value):
                yield name, value


def _sources(function: Callable[..., Any]) -> Mapping[str, str]:
    """Return file -> text of what is no file on disk, such as a cell of a notebook: tracebacks show its lines."""
    import linecache

    code = getattr(inspect.unwrap(function), "__code__", None)
    if not isinstance(code, types.CodeType) or Path(code.co_filename).is_file():
        return {}
    return {code.co_filename: "".join(linecache.getlines(code.co_filename))}


def _source(function: Callable[..., Any]) -> str:
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    except (OSError, TypeError):  # typed into a plain interpreter, or no function of Python's
        return "(its text is not known)"


def _where(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if isinstance(code, types.CodeType) else name_of(function)


def _imports(data: bytes) -> Iterator[str]:
    """Yield statements that import what the function will, so that the process that trials are forked from does."""
    found = {str(argument) for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    for name in sorted(found & set(sys.modules)):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("ray", "IPython", "ipykernel"):
            yield f"try:\n    import {name}\nexcept ImportError:\n    pass"


def _path() -> Iterator[str]:
    """Yield the folders that the user's own modules come from."""
    installed = tuple({sys.prefix, sys.base_prefix, sys.exec_prefix})
    for entry in sys.path:
        folder = Path(entry or ".").resolve()
        if folder.is_dir() and not any(folder.is_relative_to(prefix) for prefix in installed):
            yield str(folder)
