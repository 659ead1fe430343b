"""The base of the compressors of torch and of Keras models: what a script calls, and the checks of a trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from raycompress.compressors.foresight import Ahead
from raycompress.compressors.saving.files import Paths
from raycompress.compressors.saving.witness import EvaluationsLike, Fingerprint, SavedModelCheck
from raycompress.errors import CompressionError
from raycompress.model.info import ModelInfo
from raycompress.script import context
from raycompress.script.checkpoint import usable
from raycompress.script.workers.agreement import follows

Model = TypeVar("Model")
Input = TypeVar("Input")


class BaseCompressor(Generic[Model, Input]):
    """Compresses one model; this base compresses nothing and saves nothing.

    Parameters
    ----------
    model
        The user's model.
    example
        An input of it, where one is known.
    """

    def __init__(self, model: Model, example: Input | None = None) -> None:
        self.model = model
        self.example = example

    @property
    def is_decided(self) -> bool:
        """Whether what is removed is known and final, so that `apply_speedup` can be called before the training."""
        return False

    def compress(self, *_args: Any, **_kwargs: Any) -> Model:
        """Compress the model and return it, to be trained further; arguments of the old tool are accepted.

        Of a torch model the same object is returned, its class and its parameter names unchanged. What is pruned stays
        zero while the script goes on training.
        """
        return self.model

    def step(self) -> None:
        """Do nothing: called after each batch, for compressors that act while the script trains."""

    def update_epoch(self, epoch: int) -> None:
        """Do nothing: called at each epoch, for compressors with a schedule."""

    def get_prune_iterations(self) -> range:
        """Return the rounds of prune and train: one, for a compressor that prunes once."""
        return range(1)

    def prune_iteration_start(self) -> None:
        """Do nothing: called at each round of `get_prune_iterations`, for compressors that prune in rounds."""

    def apply_speedup(self, dummy_input: Any = None, mask_path: str | None = None) -> Model:
        """Make the model physically smaller, in place, and return it; a Keras model cannot be.

        Parameters
        ----------
        dummy_input
            An input: a tensor with the batch first, a tuple of arguments, or a dict of keyword arguments; left out,
            the first input of the model is used.
        mask_path
            Accepted for old scripts; the masks are those of this compressor.

        Raises
        ------
        SpeedupError
            The small model does not compute what the masked one does, no parameter fell, or the compressor removes no
            channels.
        """
        return self.model

    def result(self) -> Model:
        """Return the model that is saved as it is now."""
        return self.model

    def export_model(
        self,
        model_path: str,
        mask_path: str | None = None,
        folder_name: str = ".",
        speedup: bool = False,
        dummy_input: Any = None,
        bundle_path: str | None = None,
        *,
        onnx_path: str | None = None,
        tflite_path: str | None = None,
        calibration_path: str | None = None,
        input_shape: Any = None,
        **_ignored: Any,
    ) -> None:
        """Save the model as it is now; the last of several calls wins, and the model can be trained on.

        In a trial everything lands in the trial's candidate folder, beside the files of the bundle; by hand the named
        files are written, and a bundle where `bundle_path` is given. Of several workers the first one saves. NNI's own
        order is understood too, where all are given by position: ``"m.pth", "mask.pth", "m.onnx", (1, 3, 32, 32),
        device``.

        Parameters
        ----------
        model_path
            The plain weights, under plain names: of a torch model a state_dict, written by ``torch.save``; of a Keras
            model ``.weights.h5``, or ``.keras`` and ``.h5`` for ``keras.models.load_model``.
        mask_path
            The masks, 1 where a weight stays: by ``torch.save``; of a Keras model ``.npz`` or ``.h5``.
        folder_name
            Folder that all are relative to.
        speedup, dummy_input
            Call `apply_speedup` first, with this input; the input that the model is run on, where none is known yet.
        bundle_path
            By hand only: folder for a bundle, to be read by `raycompress.load`.
        onnx_path, tflite_path
            A torch model as ONNX; a Keras model as int8 for TensorFlow Lite.
        calibration_path
            Of a quantizer: bits and ranges by layer, by ``torch.save``; `mask_path` by default, since it has no masks.
        input_shape
            Of a quantizer: shape of an input, batch first, where none is known.

        Raises
        ------
        CompressionError
            Nothing was compressed, no input is known, or a file was asked for that cannot hold the model.
        UsageError
            A suffix of no known format, or in a trial a path that leaves the candidate folder or takes the name of a
            file of the bundle.
        """
        if isinstance(speedup, (tuple, list)) or str(folder_name).endswith(".onnx"):  # by position, as NNI has them
            onnx_path, input_shape, folder_name, speedup, dummy_input = folder_name, speedup or None, ".", False, None
        paths = Paths(model_path, mask_path, folder_name, bundle_path, onnx_path, tflite_path, calibration_path)
        self._export(paths, speedup, dummy_input, input_shape)

    def _export(self, paths: Paths, speedup: bool, dummy_input: Any, input_shape: Any) -> None:
        """Save nothing."""

    def refuse_ahead(self, ahead: Ahead) -> None:
        """Raise what the script will be refused for what it calls, whatever its model is; called before `compress`."""

    def rehearse(self, example: Any, ahead: Ahead) -> None:
        """Compress, and raise what a trial would be refused; the model is left compressed.

        Parameters
        ----------
        example
            One input of the model.
        ahead
            What the script will call behind its training.
        """
        example.outputs(self.compress())


class Inspection(Generic[Input]):
    """Sends what is known of a model as soon as one input of it is known, and leaves the script there.

    A script that reports without calling the model is recorded without shapes.

    Parameters
    ----------
    trial
        The trial that inspects; its hooks are used.
    describe
        Returns what is known of the model, with an input of it or without.
    then
        Called with the input after that; see `raycompress.compressors.rehearsal.rehearse`.
    """

    def __init__(
        self, trial: context.Trial, describe: Callable[[Input | None], ModelInfo], then: Callable[[Input], None]
    ) -> None:
        self._trial = trial
        self._describe, self._then = describe, then
        self._is_sent = False
        trial.on_report.append(self._report)
        trial.on_finish.append(self._send)

    def leave(self, example: Input | None) -> NoReturn:
        """Send, and leave."""
        self._send(example)
        if example is not None:
            self._then(example)
        raise context.EndOfInspection

    def _report(self, _values: Mapping[str, float]) -> None:
        self.leave(None)

    def _send(self, example: Input | None = None) -> None:
        if not self._is_sent:
            self._is_sent = True
            self._trial.send({"type": "model", "model": self._describe(example).to_json()})


def verify(trial: context.Trial, compare: Callable[[Path], dict[str, Any]]) -> NoReturn:
    """Send what `compare` finds of the trial's bundle beside the script's model, and leave the script.

    Raises
    ------
    BundleError
        The bundle is broken, or does not fit the model.
    EndOfInspection
        Always, once the result is sent.
    """
    assert trial.bundle is not None, "mode verify comes with a bundle"
    trial.send({"type": "verified", **compare(trial.bundle)})
    raise context.EndOfInspection


class SavingCompressor(ABC):
    """Mixin of the compressors that save: the trial that they run in, and its checks when it ends."""

    _is_stage = False
    """Whether this is one of several stages, whose compressor as a whole checks and saves for all of them."""
    _before_loss: dict[str, Any] | None = None
    """Of a stage: what it had decided before the trial was lost, where it goes on from a checkpoint."""

    def _join_trial(self, evaluations: EvaluationsLike | None = None) -> None:
        """Register the checks with the trial of this process; by hand there is none.

        Parameters
        ----------
        evaluations
            What knows which models the script calls; None where nothing does.
        """
        self._trial = context.current()
        self._notes: tuple[str, ...] = ()
        self._saved_model_check: SavedModelCheck | None = None
        self._place = 0 if self._trial is None else len(self._trial.compressors)
        if self._trial is not None and not self._is_stage:
            self._trial.compressors.append(self._checkpoint_state)
            self._trial.on_finish.append(self._check_compressed)
            self._saved_model_check = SavedModelCheck(self._trial, self._fingerprint, self._save_by_itself, evaluations)

    def go_on_from(self, decided: dict[str, Any] | None) -> None:
        """Take what this stage had decided in a trial that goes on from a checkpoint; see `decided`."""
        self._before_loss = decided

    def decided(self) -> dict[str, Any]:
        """Return what this stage has decided, for a checkpoint of the trial."""
        return self._decided()

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of the model as it computes now."""
        return self._fingerprint()

    def check_compressed(self) -> None:
        """Raise CompressionError where the script has ended and this stage has not come to its end."""
        self._check_compressed()

    def save(self, paths: Paths, dummy_input: Any, input_shape: Any, *, notes: tuple[str, ...]) -> None:
        """Save the model, as the last of several stages; see `BaseCompressor.export_model`."""
        self._notes = notes
        self._save(paths, speedup=False, dummy_input=dummy_input, input_shape=input_shape)

    def _decided(self) -> dict[str, Any]:
        """Return what was decided, as a checkpoint of the trial holds it: plain data, arrays and tensors.

        Raises
        ------
        CompressionError
            It cannot be kept, or not yet.
        """
        raise CompressionError(f"{type(self).__name__} keeps more of the training than a checkpoint of the trial holds")

    def _checkpoint_state(self) -> dict[str, Any] | None:
        if not self._is_compressed:
            return None
        check = None if self._saved_model_check is None else self._saved_model_check.state
        return {"decided": self._decided(), "check": check}

    def _decided_before(self) -> dict[str, Any] | None:
        """Return what `_decided` gave where the trial goes on from a checkpoint; None where it has to be decided."""
        if self._is_stage:
            return self._before_loss
        found = None if self._trial is None else usable(self._trial)
        states = [] if found is None else found["compressors"]
        if self._place >= len(states) or states[self._place] is None:
            return None
        if self._saved_model_check is not None and states[self._place]["check"] is not None:
            self._saved_model_check.restore(states[self._place]["check"])
        decided: dict[str, Any] = states[self._place]["decided"]
        return decided

    @property
    @abstractmethod
    def _is_compressed(self) -> bool:
        """Whether ``compress()`` was called."""

    @abstractmethod
    def _fingerprint(self) -> Fingerprint:
        """Return the fingerprint of the model as it computes now."""

    @abstractmethod
    def _save_by_itself(self, note: str) -> None:
        """Save the model, with a note, for a script that never did."""

    @abstractmethod
    def _save(self, paths: Paths, speedup: bool, dummy_input: Any, input_shape: Any) -> None:
        """Save the model as it is now; see `BaseCompressor.export_model`."""

    def _export(self, paths: Paths, speedup: bool, dummy_input: Any, input_shape: Any) -> None:
        if follows(self._trial) if self._trial is None else not self._trial.save_model:
            return
        self._need_compressed("export_model")
        self._save(paths, speedup, dummy_input, input_shape)
        if self._saved_model_check is not None:
            self._saved_model_check.export()

    def _need_compressed(self, where: str) -> None:
        if not self._is_compressed:
            raise CompressionError(f"{where} before compress", where=where, fix="call compress() first")

    def _check_compressed(self) -> None:
        if not self._is_compressed:
            raise CompressionError(
                "the script made a compressor and never called its compress()",
                where="create_compressor",
                fix="call model = compressor.compress() before any fine-tuning",
            )
