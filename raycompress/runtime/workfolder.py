"""The working folder of a trial: the files of the script's folder, as links, and what the trial writes itself.

Trials that run at the same time write files of the same names. Each gets a folder of its own, in which every entry of
the script's folder is a link, so that relative paths lead where they lead by hand; a folder with few files in it is
made anew, with links to those. The script is a copy, so that paths that begin at its own lead here as well. A file that
a trial creates is its own; one that it opens for writing through a link is replaced by a copy first. At the end links
and unchanged copies go, and what the trial wrote stays.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_MOST_ENTRIES = 4000
"""How many files and folders are linked one by one; a folder that has more in it is one link as a whole."""
_WHOLE = frozenset({".git", ".hg", ".svn", "__pycache__", ".venv", "venv", "node_modules", ".mypy_cache"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND | os.O_CREAT
_ANEW = os.O_TRUNC | os.O_CREAT

_JOURNAL = "journal.jsonl"
"""The mark of the folder of a search: the trials of the running one are none of the script's files."""

_MOST_NAMED = 100


class WorkFolder:
    """A folder in which a trial runs as if it were `source`.

    Parameters
    ----------
    root
        The folder, made by `make`; what an earlier run of the same trial wrote there stays.
    source
        The script's folder.
    """

    def __init__(self, root: Path, source: Path) -> None:
        self.root = root.absolute()
        self.source = source.resolve()
        self._left, self._looked_at = _MOST_ENTRIES, 0
        self._written: set[str] = set()
        self._reread: set[str] = set()

    def make(self) -> None:
        """Make the folder, with links to all that is in `source`."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._fill(self.root, self.source)

    def copy_of(self, script: Path) -> Path:
        """Copy `script` of `source` to its place in this folder and return that; `script` where it is not of it."""
        if not script.is_relative_to(self.source):
            return script
        place = self.root / script.relative_to(self.source)
        self._own_parents(place)
        place.unlink(missing_ok=True)
        shutil.copy2(script, place)
        return place

    def _fill(self, folder: Path, source: Path) -> None:
        with os.scandir(source) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                path, target = Path(entry.path), folder / entry.name
                if path in (self.root, self.root.parent):
                    continue
                if self.root.is_relative_to(path):  # where the results are
                    if not (path / _JOURNAL).exists():
                        target.mkdir(exist_ok=True)
                        self._fill(target, path)
                elif self._is_made_anew(entry):
                    self._link_files(target, path)
                else:
                    self._link(entry, target)

    def _is_made_anew(self, entry: os.DirEntry[str]) -> bool:
        if not _is_divided(entry):
            return False
        if self._looked_at > 4 * _MOST_ENTRIES:  # a home full of large folders would take its time
            return False
        count = _count(entry.path, self._left)
        self._looked_at += count
        if count > self._left:
            return False
        self._left -= count
        return True

    def _link_files(self, folder: Path, source: Path) -> None:
        folder.mkdir(exist_ok=True)
        # a folder may go while its entries are linked: other programs work there too
        with contextlib.suppress(FileNotFoundError), os.scandir(source) as entries:
            for entry in entries:
                if _is_divided(entry):
                    self._link_files(folder / entry.name, Path(entry.path))
                else:
                    self._link(entry, folder / entry.name)

    def _link(self, entry: os.DirEntry[str], target: Path) -> None:
        """Link one entry; nothing where the trial has its own."""
        if not os.path.lexists(target):
            target.symlink_to(entry.path)

    def look_up(self, path: str | bytes | os.PathLike[Any]) -> None:
        """Link `path`, which is about to be read, where it came into the script's folder after the trial began."""
        place = _absolute(path)
        if place.is_relative_to(self.root) and place.parent.is_dir() and not os.path.lexists(place):
            original = self.source / place.relative_to(self.root)
            if original.is_file():
                place.symlink_to(original)

    @property
    def has_written(self) -> bool:
        """Whether the trial has written a file outside of this folder."""
        return bool(self._written)

    def shared(self) -> list[str]:
        """Return the files outside of this folder that the trial has written and then read: other trials do too."""
        return sorted(self._written & self._reread)[:_MOST_NAMED]

    def add_access(self, path: str | bytes | os.PathLike[Any], *, writes: bool) -> None:
        """Note that a file is opened, where that is not this folder's."""
        place = os.path.realpath(os.fsdecode(path))
        if writes:
            if not (_is_of_a_library(place) or Path(place).is_relative_to(self.root.parent)):
                self._written.add(place)
        elif place in self._written:
            self._reread.add(place)

    def own(self, path: str | bytes | os.PathLike[Any], *, truncates: bool = False) -> None:
        """Make `path`, which is about to be written, the trial's own; nothing for one that is not in this folder."""
        place = _absolute(path)
        if not place.is_relative_to(self.root) or place == self.root:
            return
        self._own_parents(place)
        if place.is_symlink() and place.is_file():
            original = os.path.realpath(place)
            place.unlink()
            if not truncates:
                shutil.copy2(original, place)

    def _own_parents(self, place: Path) -> None:
        """Replace each folder above `place` that is a link by a folder with links in it."""
        for parent in reversed(place.parents):
            inside = parent != self.root and parent.is_relative_to(self.root)
            if inside and parent.is_symlink() and parent.is_dir() and parent.name not in _WHOLE:
                original = os.path.realpath(parent)
                aside = parent.with_name(f".{parent.name}.new")
                aside.mkdir()
                with os.scandir(original) as entries:
                    for entry in entries:
                        (aside / entry.name).symlink_to(entry.path)
                parent.unlink()
                aside.rename(parent)

    def guard(self) -> None:
        """Have what this process writes be the trial's own from now on; for a process that ends with the trial."""
        busy: set[int] = set()
        unguarded = dict(_LIBRARIES)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            for module in tuple(unguarded):
                # the script may import it later
                if module in sys.modules and _guarded(sys.modules[module], *_LIBRARIES[module], self):
                    unguarded.pop(module, None)
            watched, thread = _WATCHED.get(event), threading.get_ident()
            if watched is None or thread in busy:
                return
            busy.add(thread)
            try:
                with contextlib.suppress(OSError, ValueError, TypeError):  # the call itself will say what is wrong
                    watched(self, *arguments)
            finally:
                busy.discard(thread)

        sys.addaudithook(hook)


