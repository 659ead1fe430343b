"""`compress_trainer`: compresses the model of a `transformers.Trainer` that the user has built."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycompress import catalog
from raycompress.bundle.example import Example
from raycompress.catalog import CompressorEntry
from raycompress.compressors.create import create_compressor
from raycompress.compressors.saving.fingerprint import fingerprint
from raycompress.compressors.saving.witness import Fingerprint, same
from raycompress.compressors.structure.plan import plan_of
from raycompress.errors import CompressionError, UsageError
from raycompress.extras import load_extra
from raycompress.integrations import checkpoints
from raycompress.integrations.compressing import cuts_channels, refuse_rounds, refuse_stages, slices_now
from raycompress.integrations.transformers.callback import callback_of
from raycompress.integrations.transformers.inputs import Evaluator, first_input, plain_forward
from raycompress.integrations.transformers.save import Saved, save_pretrained
from raycompress.integrations.transformers.stock import EXTRA, fit_config
from raycompress.integrations.transformers.trial_checkpoint import TrialCheckpoint
from raycompress.script import context
from raycompress.script.report import save_model

_CALL = "compress_trainer"
_MARK = "_raycompress"
_IN_ROUNDS = "call create_compressor(trainer.model, config), and trainer.train() in each of its rounds"


def compress_trainer(
    trainer: Any, config: Mapping[str, Any], *, dummy_input: Any = None, report: bool = True, **arguments: Any
) -> TrainerCompression:
    """Compress the model of a Trainer, and have ``trainer.train()`` train the small model.

    Where what goes is known before the training the model is sliced here, and the Trainer makes its optimizer for the
    small one. Otherwise what is pruned is held at zero after each step, and cut out at the end. Each evaluation is
    reported; when `train` returns, the model that it ends with (with ``load_best_model_at_end`` the best one) is
    evaluated and reported, and in a trial it is saved. By hand it is for `TrainerCompression.save_pretrained`.

    Parameters
    ----------
    trainer
        A ``transformers.Trainer``, or one of a class derived from it, that was built with ``model=``.
    config
        As of `raycompress.create_compressor`.
    dummy_input
        An input of the model; by default the first sample of the Trainer's batches.
    report
        False where the script reports by itself.
    **arguments
        Further arguments of `raycompress.create_compressor`. ``evaluator`` is the Trainer's evaluation by default; a
        compressor that cannot do without ``calibration`` gets the batches of the training data.

    Raises
    ------
    MissingDependencyError
        transformers is not installed.
    UsageError
        It is no Trainer, its model is made anew by ``train()``, or it is compressed already.
    CompressionError
        It trains by DeepSpeed or FSDP, or the compressor cannot work on its model.
    """
    _check(trainer)
    refuse_stages(config, _CALL, "call create_compressor(trainer.model, config) with a loop of your own")
    entry = catalog.find(str(config.get("compressor")), "torch")
    refuse_rounds(entry, _CALL, _IN_ROUNDS)
    example = first_input(trainer) if dummy_input is None else dummy_input
    evaluator = None if trainer.eval_dataset is None else Evaluator(trainer)
    given = {**_given(trainer, entry, evaluator), **arguments}
    compressor = create_compressor(trainer.model, config, dummy_input=example, **given)
    compression = TrainerCompression(trainer, compressor, entry, example, report)
    compression.begin(config, evaluator)
    return compression


class TrainerCompression:
    """A Trainer whose model is compressed; `compress_trainer` makes it.

    Attributes
    ----------
    trainer, compressor
        The Trainer, and what `raycompress.create_compressor` returned for its model.
    """

    def __init__(
        self, trainer: Any, compressor: Any, entry: CompressorEntry | None, example_inputs: Any, report: bool
    ) -> None:
        self.trainer, self.compressor = trainer, compressor
        self._example_inputs, self._reports = example_inputs, report
        self._entry, self._cuts = entry, cuts_channels(entry)
        self._of_trial = TrialCheckpoint(trainer)
        self._evaluated: Fingerprint | None = None
        self._evaluator: Evaluator | None = None
        self._model, self._train = trainer.model, trainer.train

    def begin(self, config: Mapping[str, Any], evaluator: Evaluator | None) -> None:
        """Compress the model, slice it where that can be done now, and join the Trainer."""
        self._evaluator = evaluator
        self.compressor.compress()
        waits = self._of_trial.was_masked  # the weights that are loaded are those of a model that was not sliced
        if slices_now(self.compressor, self._entry, config) and not waits:
            self.compressor.apply_speedup()
        handler, callback = self.trainer.callback_handler, callback_of(self)
        self.trainer.add_callback(callback)
        # first, so that a callback that averages weights finds them masked
        handler.callbacks = [callback, *(one for one in handler.callbacks if one is not callback)]
        self.trainer.train = self.train
        setattr(self.trainer, _MARK, self)

    @property
    def reports_now(self) -> bool:
        """Whether an evaluation of the Trainer is one of the compressed model, to be reported."""
        is_asked = self._evaluator is not None and self._evaluator.is_running  # by the compressor, to choose
        return self._reports and not is_asked and self.trainer.model is self._model

    def note_evaluation(self) -> None:
        """Note that the model is reported as it is now."""
        self._evaluated = fingerprint(self.compressor.model)

    @property
    def _is_reported(self) -> bool:
        return self._evaluated is not None and same(self._evaluated, fingerprint(self.compressor.model))

    def note_loaded(self) -> None:
        """Note that the Trainer has loaded the weights that it goes on with."""
        if self._of_trial.was_reported:
            self.note_evaluation()

    def keep(self, folder: Path, state: Any) -> None:
        """Keep what the Trainer has saved, with its state, for a trial that is lost."""
        checkpoints.write(folder, self.compressor)
        if self._of_trial.keeps:
            is_small = bool(plan_of(self.compressor.model).kept)
            self._of_trial.save(folder, state, is_small=is_small, was_reported=self._is_reported)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as ``trainer.train`` did before it was this, and `finish`; a lost trial goes on from its checkpoint."""
        if (of_trial := self._of_trial.load()) is not None:  # what it removes was restored when it was compressed
            resume_from_checkpoint = str(of_trial)
        elif (folder := _checkpoint(self.trainer, resume_from_checkpoint)) is not None:
            checkpoints.restore(folder, self.compressor)
        output = self._train(resume_from_checkpoint, *args, **kwargs)
        self._of_trial.close()
        self.finish()
        return output

    def finish(self) -> None:
        """Slice what is not sliced yet, evaluate and report what was not yet, and save in a trial."""
        plain_forward(self.trainer)
        if self._cuts:
            self.compressor.apply_speedup()
        self.compressor.step()
        if self._reports and not self._is_reported and self.trainer.eval_dataset is not None:
            self.trainer.evaluate()
            plain_forward(self.trainer)
        if context.current() is not None:
            if self.trainer.is_world_process_zero():
                save_model(self.compressor.export_model, "model.pth")
        elif plan_of(self.compressor.model).modules and hasattr(self.compressor.model, "config"):
            fit_config(self.compressor.model, Example.for_model(self._example_inputs, self.compressor.model))

    def save_pretrained(self, folder: str | Path) -> Saved | None:
        """Save the model for ``from_pretrained`` in a process without raycompress; see `save.save_pretrained`.

        What the Trainer prepares texts or images with (its ``processing_class``) is saved beside it. In a trial the
        folder is one of the trial's candidate, and None is returned where the trial keeps no model.
        """
        trial = context.current()
        if (trial is not None and not trial.saves) or not self.trainer.is_world_process_zero():
            return None
        place = Path(folder) if trial is None else trial.candidate / folder
        plain_forward(self.trainer)
        saved = save_pretrained(self.compressor.model, place, self._example_inputs)
        if self.trainer.processing_class is not None:
            self.trainer.processing_class.save_pretrained(place)
        return saved


