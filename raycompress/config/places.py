"""Files, folders and S3 addresses that an experiment names."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from raycompress.script.packages import module_file

SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PART = re.compile(r"[A-Za-z0-9!_.*'()=+@,-]+")


@dataclass(frozen=True)
class S3Address:
    """``s3://bucket/prefix``, of a folder of results or of what is in one.

    Attributes
    ----------
    bucket
        The bucket's name.
    prefix
        What all keys begin with, without a slash at either end; may be empty.
    """

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> S3Address:
        """Read ``s3://bucket/prefix``.

        Raises
        ------
        ValueError
            It is no such address, or a part of it could not be the name of a folder.
        """
        bucket, _, prefix = text.removeprefix(SCHEME).partition("/")
        prefix = prefix.rstrip("/")
        if not text.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
            raise ValueError("an address on S3 is s3://bucket/prefix, with the name of a bucket alone")
        if prefix and not all(_PART.fullmatch(part) and part not in (".", "..") for part in prefix.split("/")):
            raise ValueError("a prefix on S3 is made of names with letters, digits and -_.=+@, between single slashes")
        return cls(bucket, prefix)

    def __truediv__(self, name: str) -> S3Address:
        return S3Address(self.bucket, self.key(name))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """Return the key of what is called `name` below this address."""
        return f"{self.prefix}/{name}".lstrip("/")

    @property
    def parent(self) -> S3Address:
        """The address without its last part."""
        return S3Address(self.bucket, self.prefix.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the prefix."""
        return self.prefix.rpartition("/")[2]


Storage = Path | S3Address


def is_remote(text: str) -> bool:
    """Tell whether `text` is meant for an address on S3."""
    return text.startswith(SCHEME)


@dataclass(frozen=True)
class Files:
    """The files and folders that an experiment names, absolute, and the arguments that follow the script's name.

    Attributes
    ----------
    module
        The script's name as a module, for ``-m pkg.train``; its file is ``pkg/train.py`` where there is none.
    """

    script: Path
    script_args: tuple[str, ...]
    workingdir: Path
    storage: Storage
    module: str = ""

    @classmethod
    def of(cls, home: Path, *, script: str, workingdir: str | None, storage: str) -> Files:
        """Resolve what an experiment says, from the folder `home`; a script with a blank in it may have arguments.

        Raises
        ------
        ValueError
            When a quote in the script's arguments is not closed, or `storage` begins as an address on S3 and is none.
        """
        folder = _absolute(workingdir or ".", home)
        if " " not in script or is_file(_absolute(script, folder)):
            name, arguments = script, []
        else:
            name, *arguments = shlex.split(script) or [script]
        module = arguments.pop(0) if name == "-m" and arguments else ""
        if module:
            name = str(module_file(module, folder) or f"{module.replace('.', '/')}.py")
        place = S3Address.parse(storage) if is_remote(storage) else _absolute(storage, home)
        return cls(_absolute(name, folder), tuple(arguments), folder, place, module)


def is_file(path: Path) -> bool:
    """Tell whether there is a file; False as well where the system takes no such path, or does not let us look."""
    return os.path.isfile(path)  # noqa: PTH113 (which raises there, until Python 3.14)


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder; see `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: Path) -> bool:
    """Tell whether there is anything; see `is_file`."""
    return os.path.exists(path)  # noqa: PTH110


def _absolute(path: str, base: Path) -> Path:
    # of pathlib, both raise: for a user that there is not, and for links that go round
    return Path(os.path.realpath(base / os.path.expanduser(path)))  # noqa: PTH111
