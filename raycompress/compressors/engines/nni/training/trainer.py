"""Runs NNI with the user's trainer and optimizer: their output is shown, and their exceptions pass unchanged."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import evaluating
from raycompress.compressors.engine import Request
from raycompress.compressors.engines.nni.library import quiet, with_contiguous_weights
from raycompress.errors import CompressionError

Trainer = Callable[..., None]
"""Trains one epoch; NNI calls it as ``trainer(model, optimizer=..., criterion=..., epoch=...)``."""


class _Raised(BaseException):
    """Ends NNI's work because the user's function raised; a BaseException, so that NNI does not catch it."""


def optimizer_of(request: Request) -> torch.optim.Optimizer | None:
    """Return the optimizer that the script passed, or None.

    Raises
    ------
    CompressionError
        It is no optimizer, or trains nothing of the model.
    """
    optimizer = request.arguments.get("optimizer")
    if optimizer is None:
        return None
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise CompressionError(
            f"optimizer is a torch optimizer, not {type(optimizer).__name__}",
            where="create_compressor",
            fix="pass optimizer=torch.optim.SGD(model.parameters(), lr=0.01)",
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in request.model.parameters()):
        raise CompressionError(
            f"the optimizer holds none of the parameters of {type(request.model).__name__}: it trains another model",
            where="create_compressor",
            fix="make it from the parameters of the model that create_compressor is given",
        )
    return optimizer


def optimizer_for_trainer(request: Request) -> torch.optim.Optimizer:
    """Return the optimizer to hand to ``trainer``; raises CompressionError where the script passed none."""
    optimizer = optimizer_of(request)
    if optimizer is None:
        raise CompressionError(
            f"{request.compressor.name} with trainer= needs the optimizer that it hands to it",
            where="create_compressor",
            fix="pass optimizer=, or leave trainer out: the script's own training serves as well",
        )
    return optimizer


def train(request: Request, make: Callable[[Trainer], Any]) -> Any:
    """Let a pruner of NNI train the user's model with the user's trainer, and return it.

    Parameters
    ----------
    make
        Returns the pruner, for the trainer that it is to call.

    Raises
    ------
    CompressionError
        The trainer cannot be called as NNI calls it, or NNI fails. What the trainer raises passes through.
    """
    theirs, more = request.arguments["trainer"], _callback(request)
    stdout, raised = sys.stdout, []

    # a function, and no object: ADMM copies its pruner, and what hangs on it, at each projection
    def trainer(model: nn.Module, optimizer: Any, criterion: Any, epoch: int) -> None:
        try:
            with contextlib.redirect_stdout(stdout):
                theirs(model, optimizer=optimizer, criterion=criterion, epoch=epoch, **more)
        except Exception as error:
            raised.append(error)
            raise _Raised from error

    pruner = None
    with_contiguous_weights(request.model)
    with _unchanged(request):
        try:
            with quiet(request):
                with evaluating(request.model):  # NNI traces the model for dependency_aware
                    pruner = make(trainer)
                pruner.compress()
        except _Raised:
            pass
    if raised:
        raise raised[0]
    return pruner


def _callback(request: Request) -> dict[str, Any]:
    """Check the trainer's signature; return its further arguments beside NNI's own.

    Trainers of the old convention call `callback` before each step of the optimizer; NNI does by now what it did.
    """
    trainer = request.arguments["trainer"]
    wrong = CompressionError(
        "trainer cannot be called as trainer(model, optimizer=..., criterion=..., epoch=...)",
        where="create_compressor",
        fix="write def trainer(model, optimizer, criterion, epoch), which trains one epoch",
    )
    if not callable(trainer):
        raise wrong
    try:
        signature = inspect.signature(trainer)
    except ValueError:  # a builtin has none
        return {}
    more = {"callback": lambda: None} if "callback" in signature.parameters else {}
    try:
        signature.bind(request.model, optimizer=None, criterion=None, epoch=0, **more)
    except TypeError as error:
        raise wrong from error
    return more


@contextlib.contextmanager
def _unchanged(request: Request) -> Iterator[None]:
    """Remove NNI's wrappers from the model and its patches from the optimizer, and restore the modes."""
    from nni.compression.pytorch.compressor import PrunerModuleWrapper

    model, optimizer = request.model, request.arguments.get("optimizer")
    modes = [(module, module.training) for module in model.modules()]
    own = vars(optimizer).get("step") if optimizer is not None else None
    try:
        yield
    finally:
        for name, module in list(model.named_modules()):
            if isinstance(module, PrunerModuleWrapper):
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, module.module)
        if optimizer is not None:
            vars(optimizer).pop("step", None)
            if own is not None:
                optimizer.step = own
        for module, training in modes:
            module.training = training


def check_epochs(request: Request, *names: str) -> tuple[int, ...]:
    """Return the arguments called `names`; raises CompressionError where one is no number of epochs or iterations."""
    for name in names:
        number = request.arguments[name]
        if type(number) is not int or number < 1:
            raise CompressionError(
                f"{name} is a whole number from 1 on, not {number!r}", where="create_compressor", fix=f"{name}=10"
            )
    return tuple(request.arguments[name] for name in names)
