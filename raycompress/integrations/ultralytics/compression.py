"""`compress_yolo`: compresses the network of a YOLO when it is trained."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from raycompress import catalog
from raycompress.catalog import CompressorEntry
from raycompress.compressors.create import create_compressor
from raycompress.compressors.structure.plan import apply_plan, plan_of
from raycompress.errors import CompressionError, UsageError
from raycompress.integrations import checkpoints
from raycompress.integrations.compressing import (
    cuts_channels,
    refuse_rounds,
    refuse_stages,
    same_random_numbers,
    slices_now,
)
from raycompress.integrations.ultralytics.inputs import Evaluator, Images, as_exported, image_for, metrics_of
from raycompress.integrations.ultralytics.trainer import CALL, trainer_of
from raycompress.script import context
from raycompress.script.config import unrecorded
from raycompress.script.report import report, save_model

_MARK = "_raycompress"
_TRAINING = f"{CALL}: model.train"


def compress_yolo(
    model: Any, config: Mapping[str, Any], *, dummy_input: Any = None, report: bool = True, **arguments: Any
) -> YoloCompression:
    """Have ``model.train()`` compress the network that it trains.

    The trainer makes its network as it always does, for the classes of the data and with the weights of the model.
    Where what goes is known before the training, that network is sliced then, and the small one is trained, averaged
    and saved. Otherwise what is pruned is held at zero after each step, and cut out at the end. Each epoch's metrics
    are reported; at last those of best.pt, and in a trial its network is saved.

    Parameters
    ----------
    model
        An ``ultralytics.YOLO``, or another model class of ultralytics.
    config
        As of `raycompress.create_compressor`; the compressor prunes.
    dummy_input
        Images [N, channels, height, width]; by default one of the size that is trained on.
    report
        False where the script reports by itself.
    **arguments
        Further arguments of `raycompress.create_compressor`. ``evaluator`` is the trainer's validation by default; a
        compressor that cannot do without ``calibration`` gets the images of the training.

    Raises
    ------
    MissingDependencyError
        ultralytics is not installed.
    UsageError
        It is no model of ultralytics, it is compressed already, or the configuration has several stages.
    ExperimentError
        The compressor is unknown, or does not prune.
    """
    refuse_stages(config, CALL, "train with a loop of your own")
    _check(model, config)
    compression = YoloCompression(model, config, {**arguments, "dummy_input": dummy_input}, report)
    vars(model)[_MARK] = compression
    vars(model)["train"] = compression.train  # of this model alone
    return compression


class YoloCompression:
    """A YOLO whose network is compressed when it is trained; `compress_yolo` makes it.

    Attributes
    ----------
    model
        The YOLO.
    compressor
        What `raycompress.create_compressor` returned for the trainer's network; None before ``model.train()``.
    """

    def __init__(self, model: Any, config: Mapping[str, Any], arguments: Mapping[str, Any], report: bool) -> None:
        self.model, self.compressor = model, None  # type: Any, Any
        self._config, self._arguments, self._reports = config, arguments, report
        self._entry = _entry(config)
        refuse_rounds(self._entry, CALL, "take one that prunes once, such as group_l1")
        self._train = model.train
        self._evaluator: Evaluator | None = None
        self._is_at_end = False

    @property
    def reports_epochs(self) -> bool:
        """Whether the metrics that the trainer has are those of an epoch, to be reported."""
        return self._reports and not self._is_at_end

    def note_end(self) -> None:
        """Note that the training is over, and best.pt is evaluated."""
        self._is_at_end = True

    def train(self, trainer: Any = None, **arguments: Any) -> Any:
        """Train as ``model.train`` did before it was this, and `finish`; a second time the small network goes on."""
        trial = context.current()
        if isinstance(arguments.get("data"), list | tuple):
            raise UsageError(
                "data= is a list of data sets, of which each is a training of its own",
                where=_TRAINING,
                fix="call it for one of them",
            )
        if trial is not None:
            if arguments.get("resume"):
                raise UsageError(
                    "resume= in a trial: each trial is a training of its own", where=_TRAINING, fix="leave resume= out"
                )
            if not {"project", "name", "save_dir"} & arguments.keys():  # trials side by side do not share a folder
                arguments |= {"project": str(Path.cwd() / "runs"), "name": f"train-{os.getpid()}"}
        base = trainer or self.model.task_map[self.model.task]["trainer"]
        self._is_at_end = False
        self._train(trainer=trainer_of(base, self), **arguments)
        self.finish()
        return self.model.metrics

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the network as it is now: for a callback ``on_train_start``, before it is fine-tuned.

        Raises
        ------
        UsageError
            There is no training.
        """
        if self._evaluator is None:
            raise UsageError(
                "there is no trainer yet whose validation could be called",
                where="YoloCompression.evaluate",
                fix='call it in a callback: model.add_callback("on_train_start", ...)',
            )
        return self._evaluator.metrics(self.compressor.model)

    def network(self, trainer: Any, build: Callable[..., Any], *, cfg: Any, weights: Any, verbose: bool) -> Any:
        """Return the network that a trainer trains: the compressed one.

        Parameters
        ----------
        build
            The trainer's own ``get_model(cfg=, weights=, verbose=)``.
        """
        if self.compressor is not None:  # a second training
            self._evaluator = Evaluator(trainer)
            return self.compressor.model
        if trainer.resume:
            return self._resumed(trainer, build(cfg=cfg, weights=None, verbose=verbose), weights)
        network = build(cfg=cfg, weights=weights, verbose=verbose)
        if weights is not None and (narrowed := _narrowed(weights)):
            network = _as_it_is(weights, network, trainer, narrowed)
        self._create(trainer, network)
        self._compress()
        return network

    def finish(self) -> None:
        """Put the weights of best.pt into the network, slice what is not sliced yet, report, and save in a trial."""
        network, saved, trainer = self.compressor.model, self.model.model, self.model.trainer
        network.criterion = None  # ultralytics makes it anew
        network.eval().load_state_dict(saved.state_dict())
        before = plan_of(network)
        if cuts_channels(self._entry):
            self.compressor.apply_speedup()
        self.compressor.step()
        if plan_of(network) is not before:
            apply_plan(saved, plan_of(network))
            saved.load_state_dict(network.state_dict())
            self.model.save(trainer.best)
        found = metrics_of(trainer.metrics)
        if self._reports and found:
            report(**found)
        trial = context.current()
        if trial is not None:
            save_model(self.compressor.export_model, "model.pth")
            if trial.saves:
                trial.candidate.mkdir(parents=True, exist_ok=True)
                shutil.copy2(trainer.best, trial.candidate / trainer.best.name)

    def _create(self, trainer: Any, network: Any) -> None:
        """Make the compressor of a trainer's network, which is on its device and has the names of its classes."""
        trainer.model = network.to(trainer.device)
        trainer.set_model_attributes()
        self._evaluator = Evaluator(trainer)
        given: dict[str, Any] = {"evaluator": self._evaluator}
        wanted = None if self._entry is None else self._entry.argument("calibration")
        if wanted is not None and wanted.required:
            given["calibration"] = Images(trainer)
        given |= self._arguments
        if given["dummy_input"] is None:
            given["dummy_input"] = image_for(trainer, network)
        with same_random_numbers(), as_exported(network):
            self.compressor = create_compressor(network, _without_fixed(self._config, network), **given)

    def _compress(self, slices: bool = True) -> None:
        with same_random_numbers(), as_exported(self.compressor.model):
            self.compressor.compress()
            if slices and slices_now(self.compressor, self._entry, self._config):
                self.compressor.apply_speedup()

    def _resumed(self, trainer: Any, dense: Any, weights: Any) -> Any:
        """Return the network of a checkpoint that a training goes on from, with the same channels gone.

        Parameters
        ----------
        dense
            A network of full width, whose weights do not matter.
        weights
            The network of the checkpoint.
        """
        folder = Path(trainer.args.resume).parent
        kept = (checkpoints.read(folder) or {}).get("kept", {})
        self._create(trainer, dense)
        if not kept:
            dense.load_state_dict(weights.state_dict())
        self._compress(slices=False)
        if kept:
            with as_exported(dense):
                self.compressor.restore(checkpoints.decision_of(kept, dense))
                self.compressor.apply_speedup()
            dense.load_state_dict(weights.state_dict())
        elif slices_now(self.compressor, self._entry, self._config):
            raise CompressionError(
                "the checkpoint holds a network of full width, whose optimizer does not fit a small one",
                where=str(trainer.args.resume),
                fix="begin a training with its weights: leave resume= out",
            )
        else:
            checkpoints.restore(folder, self.compressor)
        return dense


