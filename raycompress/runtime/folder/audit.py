"""What Python itself opens, renames and removes in a trial: each file is made the trial's own first.

Python's audit tells before it happens. It knows what a script reads too, so that a file which came into the script's
folder meanwhile is found. What libraries write in C++ is seen by `raycompress.runtime.folder.system_calls` where the
kernel lets it; elsewhere the usual ones are wrapped here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from raycompress.runtime.folder.workfolder import WRITES, WorkFolder


def guard(folder: WorkFolder) -> None:
    """Have what this process writes be the trial's own from now on; for a process that ends with the trial."""
    busy: set[int] = set()
    unguarded = dict(_LIBRARIES)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        for module in tuple(unguarded):
            # the script may import it later
            if module in sys.modules and _guarded(sys.modules[module], *_LIBRARIES[module], folder):
                unguarded.pop(module, None)
        watched, thread = _WATCHED.get(event), threading.get_ident()
        if watched is None or thread in busy:
            return
        busy.add(thread)
        try:
            with contextlib.suppress(OSError, ValueError, TypeError):  # the call itself will say what is wrong
                watched(folder, *arguments)
        finally:
            busy.discard(thread)

    sys.addaudithook(hook)


def _on_open(folder: WorkFolder, path: Any, mode: Any, flags: int) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return
    writes = bool(flags & WRITES)
    if writes:
        folder.own_opened(path, flags)
    else:
        folder.look_up(path)
    if writes or folder.has_written:
        folder.add_access(path, writes=writes)


def _on_change(folder: WorkFolder, path: Any, *_others: Any) -> None:
    """Before an entry of a folder is made, renamed or removed: that folder must be the trial's own."""
    if isinstance(path, str | bytes | os.PathLike):
        folder.own_entry(path)


def _on_rename(folder: WorkFolder, source: Any, target: Any, *_others: Any) -> None:
    _on_change(folder, source)
    _on_change(folder, target)


def _on_content(folder: WorkFolder, path: Any, *_others: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike):
        folder.own(path)


def _on_rmtree(folder: WorkFolder, path: Any, *_others: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike):
        folder.own_all(path)


_WATCHED: dict[str, Callable[..., None]] = {
    "open": _on_open,
    "os.truncate": _on_content,
    "os.chmod": _on_content,
    "os.utime": _on_content,
    "sqlite3.connect": _on_content,
    "os.mkdir": _on_change,
    "os.remove": _on_change,
    "os.rmdir": _on_change,
    "os.symlink": lambda folder, _target, path, *_others: _on_change(folder, path),
    "os.link": lambda folder, _target, path, *_others: _on_change(folder, path),
    "os.rename": _on_rename,
    "shutil.rmtree": _on_rmtree,
}


# functions that write a file in C++ or Rust, which Python's audit does not see: module -> name, place of the path
_LIBRARIES = {
    "torch.serialization": ("_open_zipfile_writer", 0),
    "safetensors.torch": ("serialize_file", 1),
    "safetensors.numpy": ("serialize_file", 1),
}


def _guarded(module: Any, name: str, place: int, folder: WorkFolder) -> bool:
    """Have what a library's function writes be the trial's own; False while the module is being imported."""
    function = vars(module).get(name)
    if function is None:
        return False

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if len(args) > place and isinstance(args[place], str | os.PathLike):
            folder.own(args[place], truncates=True)
            folder.add_access(args[place], writes=True)
        return function(*args, **kwargs)

    setattr(module, name, guarded)
    return True
