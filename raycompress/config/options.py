"""Options of a search, each declared once: its key, type, default, limits and description; and what a trial occupies.

`with_options` in `raycompress.config.schema.keys` makes keys of the experiment file of them; `read_options` carries
what a file says over whole. Nothing here loads pydantic.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal


def option(default: Any, description: str, *, key: str = "", **limits: float) -> Any:
    """Return the field of an option.

    Parameters
    ----------
    default
        Its value where the file does not say; None where it has none.
    description
        What it does, for the JSON Schema.
    key
        Its key in the file, where that is not the field's name.
    limits
        Of a number: ``ge``, ``gt``, ``le``, ``lt``, as pydantic calls them.
    """
    return field(default=default, metadata={"description": description, "key": key, "limits": limits})


def read_options(options: type[Any], keys: Any) -> dict[str, Any]:
    """Return field -> value of all `options`, a dataclass of them, from the checked `keys` of a file."""
    return {
        one.name: getattr(keys, one.metadata["key"] or one.name) for one in fields(options) if "key" in one.metadata
    }


@dataclass(frozen=True, kw_only=True)
class CompressionOptions:
    """When a trial cuts out the channels that its compressor removes."""

    slice: Literal["before", "after"] | None = option(
        None,
        "When removed channels are cut out: before the script trains, so that it trains the small model, or after it, "
        "when the model is saved. Left out, the script does it by apply_speedup(), or nobody.",
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a search proposes samples, and which of its trials it trains again."""

    on_budget: Literal["project", "reject"] = option(
        "project", "A proposal over a budget of params, flops or size_bytes is scaled to it, or drawn anew."
    )
    repeats: int = option(1, "Train the finalists so many times, each with another seed.", ge=1)
    finalists: int = option(3, "repeats: how many of the best trials are finalists.", ge=1)
    exploration: float = option(
        0.25, "guided: share of the trials that do not follow what is known so far.", ge=0, le=1
    )


@dataclass(frozen=True)
class Resources:
    """What one trial occupies: CPU cores, GPUs, memory in GiB (None: not asked for), kind of GPU (None: any).

    Where it has several workers, each of them does; `placement` is that of Ray's placement groups.
    """

    cpu: float = 1.0
    gpu: float = 0.0
    memory_gb: float | None = None
    accelerator_type: str | None = None
    workers: int = 1
    placement: str = "PACK"
