"""The residual blocks of a model, as an inspection records them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.depth.finding import residual_blocks
from raycompress.compressors.depth.influence import block_influence
from raycompress.compressors.depth.proof import prove
from raycompress.errors import CompressionError
from raycompress.model.info import BlockInfo


def inspect_blocks(
    model: nn.Module, example: Example, inputs: Sequence[Example] | None = None
) -> tuple[BlockInfo, ...]:
    """Return the residual blocks of `model`, and of each whether the model works without it.

    Parameters
    ----------
    example
        An input.
    inputs
        What the influence of blocks is measured on; None where nobody asks for it.
    """
    found = {block.name: block for block in residual_blocks(model, example)}
    why_not = _why_not(model, {name: block.returns for name, block in found.items()}, example)
    influence = {} if inputs is None else block_influence(model, list(found), inputs or [example])
    return tuple(
        BlockInfo(name, block.type, influence.get(name), why_not.get(name, "")) for name, block in found.items()
    )


def _why_not(model: nn.Module, blocks: dict[str, int], example: Example) -> dict[str, str]:
    """Return block -> why the model does not work without it; proved once for all, and one by one where that fails."""
    try:
        if blocks:
            prove(model, blocks, example)
    except CompressionError:
        found = {}
        for name, returns in blocks.items():
            try:
                prove(model, {name: returns}, example, ())
            except CompressionError as error:
                found[name] = error.problems[0].what
        return found
    return {}
