"""What a pruner refuses, and what it has to say of layers that it leaves whole."""

from __future__ import annotations

import sys
from collections.abc import Container, Mapping
from typing import Any

from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.catalog import CompressorEntry
from raycompress.compressors.masking.masks import is_masked
from raycompress.compressors.structure.slicing import Slicing
from raycompress.compressors.wrappers import is_sharded
from raycompress.errors import CompressionError, SpeedupError
from raycompress.text import join_names


def need_free(model: nn.Module, sliced: Container[nn.Module], *, in_trial: bool) -> None:
    """Raise CompressionError where another compressor works on the model, or in a trial has worked on it."""
    if is_masked(model):
        raise CompressionError(
            f"the {type(model).__name__} is masked already, by another compressor",
            where="compress",
            fix="call apply_speedup of that one first, or start again from a fresh instance of the model",
        )
    if in_trial and model in sliced:
        raise CompressionError(
            f"the {type(model).__name__} was made small by another compressor before: a trial saves the work of one",
            where="compress",
            fix='name all layers in one config_list; agp, or "steps" of the group_ compressors, prune in steps',
        )


def not_callable(model: nn.Module, error: Exception) -> CompressionError:
    """Return the error for a ``dummy_input`` that the model fails on."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return CompressionError(
        f"{type(model).__name__} cannot be called with this dummy_input: {reason}",
        where="dummy_input",
        fix="pass what its forward() takes: a tensor with the batch first, a tuple of arguments, or a dict of "
        "keyword arguments",
    )


def need_example(example: Example | None, where: str) -> None:
    """Raise CompressionError where no input of the model is known."""
    if example is None:
        raise CompressionError(
            "no input of the model is known: it was not called since compress()",
            where=where,
            fix="pass dummy_input=, such as torch.randn(1, 3, 32, 32)",
        )


def need_channels(entry: CompressorEntry, where: str) -> None:
    """Raise SpeedupError for a compressor that masks single weights."""
    if not entry.removes_channels:
        base = entry.argument(entry.base)
        other = "" if base is None else f', or give {entry.name} another {base.name}, such as "l1"'
        raise SpeedupError(
            f"{entry.name} masks single weights, which cannot shrink a model",
            where=where,
            fix=f"leave apply_speedup out{other}, or use a compressor that removes channels, such as l1_filter",
        )


def need_removal(slicing: Slicing | None, arguments: Mapping[str, Any], *, is_all: bool) -> None:
    """Raise SpeedupError where the decision removes nothing, and that is all that compresses the model.

    Where blocks may go too, or other stages follow, a search may leave all channels.
    """
    if is_all and slicing is not None and not slicing.tensors:
        raise SpeedupError(
            "no parameter would fall: every sparsity rounds to no channel at all",
            where="config_list",
            fix="raise the sparsities: a layer of N channels loses int(N * sparsity) of them"
            + ", and what stays is a multiple of round_to" * ("round_to" in arguments),
        )


def need_whole(model: nn.Module, where: str) -> None:
    """Raise CompressionError where the parameters are sharded: one worker alone would wait for the others for ever."""
    if is_sharded(model):
        raise CompressionError(
            f"the {type(model).__name__} is sharded over the workers (fully_shard), so that none has it whole",
            where=where,
            fix="shard and train a copy, trained = copy.deepcopy(small), and then call on every worker "
            "small.load_state_dict(get_model_state_dict(trained, options=StateDictOptions(full_state_dict=True)))",
        )


def need_masks(kept: Mapping[str, Tensor], *, is_all: bool) -> None:
    """Raise CompressionError where the masks, 1 where a weight stays, remove nothing; see `need_removal`."""
    if is_all and not any((mask == 0).any() for mask in kept.values()):
        raise CompressionError(
            "nothing was compressed: the masks cover no weight at all",
            where="config_list",
            fix="raise the sparsities; a layer of N channels loses int(N * sparsity) of them",
        )


def need_plain(slicing: Slicing | None) -> None:
    """Raise CompressionError where a norm is masked, since a fresh instance would compute over all channels."""
    if slicing is not None and slicing.reductions:
        first = next(iter(slicing.reductions.calls))
        raise CompressionError(
            f'the masked model cannot be saved: its norm "{first}" loses channels, which weights alone do not hold',
            where="export_model",
            fix="call apply_speedup first, or pass speedup=True",
        )


def about_choice(slicing: Slicing | None) -> tuple[str, ...]:
    """Return the notes of what chose, and those on layers that are left whole."""
    return (*(() if slicing is None else slicing.removal.notes), *about_whole_layers(slicing))


def about_whole_layers(slicing: Slicing | None) -> tuple[str, ...]:
    """Return notes on the layers that ``default`` matches and that can lose no channel, by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in ({} if slicing is None else slicing.removal.whole).items():
        reasons.setdefault(why, []).append(name)
    return tuple(f'"default" left out {join_names(names)}: {why}' for why, names in reasons.items())


def note_sliced_already() -> None:
    """Print, to the script's log, that it need not slice what was sliced by itself."""
    note = '"slice": "before" has cut the model already, so that apply_speedup() changes nothing'
    print(f"raycompress: {note}", file=sys.stderr)
