"""`compress_trainer`: has a Lightning Trainer compress the module that it fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.compressors.structure.optimizers import StepWatch
from raycompress.errors import CompressionError, UsageError
from raycompress.integrations import checkpoints
from raycompress.integrations.compressing import refuse_stages
from raycompress.integrations.lightning.callback import best_checkpoint, callback_of, end_averages
from raycompress.integrations.lightning.checkpoints import (
    before_loading,
    check_layers,
    check_shapes,
    load_checkpoint,
    record_in,
    resumed_checkpoint,
)
from raycompress.integrations.lightning.evaluation import Evaluator
from raycompress.integrations.lightning.in_training import CALL, OF_ITS_OWN, ModelInTraining
from raycompress.integrations.lightning.inputs import FitData, first_input, network_of
from raycompress.integrations.lightning.library import library_of
from raycompress.script import context

_MARK = "_raycompress"
_SHARDED = frozenset({"FSDPStrategy", "XLAFSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"})


def compress_trainer(
    trainer: Any,
    config: Mapping[str, Any],
    *,
    network: str | None = None,
    dummy_input: Any = None,
    best: bool = True,
    report: bool = True,
    **arguments: Any,
) -> TrainerCompression:
    """Have ``trainer.fit()`` compress the module that it is given, and train the small one.

    Where what goes is known before the training the network is sliced before optimizers are made and the strategy wraps
    it. Otherwise what is pruned is held at zero after each step, and cut out when `fit` is over. Each validation is
    reported; when `fit` returns, the model that it ends with is validated and reported, and in a trial it is saved. By
    hand it is for `TrainerCompression.save`.

    Parameters
    ----------
    trainer
        A Trainer of ``lightning.pytorch`` or ``pytorch_lightning``.
    config
        As of `raycompress.create_compressor`.
    network
        The name of the module's part that is compressed, such as ``"net"``; by default its only submodule with
        parameters, or the module itself where there are several.
    dummy_input
        An input of that part; by default that of the module's ``example_input_array``, or of the first batch.
    best
        Whether the model ends with the best weights of a ``ModelCheckpoint(monitor=...)``, where there is one.
    report
        False where the script reports by itself.
    **arguments
        Further arguments of `raycompress.create_compressor`. In one process ``evaluator`` is the validation by default;
        a compressor that cannot do without ``calibration`` gets the batches of the training data.

    Raises
    ------
    MissingDependencyError
        Lightning is not installed.
    UsageError
        It is no Trainer, it compresses already, it has another number of processes than the trial, or the configuration
        has several stages.
    CompressionError
        Its strategy shards the model, or ends its processes with `fit`. `fit` raises it where the compressor cannot
        work on the module.
    """
    library = _check(trainer)
    refuse_stages(config, CALL, OF_ITS_OWN)
    return TrainerCompression(
        trainer,
        config,
        library,
        network=network,
        dummy_input=dummy_input,
        best=best,
        report=report,
        arguments=arguments,
    )


class TrainerCompression:
    """A Trainer that compresses the module that it fits; `compress_trainer` makes it.

    Attributes
    ----------
    trainer
        The Trainer.
    """

    def __init__(
        self,
        trainer: Any,
        config: Mapping[str, Any],
        library: ModuleType,
        *,
        network: str | None,
        dummy_input: Any,
        best: bool,
        report: bool,
        arguments: Mapping[str, Any],
    ) -> None:
        self.trainer, self._config, self._library = trainer, config, library
        self._network, self._dummy_input, self._arguments = network, dummy_input, arguments
        self._takes_best, self._reports = best, report
        self._in_training: ModelInTraining | None = None
        self._module: Any = None
        self._data, self._asked = FitData(), None
        self._watch = StepWatch()
        self._fit = trainer.fit
        # first, so that a callback that averages weights finds them masked
        trainer.callbacks.insert(0, callback_of(self, library))
        trainer.fit = self.fit
        setattr(trainer, _MARK, self)

    @property
    def compressor(self) -> Any:
        """What `raycompress.create_compressor` returned for the module's network; its ``model`` is the small one.

        Raises
        ------
        UsageError
            `fit` has not been called.
        """
        return self._known.compressor

    @property
    def _known(self) -> ModelInTraining:
        if self._in_training is None:
            raise UsageError(
                "nothing is compressed before trainer.fit()", where=CALL, fix="call trainer.fit(module, ...) first"
            )
        return self._in_training

    def fit(
        self,
        model: Any,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Fit as ``trainer.fit`` did before it was this, and `finish`."""
        self._data, self._asked = FitData.of(train_dataloaders, val_dataloaders, datamodule), ckpt_path
        self._fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, *args, **kwargs)
        self._watch.cancel()
        if not getattr(self.trainer, "interrupted", False):
            self.finish()

    def begin(self, module: Any) -> None:
        """Compress the module, slice it where that can be done now, and have what goes held at zero."""
        if self._in_training is not None and module is self._module:  # a second fit goes on with it
            self._watch = StepWatch(self.compressor.model, self.compressor.step)
            return
        network = network_of(module, self._network)
        self._share_weights(module)
        example = self._dummy_input
        if example is None:
            example = first_input(self.trainer, module, network, self._data)
        self._in_training = ModelInTraining(
            network,
            self._config,
            example,
            evaluator=self._evaluator(module, network),
            calibration=lambda: self._data.for_training(module),
            arguments=self._arguments,
        )
        self._module = module
        path = resumed_checkpoint(self.trainer, self._asked)
        checkpoint = load_checkpoint(self.trainer, path) if path else {}
        record = record_in(checkpoint)
        check_layers(network, record, path)
        self._in_training.compress(record)
        if "callbacks" in checkpoint:  # one that has weights alone does not say what was removed
            checkpoints.check(record, self.compressor.model, path)
        check_shapes(module, checkpoint.get("state_dict", {}), path)
        module.register_load_state_dict_pre_hook(before_loading)
        self._watch = StepWatch(self.compressor.model, self.compressor.step)

    @property
    def reports_now(self) -> bool:
        """Whether a validation of the Trainer is one of the compressed model, to be reported."""
        return self._reports and self._in_training is not None and self.trainer.lightning_module is self._module

    def note_evaluation(self) -> None:
        """Note the weights that the model is evaluated with."""
        self._known.note_evaluation()

    def note_report(self, has_metrics: bool) -> None:
        """Note that the model is reported, unless it has lost those weights: an average's, which is put in and out."""
        if not has_metrics or not self._known.is_evaluated:
            self._known.forget_evaluation()

    def record(self) -> dict[str, Any]:
        """Return what was removed, as a checkpoint keeps it; nothing where nothing was."""
        return {} if self._in_training is None else checkpoints.record_of(self.compressor) or {}

    def finish(self) -> None:
        """Load the best weights, slice what is not sliced yet, validate and report what was not, save in a trial."""
        end_averages(self.trainer)
        self._load_best()
        self._known.slice()
        if self._reports and not self._known.is_evaluated and self.trainer.enable_validation:
            self.trainer.validate(self._module, verbose=False, **self._data.for_validation)
        if context.current() is not None and self.trainer.is_global_zero:
            self._known.save_in_trial()

    def save(self, folder: str | Path) -> Path | None:
        """Save the network as a bundle: ``raycompress.load(folder, Net())`` needs neither Lightning nor a Trainer.

        The folder has its plain weights too, ``model.pth``. In a trial the bundle is saved by itself; there, and in
        processes other than the first, nothing is written and None returned.
        """
        if context.current() is not None or not self.trainer.is_global_zero:
            return None
        self.compressor.export_model("model.pth", folder_name=str(folder), bundle_path=str(folder))
        return Path(folder)

    def _evaluator(self, module: Any, network: nn.Module) -> Evaluator | None:
        """Return the validation as a function of the network; None where there is none."""
        if not self.trainer.enable_validation or self.trainer.world_size > 1:
            return None
        return Evaluator(self.trainer, module, network, self._data, self._library)

    def _load_best(self) -> None:
        path = best_checkpoint(self.trainer) if self._takes_best else ""
        if path:
            checkpoint = load_checkpoint(self.trainer, path, weights_only=False)  # this very run has written it
            self._module.on_load_checkpoint(checkpoint)
            self._module.load_state_dict(checkpoint["state_dict"], strict=getattr(self._module, "strict_loading", True))

    def _share_weights(self, module: Any) -> None:
        """Give all processes the first one's weights, as the strategy will: what goes is chosen by them."""
        if self.trainer.world_size == 1:
            return
        own: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        is_first = self.trainer.is_global_zero
        first = self.trainer.strategy.broadcast(
            {name: one.detach().cpu() for name, one in own.items()} if is_first else {}
        )
        with torch.no_grad():
            for name, one in own.items():
                one.copy_(first[name])


