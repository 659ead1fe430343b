"""A file of plain data, arrays and tensors: a line of JSON about it, a line that says what lies where, their bytes.

No pickle, so that a file which comes back from a bucket can run nothing. Libraries are used where they are loaded.
"""

from __future__ import annotations

import importlib
import json
import math
import mmap
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raycompress.disk import translate_os_errors
from raycompress.errors import UsageError

FORMAT = 1
_ALIGNED = 64


def write(path: Path, about: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Replace the file at `path` in one step.

    Parameters
    ----------
    about
        Plain JSON, which `read_about` gets without the rest.
    content
        Numbers, texts, bytes, None, lists, tuples, sets, mappings, arrays and tensors, nested as they like.

    Raises
    ------
    UsageError
        Something else is in it; the error names its place.
    StorageError
        The file cannot be written.
    """
    writer = _Encoder()
    encoded = writer.encode(content, "")
    lines = (json.dumps({"format": FORMAT, **about}), json.dumps({"content": encoded, "sizes": writer.sizes}))
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with translate_os_errors("cannot write", path):
        try:
            with aside.open("wb") as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
                for part in writer.parts:
                    file.write(bytes(-file.tell() % _ALIGNED))
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def read_about(path: Path) -> dict[str, Any] | None:
    """Return what was written about a file; None where there is none, or it is of another format."""
    try:
        with path.open("rb") as file:
            about = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and about.get("format") == FORMAT else None


def read(path: Path) -> dict[str, Any]:
    """Return the content; tensors are on the CPU.

    Raises
    ------
    OSError, ValueError
        It cannot be read, or is no such file.
    """
    with path.open("rb") as file:
        file.readline()
        table = json.loads(file.readline())
        start = file.tell()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            parts = []
            for size in table["sizes"]:
                start += -start % _ALIGNED
                parts.append(bytearray(mapped[start : start + size]))
                start += size
    content: dict[str, Any] = _decoded(table["content"], parts)
    return content


class _Encoder:
    """Turns content into JSON; what is no JSON becomes a list that begins with its kind, and bytes go apart."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.sizes: list[int] = []
        self._torch, self._numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        self._seen: dict[tuple[Any, ...], int] = {}
        self._alive: list[Any] = []

    def encode(self, value: Any, place: str) -> Any:
        """Return `value` as JSON; `place` is where it stands, for errors."""
        if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
            return value
        if isinstance(value, bool | int | float):
            return ["float", str(float(value))] if isinstance(value, float) else int(value)
        if isinstance(value, str):
            return str(value)
        if isinstance(value, Mapping):
            pairs = [[self.encode(key, place), self.encode(one, f"{place}.{key}")] for key, one in value.items()]
            return ["dict", pairs, self.encode(getattr(value, "_metadata", None), place)]  # versions of torch's modules
        if isinstance(value, list | tuple | set | frozenset):
            kind = next(one for one in ("list", "tuple", "set", "frozenset") if isinstance(value, _KINDS[one]))
            return [kind, [self.encode(one, f"{place}[{number}]") for number, one in enumerate(value)]]
        if isinstance(value, bytes | bytearray):
            return ["bytes", self._add(bytes(value))]
        return self._encode_array(value, place)

    def _encode_array(self, value: Any, place: str) -> Any:
        torch, numpy = self._torch, self._numpy
        if torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter):
            if value.layout is torch.strided and not value.is_quantized and not value.is_meta:
                return ["tensor", *self._add_tensor(value)]
        elif torch is not None and isinstance(value, torch.dtype | torch.device):
            return [type(value).__name__, str(value).removeprefix("torch.")]
        elif numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "biufc":
            array = numpy.ascontiguousarray(value)
            number = self._add(array.reshape(-1).view(numpy.uint8))
            return ["array" if isinstance(value, numpy.ndarray) else "number", number, array.dtype.str, [*value.shape]]
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise UsageError(
            f"a {kind} cannot be kept in a checkpoint" + (f": it stands at {place.lstrip('.')}" if place else ""),
            where="rc.checkpoint",
            fix="give the full state, on every worker: get_model_state_dict(model, options=StateDictOptions("
            "full_state_dict=True))"
            if hasattr(value, "device_mesh")
            else "give numbers, texts, lists, mappings, arrays and tensors, or by name what has a state_dict()",
        )

    def _add_tensor(self, value: Any) -> tuple[int, str, list[int]]:
        torch: Any = self._torch
        key = (value.data_ptr(), value.device, value.dtype, tuple(value.shape), value.stride())
        if not value.numel() or key not in self._seen:
            flat = value.detach().cpu().contiguous().reshape(-1)
            self._alive += [value, flat]  # an address that is free again would be taken for this one's
            self._seen[key] = self._add(flat.view(torch.uint8).numpy() if flat.numel() else b"")
        return self._seen[key], str(value.dtype).removeprefix("torch."), [*value.shape]

    def _add(self, part: Any) -> int:
        self.parts.append(part)
        self.sizes.append(memoryview(part).nbytes)
        return len(self.parts) - 1


_KINDS: Mapping[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def _decoded(value: Any, parts: list[bytearray]) -> Any:
    if not isinstance(value, list):
        return value
    kind, *rest = value
    if kind in _KINDS:
        return _KINDS[kind](_decoded(one, parts) for one in rest[0])
    if kind == "dict":
        return _mapping(rest[0], _decoded(rest[1], parts), parts)
    if kind == "float":
        return float(rest[0])
    if kind == "bytes":
        return bytes(parts[rest[0]])
    if kind in ("dtype", "device"):
        torch = importlib.import_module("torch")
        return getattr(torch, rest[0]) if kind == "dtype" else torch.device(rest[0])
    number, dtype, shape = rest
    if kind == "tensor":
        return _tensor(parts[number], dtype, shape)
    array = importlib.import_module("numpy").frombuffer(parts[number], dtype).reshape(shape)
    return array[()] if kind == "number" else array


def _mapping(pairs: Iterable[Any], metadata: Any, parts: list[bytearray]) -> dict[Any, Any]:
    made = {_decoded(key, parts): _decoded(one, parts) for key, one in pairs}
    if metadata is None:
        return made
    from collections import OrderedDict  # a plain dict takes no attribute

    ordered = OrderedDict(made)
    ordered._metadata = metadata  # type: ignore[attr-defined]
    return ordered


def _tensor(part: bytearray, dtype: str, shape: list[int]) -> Any:
    torch = importlib.import_module("torch")
    if not part:
        return torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.frombuffer(part, dtype=getattr(torch, dtype)).reshape(shape)
