"""`shared`: a value that is computed once on each node and memory-mapped by all its trials.

The first trial that asks for it computes it and writes it to a file beside the socket of the node's warm process, with
which it goes. Every trial maps that file, copy on write: the bytes of its arrays and tensors are in memory once, and
what a trial changes is its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import io
import json
import marshal
import mmap
import os
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from raycompress.errors import StorageError, UsageError
from raycompress.script import context

T = TypeVar("T")

_ALIGNED = 64
_PROTOCOL = 5


def shared(compute: Callable[..., T], *arguments: Any) -> T:
    """Return ``compute(*arguments)``, computed once on each node and read by all its trials from the same memory.

    By hand it is computed as it is. In a trial `compute` has random numbers of its own, always the same ones, and
    leaves the trial's as they were, so that it makes no difference which trial computed.

    Parameters
    ----------
    compute
        A function that depends on `arguments` and on what it closes over, and on nothing else that differs from trial
        to trial.
    *arguments
        What it is called with, of a kind that pickle takes; each combination is computed once.

    Returns
    -------
    What `compute` returned: arrays and tensors in shared memory, other objects as copies.

    Raises
    ------
    UsageError
        The value, an argument or what `compute` closes over cannot be pickled, or holds a tensor on another device.
    StorageError
        There is no room for the value.

    Examples
    --------
    >>> def load(folder):
    ...     return [0.1, 0.2]
    >>> shared(load, "data")
    [0.1, 0.2]
    """
    trial = context.current()
    if trial is None or trial.shared is None:
        return compute(*arguments)
    key = _key(compute, arguments)
    name = getattr(compute, "__name__", "value")
    path = trial.shared / f"{name.strip('<>')}-{key}"
    try:
        trial.shared.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (trial.shared / f"{key}.lock").open("w") as lock:  # closing it unlocks it
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                with _random_numbers_of(int(key[:8], 16)):
                    _write(path, compute(*arguments), name)
    except OSError as error:
        raise StorageError(
            f"the value of {name}() cannot be shared: {error.strerror}",
            where=str(path),
            fix="set TMPDIR to a folder of this machine with room for it, or call the function without rc.shared",
        ) from error
    value: T = _read(path)
    return value


def _key(compute: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Return what a value is found by: the function's code, what it closes over, its defaults, its arguments."""
    code = getattr(compute, "__code__", None)
    name = getattr(compute, "__qualname__", type(compute).__name__)
    cells = [cell.cell_contents for cell in getattr(compute, "__closure__", None) or ()]
    depends = [arguments, getattr(compute, "__defaults__", None), getattr(compute, "__kwdefaults__", None), cells]
    try:
        pickled = pickle.dumps(depends if code is not None else [compute, *depends], _PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(
            f"rc.shared cannot tell what {name} depends on: {error}",
            where=f"{code.co_filename}:{code.co_firstlineno}" if code is not None else "",
            fix="give a plain function, and plain data as its arguments: rc.shared(load, folder, 32)",
        ) from error
    return hashlib.sha256(b"".join((name.encode(), marshal.dumps(code), pickled))).hexdigest()[:16]


@contextlib.contextmanager
def _random_numbers_of(seed: int) -> Iterator[None]:
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    states = random.getstate(), numpy and numpy.random.get_state(), torch and torch.get_rng_state()
    random.seed(seed)
    if numpy is not None:
        numpy.random.seed(seed)
    if torch is not None:
        torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        if numpy is not None:
            numpy.random.set_state(states[1])
        if torch is not None:
            torch.set_rng_state(states[2])


def _write(path: Path, value: Any, name: str) -> None:
    """Write a value: a line that says where what lies, its pickle, and its buffers."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    try:
        _Pickler(stream, buffers.append).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the value of {name}() cannot be shared: {error}",
            fix="return arrays, tensors, modules and plain data, and make loaders and generators of them in each trial",
        ) from error
    parts = [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]
    sizes = json.dumps([part.nbytes for part in parts]).encode()
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(sizes + b"\n")
            for part in parts:
                file.write(bytes(-file.tell() % _ALIGNED))
                file.write(part)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        sizes = json.loads(file.readline())
        start = file.tell()
        # a private mapping: pages are read from the one copy in memory until this process writes to them
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    parts = []
    for size in sizes:
        start += -start % _ALIGNED
        parts.append(mapped[start : start + size])
        start += size
    # ours: written by a trial of this experiment, in a folder that is this user's alone
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301


class _Pickler(pickle.Pickler):
    """Leaves the bytes of tensors out of the pickle, as pickle itself does with those of arrays."""

    def __init__(self, stream: io.BytesIO, keep: Callable[[pickle.PickleBuffer], Any]) -> None:
        super().__init__(stream, _PROTOCOL, buffer_callback=keep)
        self._torch = sys.modules.get("torch")
        self._storages: dict[int, Any] = {}  # by address: views of one storage stay so

    def reducer_override(self, item: Any) -> Any:
        torch = self._torch
        if torch is None or not isinstance(item, torch.Tensor | torch.UntypedStorage):
            return NotImplemented
        if item.device.type != "cpu":
            raise pickle.PicklingError(
                f"it holds a tensor on {item.device}; move it there in each trial, with .to(device)"
            )
        if isinstance(item, torch.UntypedStorage):
            whole = torch.empty(0, dtype=torch.uint8).set_(item)
            return _storage, (pickle.PickleBuffer(whole.numpy()),)
        if (
            type(item) is not torch.Tensor
            or item.layout is not torch.strided
            or item.requires_grad
            or item.is_quantized
        ):
            return NotImplemented  # a Parameter's data comes here by itself
        storage = item.untyped_storage()
        storage = self._storages.setdefault(storage.data_ptr(), storage)
        return _tensor, (storage, item.dtype, item.storage_offset(), item.size(), item.stride())


def _storage(buffer: Any) -> Any:
    torch = importlib.import_module("torch")
    if not memoryview(buffer).nbytes:
        return torch.UntypedStorage(0)
    return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()


def _tensor(storage: Any, dtype: Any, *place: Any) -> Any:
    torch = importlib.import_module("torch")
    return torch.empty(0, dtype=dtype).set_(storage, *place)
