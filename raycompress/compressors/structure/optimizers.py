"""Hooks on the optimizers that train a model: after each step, and when the model that they train is sliced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from raycompress.compressors.structure.cut import Sliced
from raycompress.errors import CompressionError

_GONE = "_raycompress_sliced_away"
_watching = False


class StepWatch:
    """Calls back after each step of any optimizer that trains a parameter of a model.

    Parameters
    ----------
    model
        The model; without one nothing is watched.
    """

    def __init__(self, model: nn.Module | None = None, stepped: Callable[[], None] | None = None) -> None:
        self._stepped = stepped
        self._own = set() if model is None else {id(parameter) for parameter in model.parameters()}
        self._handle = None if model is None else register_optimizer_step_post_hook(self._after)

    def cancel(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _after(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        trained = any(id(parameter) in self._own for group in optimizer.param_groups for parameter in group["params"])
        if trained and self._stepped is not None:
            self._stepped()


def carry_over(optimizer: torch.optim.Optimizer, changed: list[tuple[nn.Parameter, nn.Parameter, Sliced]]) -> None:
    """Replace old parameters in `optimizer` by the new ones, its state (momentum and the like) sliced as they are."""
    by_id = {id(old): (new, sliced) for old, new, sliced in changed}
    for group in optimizer.param_groups:
        for place, old in enumerate(group["params"]):
            if id(old) in by_id:
                new, sliced = by_id[id(old)]
                group["params"][place] = new
                if old in optimizer.state:
                    state = optimizer.state.pop(old)
                    optimizer.state[new] = {key: _cut(value, old, sliced) for key, value in state.items()}


def refuse_stale(changed: list[tuple[nn.Parameter, nn.Parameter, Sliced]]) -> None:
    """Make each later step of an optimizer that still holds an old parameter raise CompressionError.

    Without this it would silently train tensors that no model uses any more.
    """
    global _watching
    for old, _, _ in changed:
        setattr(old, _GONE, True)
    if not _watching:
        register_optimizer_step_pre_hook(_check)
        _watching = True


def _check(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    if any(hasattr(parameter, _GONE) for group in optimizer.param_groups for parameter in group["params"]):
        raise CompressionError(
            "this optimizer was made before apply_speedup and would train weights that the model no longer has",
            where=f"{type(optimizer).__name__}.step",
            fix="make a new optimizer after apply_speedup, or pass optimizer= to create_compressor",
        )


def _cut(value: Any, old: nn.Parameter, sliced: Sliced) -> Any:
    if isinstance(value, Tensor) and value.shape == old.shape:
        return sliced.of(value)
    return value
