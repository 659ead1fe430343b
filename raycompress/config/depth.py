"""The part ``depth`` of an experiment: which residual blocks of the model may go, and which a sample drops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycompress.model.info import ModelInfo

Depth = Mapping[str, Any]
"""``blocks``, names or ``"auto"``, and ``drop`` where the file has it: `raycompress.config.schema.keys.DepthKeys`."""


def without_model(depth: Depth | None) -> Depth | None:
    """Return the depth as it is where no model is known: a number of blocks is for the compressor to choose."""
    return None if depth is None else {**depth, "by_hand": True}


def needs_blocks(depth: Depth | None) -> bool:
    """Tell whether only the model says which blocks may go, or in which order."""
    return depth is not None and "by_hand" not in depth and (depth["blocks"] == "auto" or "drop" in depth)


def blocks_of(depth: Depth, model: ModelInfo | None, *, by_influence: bool = False) -> list[str]:
    """Return the blocks that may go, in the model's order, or those first that have least influence.

    Without a model they are those that the file names.
    """
    if model is None:
        return [] if depth["blocks"] == "auto" else list(depth["blocks"])
    known = [block for block in model.blocks if not block.why_not]
    if depth["blocks"] != "auto":
        known = [block for block in known if block.name in depth["blocks"]]
    if by_influence:
        known.sort(key=lambda block: block.influence or 0.0)
    return [block.name for block in known]


def built_depth(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a trial is given, of the part of a config that a sample was built into: the blocks that go."""
    if "keep" in template:
        return {"drop": [name for name, keeps in template["keep"].items() if not keeps]}
    if "order" in template:
        return {"drop": list(template["order"][: template["number"]])}
    return {"drop": template["number"], "blocks": template["blocks"]}
