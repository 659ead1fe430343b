"""What `create_compressor` was given, checked: the input of every compressor's constructor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycompress.catalog import CompressorEntry


@dataclass(frozen=True)
class Setup:
    """One call of `create_compressor`.

    Attributes
    ----------
    model
        The user's model: a torch module or a Keras model.
    entry
        The compressor's entry in the catalogue, as it is with these arguments.
    config_list
        As the user wrote it, concrete.
    arguments
        The compressor's arguments, complete.
    dummy_input
        What the script passed under this name, or None.
    optimizer
        What the script passed under this name or by position, or None.
    asked
        ``name``, ``config_list`` and ``arguments`` as the user wrote them, for the bundle: plain JSON.
    evaluator
        What the script passed under this name: evaluator(model) returns the metric. None where it passed none.
    calibration
        What the script passed under this name: inputs in batches, or tuples that begin with them; or None.
    """

    model: Any
    entry: CompressorEntry
    config_list: Sequence[Mapping[str, Any]]
    arguments: Mapping[str, Any]
    dummy_input: Any
    optimizer: Any
    asked: Mapping[str, Any]
    evaluator: Callable[[Any], Any] | None = None
    calibration: Iterable[Any] | None = None
