"""What a W&B run wrote without a server: its file is LevelDB's log format, each record a protobuf message."""

import json
import struct
from pathlib import Path

_BLOCK = 32768
_BEGINS = (1, 2)  # a whole record, or the first part of one; then follow 3, and 4 for the last part


def records(path: Path) -> list:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, found, parts = path.read_bytes(), [], b""
    assert data[:4] == b":W&B"
    at = 7
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:  # too little for a header: the block is filled up
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        body, at = data[at + 7 : at + 7 + length], at + 7 + length
        parts = body if kind in _BEGINS else parts + body
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
    return found


def history(path: Path) -> list[dict]:
    rows = [record.history for record in records(path) if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def config(path: Path) -> dict:
    (run,) = [record.run for record in records(path) if record.HasField("run")][:1]
    return {item.key: json.loads(item.value_json) for item in run.config.update}
