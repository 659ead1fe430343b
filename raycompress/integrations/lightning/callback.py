"""What a compression does at the events of Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from raycompress.integrations.lightning.inputs import metrics_of
from raycompress.script.report import report

if TYPE_CHECKING:
    from raycompress.integrations.lightning.compression import TrainerCompression

STATE = "CompressionCallback"
"""The name of the callback's class, by which a checkpoint keeps its state."""


class Events:
    """The events, without the base class, which is the library's; see `callback_of`.

    Parameters
    ----------
    compression
        Whose trainer's events they are.
    """

    def __init__(self, compression: TrainerCompression) -> None:
        self._compression = compression
        self._was_decided = False
        self._before: Mapping[str, Any] = {}

    def setup(self, _trainer: Any, module: Any, stage: str) -> None:
        """Compress, in each process, before the strategy wraps the module and optimizers are made."""
        if stage == "fit":
            self._compression.begin(module)
            self._was_decided = self._compression.compressor.is_decided

    def on_train_epoch_start(self, trainer: Any, _module: Any) -> None:
        """Remove what a compressor with a schedule removes at this epoch."""
        self._compression.compressor.update_epoch(trainer.current_epoch)

    def on_train_batch_end(self, trainer: Any, _module: Any, *_more: Any) -> None:
        """Forget the best model where it was better because nothing was removed of it yet."""
        if not self._was_decided and self._compression.compressor.is_decided:
            self._was_decided = True
            for callback in trainer.callbacks:
                _forget_best(callback)

    def on_validation_start(self, trainer: Any, _module: Any) -> None:
        """Note what the training has logged."""
        self._before = dict(trainer.callback_metrics)

    def on_validation_epoch_end(self, trainer: Any, _module: Any) -> None:
        """Note which weights are evaluated: a callback that averages has put its own in for the time of it."""
        if not trainer.sanity_checking and self._compression.reports_now:
            self._compression.note_evaluation()

    def on_validation_end(self, trainer: Any, _module: Any) -> None:
        """Report the metrics: an intermediate result, until the last one."""
        if trainer.sanity_checking or not self._compression.reports_now:
            return
        found = metrics_of(trainer.callback_metrics, self._before, monitored(trainer))
        self._compression.note_report(bool(found))
        if found and trainer.is_global_zero:
            report(**found)

    def state_dict(self) -> dict[str, Any]:
        """Return what was removed, for the checkpoint."""
        return self._compression.record()


def callback_of(compression: TrainerCompression, library: ModuleType) -> Any:
    """Return the ``Callback`` of a compression."""
    return type(STATE, (Events, library.Callback), {"__qualname__": STATE})(compression)


def monitored(trainer: Any) -> str | None:
    """Return the metric that a Trainer's callbacks compare models by; None where they compare none."""
    callbacks = [*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks]
    return next((one.monitor for one in callbacks if getattr(one, "monitor", None)), None)


def best_checkpoint(trainer: Any) -> str:
    """Return the path of the best model by that metric; an empty text where none was kept."""
    paths = (one.best_model_path for one in trainer.checkpoint_callbacks if getattr(one, "monitor", None))
    return next((str(path) for path in paths if path), "")


def end_averages(trainer: Any) -> None:
    """Let go of averages of weights that callbacks keep: they are in the model, which is to be sliced and validated.

    A callback that averages would put its own in the place of the model's for each validation, after `fit` too.
    """
    for callback in trainer.callbacks:
        if getattr(callback, "_average_model", None) is not None:
            callback._average_model = None  # setup() of the next fit makes one


def _forget_best(callback: Any) -> None:
    worst = torch.tensor(float("inf") if getattr(callback, "mode", "min") == "min" else -float("inf"))
    if hasattr(callback, "best_k_models"):  # a ModelCheckpoint
        callback.best_k_models, callback.best_model_path, callback.kth_best_model_path = {}, "", ""
        callback.best_model_score, callback.kth_value = None, worst
    elif hasattr(callback, "wait_count"):  # an EarlyStopping
        callback.best_score, callback.wait_count = worst, 0