def _check(trainer: Any) -> None:
    library = load_extra("transformers", EXTRA, _CALL)
    if not isinstance(trainer, library.Trainer):
        raise UsageError(
            f"compress_trainer takes a transformers.Trainer first, not {type(trainer).__name__}",
            where=_CALL,
            fix="for a loop of your own call raycompress.create_compressor(model, config)",
        )
    if trainer.model_init is not None:
        raise UsageError(
            "the Trainer was built with model_init=, by which train() makes a model anew, a dense one",
            where=_CALL,
            fix="build it with model=",
        )
    if hasattr(trainer, _MARK):
        raise UsageError(
            "the model of this Trainer is compressed already", where=_CALL, fix="call compress_trainer once"
        )
    for name, is_on in (("DeepSpeed", trainer.is_deepspeed_enabled), ("FSDP", trainer.is_fsdp_enabled)):
        if is_on:
            raise CompressionError(
                f"the Trainer uses {name}, which keeps the weights in tensors of its own",
                where=_CALL,
                fix="train by one process, or by several with DistributedDataParallel",
            )


def _given(trainer: Any, entry: CompressorEntry | None, evaluator: Evaluator | None) -> dict[str, Any]:
    """Return what the Trainer has for a compressor."""
    found: dict[str, Any] = {} if evaluator is None else {"evaluator": evaluator}
    wanted = None if entry is None else entry.argument("calibration")
    if wanted is not None and wanted.required and trainer.train_dataset is not None:
        found["calibration"] = trainer.get_train_dataloader()
    return found


def _checkpoint(trainer: Any, asked: str | bool | None) -> Path | None:
    """Return the folder that a training goes on from; None where it begins anew."""
    if not asked:
        return None
    if asked is True:
        utils = importlib.import_module("transformers.trainer_utils")
        asked = utils.get_last_checkpoint(trainer.args.output_dir)
    return None if asked is None else Path(str(asked))
