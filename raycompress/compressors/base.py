"""The base of the compressors of torch and of Keras models: what a script calls, and the checks of a trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from raycompress.compressors.saving.witness import Fingerprint, SavedModelCheck
from raycompress.errors import CompressionError
from raycompress.script import context

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

    def export_model(
        self,
        model_path: str,
        mask_path: str | None = None,
        folder_name: str = ".",
        speedup: bool = False,
        dummy_input: Any = None,
        **_ignored: Any,
    ) -> None:
        """Save the model; this base saves nothing."""


class SavingCompressor(ABC):
    """Mixin of the compressors that save: the trial that they run in, and its checks when it ends."""

    def _join_trial(self) -> None:
        """Register the checks with the trial of this process; by hand there is none."""
        self._trial = context.current()
        self._notes: tuple[str, ...] = ()
        self._saved_model_check: SavedModelCheck | None = None
        if self._trial is not None:
            self._trial.on_finish.append(self._check_compressed)
            self._saved_model_check = SavedModelCheck(self._trial, self._fingerprint, self._save_by_itself)

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

    def _saved(self) -> None:
        """Note that the model, as it is now, has been saved."""
        if self._saved_model_check is not None:
            self._saved_model_check.export()
