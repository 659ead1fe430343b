"""What a compression does at the events of a `transformers.Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycompress.extras import load_extra
from raycompress.integrations.transformers.inputs import metrics_of
from raycompress.integrations.transformers.stock import EXTRA
from raycompress.script.report import report

if TYPE_CHECKING:
    from raycompress.integrations.transformers.compression import TrainerCompression


class Events:
    """The events, without the base class, which is the library's; see `callback_of`.

    Parameters
    ----------
    compression
        Whose trainer's events they are.
    """

    def __init__(self, compression: TrainerCompression) -> None:
        self._compression = compression
        self._was_decided = compression.compressor.is_decided

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_more: Any) -> None:
        """Note the weights that a checkpoint brought."""
        self._compression.note_loaded()

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_more: Any) -> None:
        """Remove what a compressor with a schedule removes at this epoch."""
        self._compression.compressor.update_epoch(round(state.epoch or 0))

    def on_optimizer_step(self, _args: Any, _state: Any, _control: Any, **_more: Any) -> None:
        """Set what is pruned to zero, before anybody averages, evaluates or saves the weights."""
        self._compression.compressor.step()

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_more: Any) -> None:
        """Forget the best model where it was better because nothing was removed of it yet."""
        if not self._was_decided and self._compression.compressor.is_decided:
            self._was_decided = True
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def on_evaluate(
        self, args: Any, state: Any, _control: Any, metrics: dict[str, Any] | None = None, **_more: Any
    ) -> None:
        """Report the metrics: an intermediate result, until the last one."""
        found = metrics_of(metrics or {}, args.metric_for_best_model)
        if found and self._compression.reports_now:
            self._compression.note_evaluation()
            if state.is_world_process_zero:
                report(**found)

    def on_save(self, args: Any, state: Any, _control: Any, **_more: Any) -> None:
        """Write into the checkpoint what was removed of its model, and keep it for a trial that is lost."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if state.is_world_process_zero and folder.is_dir():
            self._compression.keep(folder, state)


def callback_of(compression: TrainerCompression) -> Any:
    """Return the ``TrainerCallback`` of a compression."""
    base = load_extra("transformers", EXTRA, "compress_trainer").TrainerCallback
    return type("CompressionCallback", (Events, base), {})(compression)
