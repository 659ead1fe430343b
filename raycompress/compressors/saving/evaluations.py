"""Which model a script evaluates: the one that is saved, or an average, a copy or another instance of its class.

The calls of the model's class are watched, since a copy or a checkpoint that is loaded is of that class too. A script
may well call other models (a teacher, each batch); what counts is which one computed last before a report, without
gradients, and whether the saved one has computed since its weights changed.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from raycompress.compressors.saving.evaluated import EvaluatedWeights
from raycompress.compressors.saving.fingerprint import fingerprint
from raycompress.compressors.saving.remembered import RememberedNumbers
from raycompress.compressors.saving.witness import Fingerprint, Stale, same
from raycompress.compressors.wrappers import is_sharded
from raycompress.errors import CompressionError

_COMPRESSORS = str(Path(__file__).resolve().parent.parent)
_ORIGIN = "_raycompress_origin"

Token = tuple[tuple[int, int, int], ...]


def unmark(copied: nn.Module) -> None:
    """Take the mark from a copy that is pickled for a process without raycompress."""
    copied.__dict__.pop(_ORIGIN, None)


class Origin:
    """Marks a model, and with it the copies that are made of it; to a pickle it is nothing."""

    def __deepcopy__(self, _memo: Any) -> Origin:
        return self

    def __reduce__(self) -> tuple[type[Origin], tuple[()]]:
        return Origin, ()


class Evaluations:
    """The calls of a model, and of others of its class, by the script.

    Parameters
    ----------
    model
        The model that is saved.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._origin = Origin()
        self._last: nn.Module | None = None  # held: a checkpoint may be loaded and forgotten inside a function
        self._own_token: Token | None = None
        self._other_token: Token | None = None
        self._depth = threading.local()
        self._weights = EvaluatedWeights(model)
        self._remembered = RememberedNumbers(self._weights)
        self._noted: Token | None = None  # what the weights above were added at
        self._trained = False
        if not isinstance(model, torch.jit.ScriptModule):
            _watch(type(model), self)
            _watch_steps(self)

    def mark(self) -> None:
        """Mark the model, so that copies from now on are known as such."""
        self._model.__dict__.setdefault(_ORIGIN, self._origin)

    def other(self) -> Fingerprint | None:
        """Return the fingerprint of the model that was evaluated last, where that is another than the saved one."""
        last = self._last
        if last is None or last is self._model or _compiles():
            return None
        token = _token(self._model)
        is_copy = last.__dict__.get(_ORIGIN) is self._origin
        is_instead = self._other_token == token and self._own_token != token
        if not (is_copy or is_instead):
            return None
        if is_sharded(last):  # sums need all workers at once
            raise CompressionError(
                "the model that the script evaluated before its report is sharded over the workers (fully_shard), and "
                "is not the saved one",
                where="rc.report",
                fix="load its full state into the model that apply_speedup() returned, evaluate that one, then report",
            )
        evaluated, own = fingerprint(last), fingerprint(self._model)
        comparable = evaluated.keys() == own.keys() and _dtypes(last) == _dtypes(self._model)
        return evaluated if comparable and not same(evaluated, own) else None

    def own(self) -> Fingerprint:
        """Return the fingerprint of the model itself."""
        return fingerprint(self._model)

    def stale(self, value: float) -> Stale | None:
        """Return what is wrong where `value`, which is being reported, is the number of earlier weights."""
        return None if _compiles() else self._remembered.stale(value, sys._getframe(1))

    def has_changed(self) -> bool:
        """Return whether the saved model's weights were changed since the last evaluation by anything but training.

        So does an average that is put into the model, evaluated and taken out again.
        """
        if self._trained or self._last is not self._model or self._noted is None or _compiles():
            return False
        return _token(self._model) != self._noted and self._weights.is_unknown()

    def is_evaluated(self) -> bool:
        """Return whether the saved model has weights that it had at an evaluation, or may have."""
        return not self._weights.is_unknown()

    def carry_over(self, masked: Fingerprint, small: Fingerprint) -> None:
        """Note that `small` was proved to be the same function as `masked`."""
        self._weights.carry_over(masked, small)

    def enter(self, module: nn.Module) -> bool:
        """Note that a call of a module of the class begins; return whether that is an evaluation of the saved one."""
        depth = getattr(self._depth, "value", 0)
        self._depth.value = depth + 1
        if depth or _is_ours(sys._getframe(2)):
            return False
        if module.training and torch.is_grad_enabled():
            self._trained |= module is self._model
            return False
        if module is self._model or getattr(module, "_is_replica", False):
            self._last, self._own_token = self._model, _token(self._model)
            return True
        self._last, self._other_token = module, _token(self._model)
        return False

    def step(self) -> None:
        """Note that an optimizer made a step."""
        self._trained = True

    def leave(self, *, is_evaluation: bool) -> None:
        """Note that it ends."""
        self._depth.value -= 1
        if not is_evaluation:
            return
        self._trained = False
        if (token := _token(self._model)) == self._noted:  # another batch
            self._remembered.add_call(sys._getframe(2))
        else:
            self._noted = token
            self._weights.add()
            self._remembered.add_evaluation(sys._getframe(2))


def _watch(kind: type[nn.Module], evaluations: Evaluations) -> None:
    """Have the calls of a class noted, as long as somebody asks for them."""
    call = kind.__call__
    alive = weakref.ref(evaluations)

    @functools.wraps(call)
    def watched(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or (known := alive()) is None:
            return call(self, *args, **kwargs)
        is_evaluation = known.enter(self)
        try:
            return call(self, *args, **kwargs)
        finally:
            known.leave(is_evaluation=is_evaluation)

    kind.__call__ = watched  # type: ignore[method-assign]


def _watch_steps(evaluations: Evaluations) -> None:
    """Have the steps of all optimizers noted: a model may be trained by another method than its call."""
    alive = weakref.ref(evaluations)

    def stepped(*_: Any) -> None:
        if (known := alive()) is not None:
            known.step()

    weakref.finalize(evaluations, register_optimizer_step_post_hook(stepped).remove)


def _is_ours(frame: FrameType | None) -> bool:
    """Tell whether a call comes from a compressor, which proves, measures and scores candidates by the evaluator."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_COMPRESSORS) and file != __file__:
            return True
        frame = frame.f_back
    return False


def _compiles() -> bool:
    """Tell whether the script compiles models, whose calls are not seen."""
    utils: Any = sys.modules.get("torch._dynamo.utils")
    return utils is not None and bool(utils.counters["frames"]["total"])


def _token(model: nn.Module) -> Token:
    """Return what changes whenever a parameter does."""
    return tuple((id(one), one.data_ptr(), one._version) for one in model.parameters())


def _dtypes(model: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters()}
