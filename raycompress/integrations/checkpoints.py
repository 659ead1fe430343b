"""What a checkpoint of a compressed model says beside its weights: what was removed, for a training that goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from raycompress.compressors.engine import PruningDecision
from raycompress.compressors.layer_kinds import output_dim
from raycompress.compressors.structure.coupling import SettledDecision
from raycompress.compressors.structure.plan import plan_of
from raycompress.errors import CompressionError

RECORD = "raycompress.json"
MASKS = "raycompress_masks.safetensors"


def write(folder: Path, compressor: Any) -> None:
    """Write the record of a pruner into the folder of a checkpoint; other compressors have none."""
    record = record_of(compressor)
    if record is None:
        return
    if weights := record.pop("weights"):
        save_file(weights, folder / MASKS)
    (folder / RECORD).write_text(json.dumps(record))


def restore(folder: Path, compressor: Any) -> None:
    """Have a pruner remove what was removed of the model of a checkpoint, whose weights are loaded next.

    Raises
    ------
    CompressionError
        Its model is sliced and this one is not, this one is sliced otherwise, or it is a checkpoint of a dense model.
    """
    record, masks = read(folder), folder / MASKS
    check(record, compressor.model, str(folder))
    if record is not None and not record["kept"]:
        remove({**record, "weights": load_file(masks) if masks.exists() else {}}, compressor)


def record_of(compressor: Any) -> dict[str, Any] | None:
    """Return what was removed of a pruner's model, as plain data and tensors; None where nothing was, or not yet.

    ``kept``: of a sliced model layer -> the output channels that it has, in the dense model's numbering; of another one
    ``channels``: layer -> those that go, and ``weights``: layer -> bool tensor, True where a single weight goes.
    """
    decision: PruningDecision | None = getattr(compressor, "decision", None)
    kept = _kept(compressor.model)
    if decision is None or not (compressor.is_decided or kept):
        return None
    weights = {} if kept else {name: removed.cpu().contiguous() for name, removed in decision.weights.items()}
    channels = {} if kept else {name: list(removed) for name, removed in decision.channels.items()}
    return {"kept": kept, "channels": channels, "weights": weights, "round_to": decision.round_to}


def remove(record: Mapping[str, Any], compressor: Any) -> None:
    """Have a pruner, of a model that is not sliced yet, hold at zero what a record says was removed."""
    if record["kept"]:
        compressor.restore(decision_of(record["kept"], compressor.model))
    elif record["channels"] or record["weights"]:
        channels = {name: tuple(removed) for name, removed in record["channels"].items()}
        weights = {name: removed.bool() for name, removed in record["weights"].items()}
        compressor.restore(PruningDecision(channels=channels, weights=weights, round_to=record.get("round_to", 1)))


def check(record: Mapping[str, Any] | None, model: nn.Module, where: str) -> None:
    """Raise CompressionError where a model is sliced otherwise than that of a checkpoint, whose weights would not fit.

    Parameters
    ----------
    record
        None of a checkpoint of a dense model.
    where
        The checkpoint.
    """
    there, here = {} if record is None else record["kept"], _kept(model)
    if there != here:
        raise CompressionError(
            f"the checkpoint holds {_described(there)}, and the model here is {_described(here)}: their "
            "weights do not fit",
            where=where,
            fix="resume with the weights and the configuration that the run began with, or train from the start",
        )


def read(folder: Path) -> dict[str, Any] | None:
    """Return the record in the folder of a checkpoint; None where there is none."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    except FileNotFoundError:
        return None
    return record


def decision_of(kept: dict[str, list[int]], dense: nn.Module) -> PruningDecision:
    """Return the decision by which a dense model is sliced to one of which each layer keeps these channels."""
    of: dict[str, int] = {}
    for name in kept:
        layer: Any = dense.get_submodule(name)
        of[name] = int(layer.weight.shape[output_dim(layer)])
    gone = {name: tuple(sorted({*range(of[name])} - {*channels})) for name, channels in kept.items()}
    return SettledDecision(channels=gone, of=of)


def _kept(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(channels) for name, channels in plan_of(model).kept.items()}


def _described(kept: dict[str, list[int]]) -> str:
    if not kept:
        return "a model of full width"
    return "a small model, " + ", ".join(f"{name} of {len(one)}" for name, one in list(kept.items())[:4])
