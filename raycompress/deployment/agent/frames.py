"""Frames between the agent and its client: a line of JSON, and after it the bytes whose lengths the line gives."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MARK = b"raycompress-frame "
"""What a frame starts with: whatever else comes over the stream before one, such as a banner of a login, is skipped."""


def write(stream: IO[bytes], message: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Write one frame."""
    line = json.dumps({**message, "lengths": [len(blob) for blob in blobs]}).encode()
    stream.write(MARK + line + b"\n")
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def read(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Read one frame; raises EOFError where the stream ends before one is whole."""
    while True:
        line = stream.readline()
        if not line:
            raise EOFError("the stream has ended")
        _, mark, rest = line.rpartition(MARK)
        if mark:
            break
    message = json.loads(rest)
    blobs = [stream.read(length) for length in message.pop("lengths")]
    if any(len(blob) < length for blob, length in zip(blobs, json.loads(rest)["lengths"], strict=True)):
        raise EOFError("the stream has ended within a frame")
    return message, blobs


def packed(arrays: Sequence[Array]) -> list[bytes]:
    """Return each array in numpy's own format."""
    blobs = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(array), allow_pickle=False)
        blobs.append(buffer.getvalue())
    return blobs


def unpacked(blobs: Sequence[bytes]) -> list[Array]:
    """Undo `packed`."""
    return [np.load(io.BytesIO(blob), allow_pickle=False) for blob in blobs]
