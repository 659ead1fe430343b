"""`create_compressor`: the one call by which a script gets its model compressed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raycompress.compressors.catalog import CATALOG, COMING, CompressorEntry
from raycompress.compressors.example import Example
from raycompress.compressors.interface import Compressor
from raycompress.compressors.modes import DenseCompressor, Inspector, verify
from raycompress.compressors.pruner import Pruner
from raycompress.compressors.targets import closest, select
from raycompress.errors import ExperimentError, UsageError
from raycompress.script import context

__all__ = ["Compressor", "DenseCompressor", "create_compressor"]

# what scripts of the old tool pass whatever the compressor, and a compressor that has no use for it leaves alone
_TOLERATED = frozenset({"optimizer", "trainer", "criterion", "evaluator", "lr_scheduler", "statistics_batch_num"})


def create_compressor(model: nn.Module, config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Compressor:
    """Return the compressor that `config` names, for `model`.

    Parameters
    ----------
    model
        The trained model; it is compressed in place.
    config
        ``compressor``, ``config_list``, and optionally ``arguments``, whose values win over `kwargs`. The ``locals()``
        of a decorated ``main`` is taken as well.
    *args
        An optimizer, for scripts that pass it by position.
    **kwargs
        The compressor's arguments (``raycompress compressors NAME`` lists them) and ``dummy_input``: a tensor with the
        batch first, a tuple of arguments, or a dict of keyword arguments. Without it, the first input that the model
        meets is taken.

    Raises
    ------
    ExperimentError
        Unknown compressor, layers or arguments, all of them at once where they stand in one list.
    CompressionError
        The compressor cannot work on this model.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"create_compressor takes a torch.nn.Module first, not {type(model).__name__}")
    arguments = {**_positional(args), **kwargs}
    dummy = arguments.pop("dummy_input", None)
    example = None if dummy is None else Example.from_dummy(dummy)
    trial = context.current()
    if trial is not None and trial.mode == "inspect":
        return Inspector(model, trial, example)
    if trial is not None and trial.mode == "baseline":
        return DenseCompressor(model)
    if trial is not None and trial.mode == "verify":
        verify(model, trial)
    entry = _entry(config)
    from_file = _file_arguments(config)
    complete = _complete(entry, arguments, from_file)
    config_list = config.get("config_list", ())
    targets = select(model, config_list, entry)
    optimizer = arguments.get("optimizer")
    asked = {"name": entry.name, "config_list": list(config_list), "arguments": dict(from_file)}
    return Pruner(
        model,
        entry,
        targets,
        complete,
        example,
        optimizer if isinstance(optimizer, torch.optim.Optimizer) else None,
        asked,
    )


def _positional(args: tuple[Any, ...]) -> dict[str, Any]:
    if not args:
        return {}
    if len(args) == 1 and isinstance(args[0], torch.optim.Optimizer):
        return {"optimizer": args[0]}
    raise UsageError(
        "create_compressor takes the model, the config and at most an optimizer by position",
        where="create_compressor",
        fix="pass the rest by name, such as dummy_input=...",
    )


def _entry(config: Mapping[str, Any]) -> CompressorEntry:
    name = config.get("compressor")
    if isinstance(name, str) and name in CATALOG:
        return CATALOG[name]
    if isinstance(name, str) and name in COMING:
        framework, kind = COMING[name]
        raise ExperimentError(
            f'the compressor "{name}" ({framework}, {kind}) is not in this version',
            where="compressor",
            fix="take one of " + ", ".join(CATALOG),
        )
    near = closest(str(name), CATALOG)
    raise ExperimentError(
        f'unknown compressor "{name}"' if name is not None else "the config names no compressor",
        where="compressor",
        fix=f"{near} `raycompress compressors` lists them all".strip(),
    )


def _file_arguments(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``arguments``; in the ``locals()`` of a main with ``**other`` they stand one level down."""
    for place in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        found = place.get("arguments")
        if isinstance(found, Mapping):
            return found
    return {}


def _complete(entry: CompressorEntry, given: Mapping[str, Any], from_file: Mapping[str, Any]) -> dict[str, Any]:
    known = {argument.name: argument.default for argument in entry.arguments}
    unknown = [key for key in from_file if key not in known]
    unknown += [key for key in given if key not in known and key not in _TOLERATED]
    if unknown:
        listed = ", ".join([*known, "dummy_input"])
        raise ExperimentError(
            f"{entry.name} takes no argument " + ", ".join(f'"{key}"' for key in unknown),
            where="create_compressor",
            fix=closest(unknown[0], [*known, "dummy_input"]) or f"it takes {listed}",
        )
    return {**known, **{key: value for key, value in given.items() if key in known}, **from_file}