def _on_open(folder: WorkFolder, path: Any, mode: Any, flags: int) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return
    writes = bool(flags & _WRITES)
    if writes:
        folder.own(path, truncates=flags & _ANEW == _ANEW)
    else:
        folder.look_up(path)
    if writes or folder.has_written:
        folder.add_access(path, writes=writes)


def _on_change(folder: WorkFolder, path: Any, *_others: Any) -> None:
    """Before an entry of a folder is made, renamed or removed: that folder must be the trial's own."""
    if isinstance(path, str | bytes | os.PathLike):
        folder.own(_absolute(path).with_name(".entry"))


def _on_rename(folder: WorkFolder, source: Any, target: Any, *_others: Any) -> None:
    _on_change(folder, source)
    _on_change(folder, target)


def _on_content(folder: WorkFolder, path: Any, *_others: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike):
        folder.own(path)


def _on_rmtree(folder: WorkFolder, path: Any, *_others: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike):
        folder.own(_absolute(path) / ".entry")


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


def _absolute(path: str | bytes | os.PathLike[Any]) -> Path:
    return Path(os.path.normpath(Path.cwd() / os.fsdecode(path)))  # links in it are what this is about


def _is_of_a_library(place: str) -> bool:
    """Tell whether a file is a cache or a device, which nobody takes for a trial's own."""
    hidden = any(part.startswith(".") or part in ("__pycache__", "site-packages") for part in Path(place).parts)
    return hidden or place.startswith(("/dev/", "/proc/", "/sys/"))


def _is_divided(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder whose files are linked one by one; another search's is no such folder."""
    is_folder = entry.is_dir(follow_symlinks=False) and entry.name not in _WHOLE
    return is_folder and not Path(entry.path, _JOURNAL).exists()


def _count(folder: str, limit: int) -> int:
    """Return how many entries `folder` has, all levels together; more than `limit` are not counted further."""
    found, waiting = 0, [folder]
    while waiting and found <= limit:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    found += 1
                    if _is_divided(entry):
                        waiting.append(entry.path)
        except OSError:  # not readable: it is linked as a whole, and opening it tells
            return limit + 1
    return found


def tidy(root: Path, source: Path) -> tuple[str, ...]:
    """Remove the links and unchanged copies of a work folder of `source` whose trial has ended.

    Returns
    -------
    The names of the files that the trial wrote.
    """
    if not root.is_dir():
        return ()
    written = sorted(_remove_links(root, source.resolve()))
    if not written:
        shutil.rmtree(root, ignore_errors=True)
    names = [os.fsencode(name).decode(errors="replace") for name in written]
    return tuple(names[:_MOST_NAMED] + ([f"and {len(names) - _MOST_NAMED} more"] if len(names) > _MOST_NAMED else []))


def _remove_links(root: Path, source: Path) -> Iterator[str]:
    """Remove what `WorkFolder.make` has put there, and folders that then are empty, bottom up; yield the rest."""
    for home, _folders, _files in os.walk(root, topdown=False):
        folder = Path(home)
        for path in list(folder.iterdir()):
            name = path.relative_to(root)
            if path.is_dir() and not path.is_symlink():
                continue
            if _is_as_it_was(path, source / name, source):
                path.unlink()
            else:
                yield str(name)
        if folder != root:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()


def _is_as_it_was(path: Path, original: Path, source: Path) -> bool:
    if path.is_symlink():
        return path.readlink().is_relative_to(source)
    try:
        now, then = path.stat(), original.stat()
    except OSError:  # it is new
        return False
    return (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
