"""The working folder of a trial: the files of the script's folder, as links, and what the trial writes itself.

Trials that run at the same time write files of the same names. Each gets a folder of its own, in which every entry of
the script's folder is a link, so that relative paths lead where they lead by hand; a folder with few files in it is
made anew, with links to those. The script is a copy, so that paths that begin at its own lead here as well. A file that
a trial creates is its own; one that it opens for writing through a link is replaced by a copy first, which
`raycompress.runtime.folder.audit` and `raycompress.runtime.folder.system_calls` see to. At the end links and unchanged
copies go, and what the trial wrote stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MOST_ENTRIES = 4000
"""How many files and folders are linked one by one; a folder that has more in it is one link as a whole."""
_WHOLE = frozenset({".git", ".hg", ".svn", "__pycache__", ".venv", "venv", "node_modules", ".mypy_cache"})
WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND | os.O_CREAT
"""Flags of `open`, of which one at least says that a file is written."""

_JOURNAL = "journal.jsonl"
"""The mark of the folder of a search: the trials of the running one are none of the script's files."""

_MOST_NAMED = 100
_MOST_COPIED = 256 << 20
"""Bytes of a file that is copied since a part of it may be changed; a database or a memory map may well be larger."""


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
        self.root = Path(os.path.realpath(root))  # as the working directory of a process is told
        self.source = source.resolve()
        self._left, self._looked_at = _MOST_ENTRIES, 0
        self._has_whole = False
        self._written: set[str] = set()
        self._reread: set[str] = set()
        self._uncopied: dict[str, int] = {}

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
                    self._has_whole |= _is_divided(entry)
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
        """Return the files outside of this folder that the trial has written and then read: other trials do too.

        So do those that are too large for a copy, where they have changed.
        """
        changed = {file for file, when in self._uncopied.items() if _modified(file) != when}
        return sorted(self._written & self._reread | changed)[:_MOST_NAMED]

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
            if not truncates and place.stat().st_size > _MOST_COPIED:
                self._uncopied.setdefault(original, _modified(original))
                return
            place.unlink()
            if truncates:
                place.touch()
                shutil.copymode(original, place)
            else:
                shutil.copy2(original, place)

    def own_opened(self, path: str | bytes | os.PathLike[Any], flags: int) -> None:
        """Make `path`, which is about to be opened, the trial's own where `flags` say that it is written."""
        if flags & WRITES:
            self.own(path, truncates=bool(flags & os.O_TRUNC) and not flags & os.O_EXCL)

    def own_entry(self, path: str | bytes | os.PathLike[Any]) -> None:
        """Make the folder of `path`, an entry that is about to be made, renamed or removed, the trial's own."""
        self.own(_absolute(path).with_name(".entry"))

    def own_all(self, path: str | bytes | os.PathLike[Any]) -> None:
        """Make the folder `path` the trial's own, with links in it: its entries are about to be removed."""
        self.own(_absolute(path) / ".entry")

    @property
    def has_whole_folders(self) -> bool:
        """Whether a folder of the script's that trials may well write into is one link, since it has many files."""
        return self._has_whole

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


def _absolute(path: str | bytes | os.PathLike[Any]) -> Path:
    return Path(os.path.normpath(Path.cwd() / os.fsdecode(path)))  # links in it are what this is about


def _modified(file: str) -> int:
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:  # it is gone
        return 0


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
