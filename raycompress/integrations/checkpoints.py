"""What a checkpoint of a compressed model says beside its weights: what was removed, for a training that goes on."""

from __future__ import annotations

import json
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
    decision: PruningDecision | None = getattr(compressor, "decision", None)
    kept = plan_of(compressor.model).kept
    if decision is None or not (compressor.is_decided or kept):
        return
    if decision.weights and not kept:
        save_file({name: removed.cpu().contiguous() for name, removed in decision.weights.items()}, folder / MASKS)
    channels = {} if kept else {name: list(removed) for name, removed in decision.channels.items()}
    record = {
        "kept": {name: list(channels) for name, channels in kept.items()},
        "channels": channels,
        "round_to": decision.round_to,
    }
    (folder / RECORD).write_text(json.dumps(record))


def restore(folder: Path, compressor: Any) -> None:
    """Have a pruner remove what was removed of the model of a checkpoint, whose weights are loaded next.

    Raises
    ------
    CompressionError
        Its model is sliced and this one is not, this one is sliced otherwise, or it is a checkpoint of a dense model.
    """
    kept = {name: list(channels) for name, channels in plan_of(compressor.model).kept.items()}
    record = read(folder)
    if record is None:
        record = {"kept": {}, "channels": {}}
        if not kept:
            return  # nothing was decided yet, and nothing is here
    if record["kept"] != kept:
        raise CompressionError(
            f"the checkpoint holds {_described(record['kept'])}, and the model here is {_described(kept)}: their "
            "weights do not fit",
            where=str(folder),
            fix="resume with the weights and the configuration that the run began with, or train from the start",
        )
    masks = folder / MASKS
    weights = {name: removed.bool() for name, removed in load_file(masks).items()} if masks.exists() else {}
    if not kept and (weights or record["channels"]):
        channels = {name: tuple(removed) for name, removed in record["channels"].items()}
        compressor.restore(PruningDecision(channels=channels, weights=weights, round_to=record.get("round_to", 1)))


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


def _described(kept: dict[str, list[int]]) -> str:
    if not kept:
        return "a model of full width"
    return "a small model, " + ", ".join(f"{name} of {len(one)}" for name, one in list(kept.items())[:4])
