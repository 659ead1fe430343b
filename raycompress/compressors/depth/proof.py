"""Proves that a model without some blocks computes what the model does where these blocks pass their inputs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.depth.dropped_block import DroppedBlock, drop_blocks, in_form, input_of
from raycompress.compressors.measure.difference import TOLERANCE
from raycompress.compressors.measure.sizes import first_of_batch
from raycompress.compressors.structure.decisions import DecidedPass
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import SpeedupError
from raycompress.text import join_names

_SEEDS = (1, 2)


def masked(model: nn.Module, blocks: Mapping[str, int]) -> nn.Module:
    """Return a copy of `model` that runs `blocks` and goes on with their inputs in the place of what they answer.

    Parameters
    ----------
    blocks
        Name -> what it returns, see `DroppedBlock`.
    """
    copied = clean_copy(model)
    for name, returns in blocks.items():
        block = copied.get_submodule(name)
        if not isinstance(block, DroppedBlock):
            passing = _PassingOn(returns)
            block.register_forward_pre_hook(passing.before, with_kwargs=True, prepend=True)
            block.register_forward_hook(passing.after)
    return copied


class _PassingOn:
    """Hooks of one block: a copy of its input, which the block may change in place, and what goes on for its output."""

    def __init__(self, returns: int) -> None:
        self._returns = returns
        self._inputs: list[Any] = []

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inputs.append(input_of(module, args, kwargs).clone())

    def after(self, _module: nn.Module, _args: Any, _output: Any) -> Any:
        return in_form(self._inputs.pop(), self._returns)


def prove(model: nn.Module, blocks: Mapping[str, int], example: Example, seeds: Sequence[int] = _SEEDS) -> float:
    """Return the largest relative difference of the outputs of both models, on `example` and on random inputs.

    `model` is left as it is.

    Raises
    ------
    SpeedupError
        It is above `TOLERANCE`, or the model cannot run without the blocks.
    """
    one = first_of_batch(example)
    examples = [one, *(one.random(seed) for seed in seeds)]
    copied = masked(model, blocks)
    expected = [DecidedPass(copied, inputs) for inputs in examples]
    del copied
    small = clean_copy(model)
    drop_blocks(small, blocks)
    worst = 0.0
    for passed in expected:
        try:
            difference = passed.difference(small)
        except Exception as error:  # whatever the user's forward raises, as where it asks a block for what it has
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SpeedupError(
                f"without {_listed(blocks)} the model cannot run: {reason}", where="depth", fix=_fix(blocks)
            ) from error
        if not difference <= TOLERANCE:
            raise SpeedupError(
                f"without {_listed(blocks)} the model is not the masked one: its outputs differ by {difference:.2g} of "
                "their norm",
                where="depth",
                fix=_fix(blocks),
            )
        worst = max(worst, difference)
    return worst


def _listed(blocks: Mapping[str, int]) -> str:
    return join_names(f'"{name}"' for name in blocks)


def _fix(blocks: Mapping[str, int]) -> str:
    return f'name other blocks in "blocks", without {_listed(blocks)}'
