"""What compresses the model: one stage of an experiment, or the only one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycompress.catalog import CompressorEntry, find
from raycompress.catalog.quantizers import SEARCHED, SENSITIVITY
from raycompress.config.options import CompressionOptions, read_options
from raycompress.config.schema.ranges import find_ranges
from raycompress.config.text.reader import JsonPath


@dataclass(frozen=True)
class Compression(CompressionOptions):
    """What compresses the model; values of `config_list`, `arguments` and `depth` may be search ranges."""

    framework: str
    type: str
    compressor: str
    config_list: tuple[Mapping[str, Any], ...]
    arguments: Mapping[str, Any]
    depth: Mapping[str, Any] | None = None

    @property
    def entry(self) -> CompressorEntry:
        """The catalogue's entry of the compressor, with these arguments."""
        entry = find(self.compressor, self.framework)
        assert entry is not None, "checked when the file was read"
        return entry.given(self.arguments)

    @property
    def is_searched(self) -> bool:
        """Whether there is a search range in it, or blocks of which each is kept or dropped."""
        depth = self.depth or {"drop": 0}
        inside = find_ranges([*self.config_list, depth]), find_ranges(self.arguments, anything=True)
        return "drop" not in depth or any(True for ranges in inside for _ in ranges)


def stages_from(keys: Any) -> tuple[Compression, ...]:
    """Return the stages that the checked key ``compression`` of a file asks for: an object is the only one."""
    return tuple(map(_compression, keys if isinstance(keys, list) else [keys]))


def _compression(keys: Any) -> Compression:
    found = find(keys.compressor, keys.framework)
    assert found is not None, "checked"
    return Compression(
        keys.framework,
        keys.type,
        keys.compressor,
        tuple(_plain_entry(entry) for entry in keys.config_list) or found.without_entries,
        keys.arguments,
        None if keys.depth is None else {"blocks": "auto", **written(keys.depth)},
        **read_options(CompressionOptions, keys),
    )


def _plain_entry(entry: Any) -> dict[str, Any]:
    """Return an entry as written, with the range that "sensitivity" stands for.

    An ``exclude`` that is false goes: to NNI the key alone excludes.
    """
    plain = written(entry)
    if plain.get("quant_bits") == SENSITIVITY:
        plain["quant_bits"] = {"type": "choice", "range": list(SEARCHED)}
    return {key: value for key, value in plain.items() if (key, value) != ("exclude", False)}


def written(keys: Any) -> dict[str, Any]:
    """Return the keys that the file has; without pydantic's dump, which knows of no search range."""
    return {key: getattr(keys, key) for key in type(keys).model_fields if key in keys.model_fields_set}


def stages_in(data: Mapping[str, Any]) -> Iterator[tuple[JsonPath, Mapping[str, Any]]]:
    """Yield each stage of an experiment's plain `data`, with its path; members of a wrong type are passed over."""
    given = data.get("compression")
    if isinstance(given, Mapping):
        yield ("compression",), given
    elif isinstance(given, Sequence) and not isinstance(given, str):
        yield from ((("compression", index), stage) for index, stage in enumerate(given) if isinstance(stage, Mapping))


def first_stage(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first stage of an experiment's plain `data`, or the only one; nothing where there is none."""
    return next((stage for _, stage in stages_in(data)), {})
