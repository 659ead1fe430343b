"""A trainer of ultralytics that trains a compressed network: a class derived from the task's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raycompress.compressors.masking.masks import drop_hooks, mask_as
from raycompress.compressors.saving.evaluations import unmark
from raycompress.errors import CompressionError
from raycompress.integrations import checkpoints
from raycompress.integrations.ultralytics.inputs import metrics_of
from raycompress.script.report import report

if TYPE_CHECKING:
    from raycompress.integrations.ultralytics.compression import YoloCompression

CALL = "compress_yolo"


def trainer_of(base: Any, compression: YoloCompression) -> Any:
    """Return a class derived from a trainer's, for ``model.train(trainer=...)``."""

    class CompressionTrainer(base):  # type: ignore[misc]
        """Makes its network as `base` does, and has it compressed."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            refuse(self)
            events = Events(compression)
            for name in ("on_train_start", "on_train_epoch_start", "on_train_epoch_end", "on_fit_epoch_end"):
                self.add_callback(name, getattr(events, name))

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            return compression.network(self, super().get_model, cfg=cfg, weights=weights, verbose=verbose)

        def save_model(self) -> Any:
            as_plain(self.ema.ema)
            saved = super().save_model()
            checkpoints.write(self.wdir, compression.compressor)
            return saved

        def final_eval(self) -> None:
            compression.note_end()
            super().final_eval()

    return CompressionTrainer


class Events:
    """What a compression does at the events of a trainer.

    Parameters
    ----------
    compression
        Its compressor is there once the training begins.
    """

    def __init__(self, compression: YoloCompression) -> None:
        self._compression = compression
        self._was_decided = False

    def on_train_start(self, trainer: Any) -> None:
        """Have what is pruned set to zero after each step, before the average of the weights is taken."""
        compressor = self._compression.compressor
        self._was_decided = compressor.is_decided
        trainer.optimizer.register_step_post_hook(lambda *_: compressor.step())

    def on_train_epoch_start(self, trainer: Any) -> None:
        """Remove what a compressor with a schedule removes at this epoch."""
        self._compression.compressor.update_epoch(trainer.epoch)

    def on_train_epoch_end(self, trainer: Any) -> None:
        """Mask the average, and forget the best network where it was better because nothing was removed of it yet."""
        if trainer.ema is not None:
            mask_as(trainer.ema.ema, self._compression.compressor.model)
        if not self._was_decided and self._compression.compressor.is_decided:
            self._was_decided = True
            trainer.best_fitness = None
            trainer.best.unlink(missing_ok=True)
            if hasattr(trainer.stopper, "best_fitness"):
                trainer.stopper.best_fitness, trainer.stopper.best_epoch = 0.0, trainer.epoch

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """Report the metrics of an epoch; those of the best one `YoloCompression.finish` reports."""
        found = metrics_of(trainer.metrics)
        if found and self._compression.reports_epochs:
            report(**found)


def as_plain(copied: Any) -> None:
    """Take from the average of the weights what is ours, so that its pickle opens without raycompress."""
    drop_hooks(copied)
    unmark(copied)


def refuse(trainer: Any) -> None:
    """Raise CompressionError for a training whose network is not the one that is compressed."""
    args = trainer.args
    refused = (
        (
            trainer.world_size > 1,
            "trains by several processes, which make the network anew",
            "device=0, or device='cpu'",
        ),
        (
            bool(getattr(args, "distill_model", None)),
            "distills, which puts the network into another",
            "distill_model=None",
        ),
        (
            getattr(args, "quantize", None) == 8,
            "trains for int8, which puts other layers into the network",
            "quantize=None",
        ),
        (bool(args.compile), "compiles the network", "compile=False"),
    )
    for is_so, what, fix in refused:
        if is_so:
            raise CompressionError(f"the trainer {what}", where=f"{CALL}: model.train", fix=f"pass {fix}")
