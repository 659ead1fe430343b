"""The base of the compressors of Keras models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raycompress.compressors.base import BaseCompressor, SavingCompressor
from raycompress.compressors.create import Setup
from raycompress.compressors.keras import measure as measure
from raycompress.compressors.keras.export import Saved, export
from raycompress.compressors.keras.inputs import (
    CALIBRATION,
    InputWatch,
    KerasExample,
    example_from,
    singles,
    spec_example,
)
from raycompress.compressors.keras.layers import fingerprint, library, need_weights, selectable
from raycompress.compressors.saving.files import Paths
from raycompress.compressors.saving.witness import Fingerprint
from raycompress.compressors.targets.selection import choose
from raycompress.errors import CompressionError, ExperimentError, SpeedupError
from raycompress.script import context
from raycompress.script.context import Trial


def example_of(dummy: Any) -> KerasExample | None:
    """Return the input that a script passed as ``dummy_input``, or None where it passed none."""
    if dummy is None:
        return None
    example = example_from(dummy, CALIBRATION)
    if example is None:
        raise CompressionError(
            f"dummy_input is a {type(dummy).__name__}, which is no input of a Keras model",
            where="create_compressor",
            fix="pass what the model is called with: an array, batch first, or a list or dict of them",
        )
    return example


def build(model: Any, example: KerasExample | None) -> None:
    """Give `model` its weights if it has none yet and an input is known; see `keras_layers.need_weights`."""
    library(model)
    if not model.built and example is not None:
        example.outputs(model)
    need_weights(model)


def check_asked(trial: Trial | None) -> None:
    """Raise ExperimentError where a trial asks for something that a Keras model does not have."""
    if trial is not None and "onnx" in trial.exports:
        raise ExperimentError(
            "ONNX is for torch models; a Keras model is exported as TFLite", where="export", fix='write ["tflite"]'
        )
    if trial is not None and trial.latency:
        raise ExperimentError(
            "the latency of a Keras model is no metric of a trial: no compressor of Keras models makes one faster",
            where="latency_ms",
            fix="leave it out, or let the script measure what it wants to and report that under another name",
        )


class KerasCompressor(BaseCompressor[Any, KerasExample]):
    """The base of the compressors of Keras models; `compress` may return another model."""

    def count_flops_params(self, shape: Any) -> tuple[int, int, list[dict[str, Any]]]:
        """Return (multiply-adds, parameters, one row a layer).

        Parameters
        ----------
        shape
            Shape of an input, batch first, or an input. See `keras_measure.flops` for what is counted.
        """
        if isinstance(shape, Sequence) and all(isinstance(size, int) for size in shape):
            example = KerasExample(np.zeros(tuple(shape), np.float32))
        else:
            example = example_of(shape) or self._need_example("count_flops_params")
        return measure.table(self.model, example)

    def _need_example(self, where: str) -> KerasExample:
        self.example = self.example or spec_example(self.model)
        if self.example is None:
            raise CompressionError(
                "no input of the model is known",
                where=where,
                fix="pass dummy_input= to create_compressor: what the model is called with, such as a batch of images",
            )
        return self.example


class ActiveCompressor(SavingCompressor, KerasCompressor):
    """A compressor that compresses and saves; a subclass per method.

    Parameters
    ----------
    setup
        What `create_compressor` was given. Without ``dummy_input``, the inputs are those that the script gives to
        its model, or made up from the shapes that the model was built for.
    """

    always_int8 = False
    """Whether the method itself makes an int8 model, and wants inputs to compare it on."""

    def __init__(self, setup: Setup) -> None:
        dummy = example_of(setup.dummy_input)
        build(setup.model, dummy)
        super().__init__(setup.model, dummy)
        self.entry, self.arguments, self._asked = setup.entry, setup.arguments, setup.asked
        self.targets = choose(selectable(setup.model), setup.config_list, setup.entry)
        self._calibration = example_of(setup.arguments.get("calibration_data"))
        self._compressed = False
        check_asked(context.current())
        self._join_trial()
        many = self.always_int8 or self._trial is None or "tflite" in self._trial.exports
        self._inputs = InputWatch(CALIBRATION if many else 1)

    @property
    def _is_compressed(self) -> bool:
        return self._compressed

    def compress(self, *_args: Any, **_kwargs: Any) -> Any:
        """Compress; see `KerasCompressor.compress`.

        Raises
        ------
        CompressionError
            The method cannot work on this model.
        """
        if not self._compressed:
            self.model = self.start()
            self._compressed = True
            self._inputs.watch(self.model)
        return self.model

    def apply_speedup(self, dummy_input: Any = None, mask_path: str | None = None) -> Any:
        """Raise SpeedupError: no compressor of Keras models removes channels."""
        raise SpeedupError(
            f"{self.entry.name} leaves every weight its place, which cannot shrink a Keras model",
            where="apply_speedup",
            fix='leave apply_speedup out; for a small file, ask for an int8 one: "export": ["tflite"]',
        )

    def step(self) -> None:
        """Apply the compression again; needed only where a script updates weights by itself."""

    def _save(self, paths: Paths, speedup: bool, dummy_input: Any, input_shape: Any) -> None:
        if speedup:
            self.apply_speedup(dummy_input)
        if dummy_input is not None:
            self.example = example_of(dummy_input)
        if self.example is None and self._inputs.examples:
            self.example = self._inputs.examples[0]
        self.settle()
        saved = self.saved(self._need_example("export_model").part(0, 1))
        export(replace(saved, notes=(*saved.notes, *self._notes)), self._trial, paths)

    def _save_by_itself(self, note: str) -> None:
        """Save the model of a script that never did; a subclassed model has no file of its own but for its weights."""
        self._notes = (note,)
        plain = bool(getattr(self.model, "inputs", None))
        self.export_model("model.keras" if plain else "model.weights.h5", "mask.npz")

    @abstractmethod
    def start(self) -> Any:
        """Compress, and return the model that the script is to train."""

    def settle(self) -> None:
        """Raise CompressionError where the training undid the compression."""

    @abstractmethod
    def saved(self, example: KerasExample) -> Saved:
        """Return what is saved of the model as it is now."""

    def content(self, model: Any, example: KerasExample, **more: Any) -> Saved:
        """Return what is saved of `model`, a plain one; sizes are those of the dense model, which it has."""
        sizes = measure.sizes(model, example)
        facts = {"model": model, "plain": model, "before": sizes, "after": sizes, "masks": {}, **more}
        return Saved(example=example, asked=self._asked, calibration=self.calibration(), **facts)

    def calibration(self) -> list[KerasExample]:
        """Return inputs, each a batch of one, to choose the ranges of an int8 model by."""
        given = self._calibration or (self.example if len(self.example or ()) > 1 else None)
        return singles([given] if given is not None else self._inputs.examples)

    def _fingerprint(self) -> Fingerprint:
        if self._compressed:
            self.settle()
        return fingerprint(self.model)
