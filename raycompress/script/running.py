"""Runs a script in this process as if Python had been started for it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import NoReturn

from raycompress.errors import UsageError
from raycompress.script import aup
from raycompress.script.packages import module_file, place_of

_HERE = __file__


def fresh_main(script: Path, package: str = "") -> ModuleType:
    """Put a new ``__main__`` in place, so that ``if __name__ == "__main__"`` and pickling work.

    Parameters
    ----------
    script
        The script's file, absolute.
    package
        The package that it is a member of, by which its relative imports are found; empty for none.
    """
    main = ModuleType("__main__")
    main.__dict__.update(
        __file__=str(script), __cached__=None, __loader__=SourceFileLoader("__main__", str(script)), __spec__=None
    )
    if package:
        main.__package__ = package
    sys.modules["__raycompress_main__"] = sys.modules["__main__"]  # its functions are still running
    sys.modules["__main__"] = main
    return main


def run_by_hand(script: str, arguments: Sequence[str]) -> int:
    """Run `script` with the namespace `aup` in place, and return its exit code; a `sys.exit` of its own passes.

    The script ``-m`` is the module that the first of the `arguments` names.

    Raises
    ------
    UsageError
        There is no such file, or no such module.
    """
    module, path = "", Path(script).absolute()
    if script == "-m" and arguments:
        module, *arguments = arguments
        path = module_file(module, Path.cwd()) or _no_module(module)
        script = str(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise _unreadable(Path(script), error) from None
    sys.argv = [script, *arguments]
    home, package = place_of(path.resolve(), source, module)
    if not sys.flags.safe_path:  # else Python itself puts no folder there
        sys.path[0] = str(home)
    aup.install()
    main = fresh_main(path, package)
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - the script's own ending, told as Python does, and no error of ours
        trace = _of_the_script(error)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _no_module(module: str) -> NoReturn:
    raise UsageError(
        f"there is no module {module} here", where=str(Path.cwd()), fix="write a module as `python -m` takes it"
    )


def _of_the_script(error: BaseException) -> TracebackType | None:
    """Return the traceback without our own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == _HERE:
        trace = trace.tb_next
    return trace


def _unreadable(script: Path, error: OSError) -> UsageError:
    beside = sorted(file.name for file in script.parent.glob("*.py")) if script.parent.is_dir() else []
    near = difflib.get_close_matches(script.name, beside, n=1)
    if script.is_dir():
        return UsageError("this is a folder, not a script", where=str(script), fix="write the path of a script in it")
    if isinstance(error, FileNotFoundError):
        fix = f'did you mean "{script.parent / near[0]}"?' if near else "write the path of a Python script"
        return UsageError("there is no such script", where=str(script), fix=fix)
    return UsageError(f"the script cannot be read: {error.strerror}", where=str(script))
