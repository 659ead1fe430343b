"""What a checkpoint of Lightning says of a compressed model, and whether its weights fit the model here."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from raycompress.errors import CompressionError
from raycompress.integrations.lightning.callback import STATE, best_checkpoint


def record_in(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what was removed of a checkpoint's network; None of one in which nothing was."""
    found: dict[str, Any] | None = checkpoint.get("callbacks", {}).get(STATE)
    return found


def load_checkpoint(trainer: Any, path: str, weights_only: bool | None = None) -> dict[str, Any]:
    """Return the content of a checkpoint, as the Trainer reads it.

    Parameters
    ----------
    weights_only
        Of ``torch.load``; None for Lightning's own choice.
    """
    load = trainer.strategy.load_checkpoint
    more = {"weights_only": weights_only} if "weights_only" in inspect.signature(load).parameters else {}
    checkpoint: dict[str, Any] = load(path, **more)
    return checkpoint


def resumed_checkpoint(trainer: Any, asked: Any) -> str:
    """Return the path that ``ckpt_path=`` of ``trainer.fit`` stands for; an empty text where the fit begins anew."""
    if asked == "best":
        return best_checkpoint(trainer)
    if asked not in ("last", "hpc") and not str(asked).startswith("registry"):
        return "" if asked is None else str(asked)
    # what these words mean is nowhere public; without it `check_shapes` still keeps weights out that do not fit
    read = getattr(getattr(trainer, "_checkpoint_connector", None), "_parse_ckpt_path", None)
    if read is None:
        return ""
    with warnings.catch_warnings():  # Lightning has said it already
        warnings.simplefilter("ignore")
        found = read(trainer.state.fn, asked, model_provided=True, model_connected=False)
    return "" if found is None else str(found)


def check_shapes(module: nn.Module, state: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Raise CompressionError where weights of a checkpoint do not have the shapes of the module's."""
    for name, own in itertools.chain(module.named_parameters(), module.named_buffers()):
        shape = getattr(state.get(prefix + name), "shape", None)
        if shape is not None and shape != own.shape:
            raise CompressionError(
                f'the weights do not fit: "{name}" is {tuple(shape)} in the checkpoint and {tuple(own.shape)} in the '
                "model, which was compressed",
                where=where,
                fix="load the weights of a dense model before fit(); a checkpoint of masked weights does not fit the "
                "model that was sliced since, which has its best weights already",
            )


def check_layers(network: nn.Module, record: Mapping[str, Any] | None, where: str) -> None:
    """Raise CompressionError where a checkpoint has removed parts of layers that a dense network has not."""
    layers = {name for name, _ in network.named_modules()}
    there = [] if record is None else [*record["kept"], *record["channels"], *record["weights"]]
    if unknown := [name for name in there if name not in layers]:
        raise CompressionError(
            f'the checkpoint is of another network: there is no "{unknown[0]}" in the {type(network).__name__} here',
            where=where,
            fix="resume with the module that the run began with, or train from the start",
        )


def before_loading(module: nn.Module, state: Mapping[str, Any], prefix: str, *_more: Any) -> None:
    """Check the shapes; a hook of ``load_state_dict``, which says nothing of the checkpoint that the weights are of."""
    check_shapes(module, state, f"{type(module).__name__}.load_state_dict", prefix)