def _check(trainer: Any) -> ModuleType:
    """Return the library of a Trainer that can be had to compress."""
    library = library_of(trainer, CALL)
    if library is None:
        raise UsageError(
            f"compress_trainer takes a Trainer of Lightning first, not {type(trainer).__name__}",
            where=CALL,
            fix="for a loop of your own call raycompress.create_compressor(model, config)",
        )
    if hasattr(trainer, _MARK):
        raise UsageError("this Trainer compresses already", where=CALL, fix="call compress_trainer once")
    strategy, launcher = type(trainer.strategy), type(trainer.strategy.launcher).__name__
    if any(kind.__name__ in _SHARDED for kind in strategy.__mro__):
        raise CompressionError(
            f"the Trainer uses {strategy.__name__}, which keeps parts of the weights in each process",
            where=CALL,
            fix='train by one process, or by several with strategy="ddp"',
        )
    if launcher == "_MultiProcessingLauncher":  # what is compressed there never comes back
        raise CompressionError(
            "the Trainer starts processes of its own that end with fit()", where=CALL, fix='write strategy="ddp"'
        )
    trial = context.current()
    if trial is not None and trial.workers != trainer.world_size:
        raise UsageError(
            f"the Trainer has {trainer.world_size} processes, and the trial {trial.workers}",
            where=CALL,
            fix=f'write "resource": {{"workers": {trainer.world_size}}} into the experiment file, and in the script, '
            'which runs alone too, to learn its model, devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1))',
        )
    return library