def _check(model: Any, config: Mapping[str, Any]) -> None:
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "ultralytics" not in packages or not hasattr(type(model), "task_map"):
        raise UsageError(
            f"compress_yolo takes an ultralytics.YOLO first, not {type(model).__name__}",
            where=CALL,
            fix='pass YOLO("yolo11n.pt") or the like; for a loop of your own call raycompress.create_compressor',
        )
    if isinstance(model.model, str | Path):
        raise UsageError(
            f"{model.model} is no network of torch, and cannot be trained",
            where=CALL,
            fix="make the YOLO of its .pt or .yaml",
        )
    if _MARK in vars(model):
        raise UsageError("the network of this YOLO is compressed already", where=CALL, fix="call compress_yolo once")
    entry = _entry(config)
    if entry is not None and entry.kind != "pruning":
        raise CompressionError(
            f"{entry.name} puts layers of its own into the network, with which best.pt would not open elsewhere",
            where="compressor",
            fix="prune, and quantize what is exported: model.export(format=..., quantize=8)",
        )


def _entry(config: Mapping[str, Any]) -> CompressorEntry | None:
    return catalog.find(str(config.get("compressor")), "torch")


def _without_fixed(config: Mapping[str, Any], network: nn.Module) -> Mapping[str, Any]:
    """Leave out of a configuration the layers that a network holds fixed: they only add up what a head predicts."""
    fixed = [
        name
        for name, module in network.named_modules()
        if isinstance(weight := module._parameters.get("weight"), nn.Parameter) and not weight.requires_grad
    ]
    entries = list(config.get("config_list", ()))
    if not fixed or not entries:
        return config
    return {**unrecorded(config), "config_list": [*entries, {"exclude": True, "op_names": fixed}]}


