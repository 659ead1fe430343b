"""System calls of a trial that write: the kernel holds each until the file in question is the trial's own.

Python's audit sees what Python opens. Libraries in C++, shells and other programs are seen by the kernel alone. A
filter that the trial's process installs for itself and its descendants (seccomp, with "user notification") holds each
`open` for writing, and tells the trial's supervisor, which replaces a link by a copy and lets the call go on. That
needs no root, and nothing of it is about security: a path may change between the look and the call. Kernels and
containers that do not have it are as before.

Sources: seccomp(2), seccomp_unotify(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raycompress.runtime.folder.workfolder import WRITES, WorkFolder

_PATH_MAX = 4096
_PAGE = 4096
_AT_FDCWD = -100

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_SPEC_ALLOW, _NEW_LISTENER, _WAIT_KILLABLE = 1 << 2, 1 << 3, 1 << 5
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, pid, flags, call, architecture, instruction, arguments
_ANSWER = struct.Struct("=QqiI")
_GO_ON = 1
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_CALL, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Where the filter finds the number of a call, the architecture and the arguments."""


@dataclass(frozen=True)
class _Call:
    """A system call that writes.

    Attributes
    ----------
    paths
        Places of its arguments: (descriptor of a folder, or None for the working directory; path).
    flags
        Place of the flags of `open`; None for other calls.
    fixed
        Its flags, where it takes none.
    entries
        Whether it makes, renames or removes the entry `paths`, and does not write a file.
    """

    paths: tuple[tuple[int | None, int], ...]
    flags: int | None = None
    fixed: int = 0
    entries: bool = False


_AT = ((0, 1),)
_NAMED = {
    "openat": _Call(_AT, flags=2),
    "truncate": _Call(((None, 0),), fixed=os.O_WRONLY),
    "unlinkat": _Call(_AT, entries=True),
    "mkdirat": _Call(_AT, entries=True),
    "renameat": _Call(((0, 1), (2, 3)), entries=True),
    "renameat2": _Call(((0, 1), (2, 3)), entries=True),
    "open": _Call(((None, 0),), flags=1),
    "creat": _Call(((None, 0),), fixed=os.O_CREAT | os.O_WRONLY | os.O_TRUNC),
    "unlink": _Call(((None, 0),), entries=True),
    "rmdir": _Call(((None, 0),), entries=True),
    "mkdir": _Call(((None, 0),), entries=True),
    "rename": _Call(((None, 0), (None, 1)), entries=True),
}
# machine -> its number for the filter, that of the call seccomp, and those of the calls above
_MACHINES: dict[str, tuple[int, int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        317,
        {
            **{"open": 2, "truncate": 76, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "unlink": 87},
            **{"openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264, "renameat2": 316},
        },
    ),
    "aarch64": (
        0xC00000B7,
        277,
        {"mkdirat": 34, "unlinkat": 35, "renameat": 38, "truncate": 45, "openat": 56, "renameat2": 276},
    ),
}


def hand_over(channel: socket.socket, folder: WorkFolder | None) -> None:
    """Have the calls of this process and its descendants held from now on, and send their listener to the supervisor.

    Nothing where the kernel cannot, or where the trial has no `folder`. `channel` is closed.
    """
    with channel, contextlib.suppress(OSError):
        if folder is None:
            return
        listener = _install(folder.has_whole_folders)
        socket.send_fds(channel, [b"x"], [listener])
        os.close(listener)


def _install(watches_entries: bool) -> int:
    """Install the filter, and return its listener.

    Raises
    ------
    OSError
        Where there is none: another machine, an older kernel, a container that forbids it or has one itself.
    """
    if platform.machine() not in _MACHINES or struct.calcsize("P") != 8:
        raise OSError(f"no filter is known for {platform.machine()}")
    _architecture, number, _calls = _MACHINES[platform.machine()]
    code = _program(watches_entries)
    held = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _SPEC_ALLOW | _NEW_LISTENER
    for tried in (flags | _WAIT_KILLABLE, flags):
        listener = libc.syscall(number, _SET_MODE_FILTER, tried, program)
        if listener < 0 and ctypes.get_errno() == errno.EACCES:
            # whoever may not administer the system gives up programs that run as another user
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            listener = libc.syscall(number, _SET_MODE_FILTER, tried, program)
        if listener >= 0:
            return int(listener)
    raise OSError(ctypes.get_errno(), "no filter of system calls")


def _program(watches_entries: bool) -> bytes:
    """Return the filter: it stops calls that write, and lets all others pass at once."""
    architecture, _number, numbers = _MACHINES[platform.machine()]
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _CALL)]
    for name, number in numbers.items():
        call = _NAMED[name]
        if call.entries and not watches_entries:
            continue  # an entry of a folder that is the trial's own concerns nobody
        block = [(_RETURN, 0, 0, _NOTIFY)]
        if call.flags is not None:
            # where each folder is the trial's own, so is a file that must be new: shared memory, temporary files
            new = 0 if watches_entries else os.O_EXCL
            flags = _ARGUMENTS + 8 * call.flags
            block = [
                *((_LOAD, 0, 0, flags), (_ANY_BIT, 2, 0, new), (_ANY_BIT, 0, 1, WRITES)),
                *((_RETURN, 0, 0, _NOTIFY), (_RETURN, 0, 0, _ALLOW)),
            ]
        code += [(_EQUAL, 0, len(block), number), *block]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in code)


