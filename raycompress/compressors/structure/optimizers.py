"""Hooks on the optimizers that train a model: after each step, and when the model that they train is sliced."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from raycompress.compressors.structure.cut import Sliced
from raycompress.errors import CompressionError

Changed = list[tuple[nn.Parameter, nn.Parameter, Sliced]]
"""(old parameter, new parameter, what is left) of all that a slicing changed."""

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


def optimizers_of(changed: Changed, given: torch.optim.Optimizer | None = None) -> list[torch.optim.Optimizer]:
    """Return the optimizers of this process that train one of the old parameters; `given` is looked at in any case.

    Where a trial slices by itself, its script cannot know that the optimizer that it made on the dense model has to
    follow. No registry of optimizers exists: those that are alive are found as the garbage collector knows them. Of a
    heap of torch's size that takes longer than slicing a small network, and is left out where nothing holds a
    parameter that an optimizer could.
    """
    old = {id(parameter) for parameter, _, _ in changed}
    alive: list[torch.optim.Optimizer] = []
    if _are_held(changed, given):
        # not isinstance, which asks each object for its __class__: far slower, and a proxy's may run anything
        kinds = _with_subclasses(torch.optim.Optimizer)
        alive = [one for one in gc.get_objects() if type(one) in kinds and one is not given]
    return [
        one
        for one in (*alive, *([] if given is None else [given]))
        if any(id(parameter) in old for group in getattr(one, "param_groups", ()) for parameter in group["params"])
    ]


def _are_held(changed: Changed, given: torch.optim.Optimizer | None) -> bool:
    """Tell whether anything but `changed` and `given` refers to one of the old parameters, as an optimizer would."""
    # how many there are of a parameter that only stands in such a list
    (alone,) = _references([(nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0)), Sliced((), ()))])
    held = [] if given is None else [*given.state, *(one for group in given.param_groups for one in group["params"])]
    by_given = Counter(map(id, held))
    del held
    counts = _references(changed)
    return any(count > alone + by_given[id(one[0])] for count, one in zip(counts, changed, strict=True))


def _references(changed: Changed) -> list[int]:
    return [sys.getrefcount(one[0]) for one in changed]


def _with_subclasses(kind: type) -> set[type]:
    derived: list[type] = kind.__subclasses__()
    return {kind}.union(*map(_with_subclasses, derived))


def hand_over(changed: Changed, given: torch.optim.Optimizer | None = None) -> None:
    """Let the optimizers that train old parameters go on with the new ones; one that is not found raises when it steps.

    Parameters
    ----------
    given
        One that is known.
    """
    for optimizer in optimizers_of(changed, given):
        carry_over(optimizer, changed)
    refuse_stale(changed)


def carry_over(optimizer: torch.optim.Optimizer, changed: Changed) -> None:
    """Replace old parameters in `optimizer` by the new ones, its state (momentum and the like) sliced as they are.

    State that cannot be sliced with its parameter, such as the history of LBFGS, starts afresh.
    """
    by_id = {id(old): (new, sliced) for old, new, sliced in changed}
    for group in optimizer.param_groups:
        for place, old in enumerate(group["params"]):
            if id(old) in by_id:
                new, sliced = by_id[id(old)]
                group["params"][place] = new
                state = optimizer.state.pop(old, None)
                if state is not None and all(_can_be_cut(value, old) for value in state.values()):
                    optimizer.state[new] = {key: _cut(value, old, sliced) for key, value in state.items()}
    if "_numel_cache" in vars(optimizer):  # LBFGS remembers how many elements all its parameters have
        vars(optimizer)["_numel_cache"] = None


def forget(gone: list[nn.Parameter], given: torch.optim.Optimizer | None = None) -> None:
    """Take parameters that no model has any more out of the optimizers that train them."""
    changed = [(old, nn.Parameter(torch.empty(0)), Sliced((), ())) for old in gone]
    gone.clear()
    for optimizer in optimizers_of(changed, given):
        old = {id(parameter) for parameter, _, _ in changed}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in old:
                    optimizer.state.pop(parameter, None)
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in old]


def refuse_stale(changed: Changed) -> None:
    """Make each later step of an optimizer that still holds an old parameter raise CompressionError.

    Without this one that could not be found would silently train tensors that no model uses any more.
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


def _can_be_cut(value: Any, old: nn.Parameter) -> bool:
    """Tell whether a part of an optimizer's state is a number, or has the dimensions of its parameter or 1 for each."""
    if isinstance(value, Tensor):
        fits = all(own in (1, whole) for own, whole in zip(value.shape, old.shape, strict=False))
        return value.numel() == 1 or (value.dim() == old.dim() and fits)
    return value is None or isinstance(value, (int, float))


def _cut(value: Any, old: nn.Parameter, sliced: Sliced) -> Any:
    """Return what is left of a part of an optimizer's state; of Adafactor's only one dimension is the parameter's."""
    if not isinstance(value, Tensor) or value.dim() != old.dim():
        return value
    kept = tuple(
        places if own == whole else None for places, own, whole in zip(sliced.kept, value.shape, old.shape, strict=True)
    )
    return Sliced(kept, sliced.shape).of(value)