def _narrowed(network: Any) -> list[str]:
    """Return the parameters and buffers of a network that have other shapes than its own YAML gives them."""
    whole = type(network)(copy.deepcopy(network.yaml), verbose=False).state_dict()
    own = network.state_dict()
    return [name for name, one in own.items() if name in whole and whole[name].shape != one.shape]


def _as_it_is(weights: Any, whole: Any, trainer: Any, narrowed: list[str]) -> Any:
    """Return a copy of a small network, to be trained further and pruned further.

    Parameters
    ----------
    whole
        The same at full width, of which the same parameters are trained.
    narrowed
        What is smaller. Of a head alone that may be ultralytics' own doing, which takes a branch of it from another
        network; it makes a head for other classes by itself.

    Raises
    ------
    CompressionError
        It is for other classes than the data has.
    """
    own, wanted = len(weights.names), trainer.data["nc"]
    if own != wanted:
        head = f"model.{len(weights.model) - 1}."
        if all(name.startswith(head) for name in narrowed):
            return whole
        raise CompressionError(
            f"the network was sliced for {own} classes, and the data has {wanted}: its head would be made anew, with "
            "all else at full width",
            where=_TRAINING,
            fix="take the weights from before it was sliced",
        )
    copied, trained = copy.deepcopy(weights).float(), dict(whole.named_parameters())
    for name, parameter in copied.named_parameters():
        parameter.requires_grad_(trained[name].requires_grad)
    return copied