class HeldCalls:
    """The calls of a trial that the kernel holds; its supervisor lets them go on.

    Parameters
    ----------
    listener
        Tells of them; see `receive`.
    folder
        The trial's.
    """

    def __init__(self, listener: int, folder: WorkFolder) -> None:
        self.listener = listener
        self._folder = folder
        self._root = f"{folder.root}/"
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._calls = {number: _NAMED[name] for name, number in _MACHINES[platform.machine()][2].items()}

    def serve(self) -> bool:
        """Let the calls that are held go on; False once nobody is left to make one."""
        while events := self._poll.poll(0):
            if not events[0][1] & select.POLLIN:  # receiving would wait for ever
                return False
            buffer = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(self.listener, _RECEIVE, buffer, True)
            except OSError:  # whoever made the call was killed meanwhile
                return True
            key, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
            with contextlib.suppress(OSError, ValueError):  # the call itself will say what is wrong
                self._prepare(pid, self._calls[number], arguments)
            with contextlib.suppress(OSError):  # killed
                fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(key, 0, 0, _GO_ON))
        return True

    def shared(self) -> list[str]:
        """Return the files that were written and are not the trial's own; see `WorkFolder.shared`."""
        return self._folder.shared()

    def close(self) -> None:
        """Hold no more calls: those that come fail."""
        os.close(self.listener)

    def _prepare(self, pid: int, call: _Call, arguments: Sequence[int]) -> None:
        """Make the files that a call is about to write the trial's own."""
        flags = call.fixed if call.flags is None else arguments[call.flags]
        for folder, place in call.paths:
            path = _path(pid, None if folder is None else arguments[folder], arguments[place])
            if not path.startswith(self._root):
                continue
            if call.entries:
                self._folder.own_entry(path)
            else:
                self._folder.own_opened(path, flags)


def receive(channel: socket.socket, folder: WorkFolder) -> HeldCalls | None:
    """Return the calls whose listener `hand_over` has sent; None where there is none. `channel` is closed."""
    with channel:
        _data, descriptors, _flags, _address = socket.recv_fds(channel, 1, 1)
    return HeldCalls(descriptors[0], folder) if descriptors else None


def _path(pid: int, folder: int | None, address: int) -> str:
    """Return the absolute path that a process names, with the links in it."""
    text = _text(pid, address)
    if text.startswith("/"):
        return os.path.normpath(text)
    descriptor = _AT_FDCWD if folder is None else ctypes.c_int(folder).value
    link = f"/proc/{pid}/cwd" if descriptor == _AT_FDCWD else f"/proc/{pid}/fd/{descriptor}"
    return os.path.normpath(Path(link).readlink() / text)


def _text(pid: int, address: int) -> str:
    """Return the text at an address of another process."""
    found = b""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while b"\0" not in found and len(found) < _PATH_MAX:
            at = address + len(found)
            part = os.pread(memory, _PAGE - at % _PAGE, at)  # the next page may not be there
            if not part:
                break
            found += part
    finally:
        os.close(memory)
    return os.fsdecode(found.partition(b"\0")[0])
