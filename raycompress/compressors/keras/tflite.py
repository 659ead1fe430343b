"""A Keras model as int8 for TensorFlow Lite, and how far it agrees with the model it was made of."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raycompress.compressors.keras.inputs import KerasExample
from raycompress.compressors.keras.layers import Array
from raycompress.compressors.keras.measure import compiled, operations
from raycompress.errors import CompressionError


@dataclass(frozen=True)
class Converted:
    """A model for TensorFlow Lite.

    Attributes
    ----------
    data
        The file's content.
    note
        Sizes and agreement, in a line for a person.
    """

    data: bytes
    note: str

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_bytes(self.data)


def convert(model: Any, inputs: Sequence[KerasExample], size: int, *, has_ranges: bool = False) -> Converted:
    """Return `model` as int8 with float inputs and outputs.

    Parameters
    ----------
    inputs
        Representative inputs, each a batch of one.
    size
        Bytes of the Keras model's weights, to compare with.
    has_ranges
        Whether the model brings the ranges of its activations along, from quantization-aware training.

    Raises
    ------
    CompressionError
        There are no inputs, TensorFlow Lite has no int8 form of a layer, or what comes out computes no numbers.
    """
    if not inputs:
        raise CompressionError(
            "no inputs are known to choose the int8 ranges by",
            where="export_model, tflite",
            fix="pass calibration_data= to create_compressor: a hundred inputs, such as images[:100]",
        )
    data = _converted(model, inputs, has_ranges)
    run = runner(data)
    answers = [(example.outputs(model), run(example)) for example in inputs]
    return Converted(data, _note(answers, len(data), size))


def runner(data: bytes) -> Callable[[KerasExample], list[Array]]:
    """Return the TensorFlow Lite model as a function of one input."""
    import tensorflow as tf

    with warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")  # of a successor package, which needs nothing else than this one has
        interpreter = tf.lite.Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
    details = {detail["name"].partition(":")[0]: detail["index"] for detail in interpreter.get_input_details()}

    def run(example: KerasExample) -> list[Array]:
        for number, array in enumerate(example.arrays):
            interpreter.set_tensor(details[f"input_{number}"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

    return run


def _converted(model: Any, inputs: Sequence[KerasExample], has_ranges: bool) -> bytes:
    import tensorflow as tf

    function = compiled(model, inputs[0])
    if any(operation.type in ("While", "StatelessWhile") for operation, _ in operations(function.graph)):
        raise CompressionError(  # TensorFlow Lite would abort the process
            "TensorFlow Lite cannot choose int8 ranges inside a loop, such as that of a recurrent layer",
            where="export_model, tflite",
            fix='leave "tflite" out of "export", or unroll the layer: LSTM(..., unroll=True)',
        )
    with warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")
        # a function alone has its variables frozen into it
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if not has_ranges:
            converter.representative_dataset = lambda: (example.arrays for example in inputs)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        try:
            converted: bytes = converter.convert()
        except Exception as error:
            reason = (str(error).strip().splitlines() or [repr(error)])[0]
            raise CompressionError(
                f"TensorFlow Lite cannot make an int8 model of {type(model).__name__}: {reason}",
                where="export_model, tflite",
                fix='leave "tflite" out of "export"',
            ) from error
    return converted


def _note(answers: Sequence[tuple[list[Array], list[Array]]], size: int, before: int) -> str:
    """Return a note on both sizes, and on the difference of the outputs."""
    expected = [np.concatenate([array.ravel() for array in keras]).astype(np.float64) for keras, _ in answers]
    found = [np.concatenate([array.ravel() for array in lite]).astype(np.float64) for _, lite in answers]
    difference = float(np.max(np.abs(np.array(found) - np.array(expected))) / max(np.max(np.abs(expected)), 1e-12))
    if not np.isfinite(difference):
        raise CompressionError(
            "the int8 model computes no numbers", where="export_model, tflite", fix='leave "tflite" out of "export"'
        )
    smaller = "" if size < before else " (no smaller)"
    note = f"model.tflite: {size:,} bytes as int8{smaller}, the Keras weights {before:,}; "
    first = answers[0][0][0]
    if len(answers[0][0]) == 1 and first.ndim == 2 and first.shape[1] > 1:
        same = np.mean([keras[0].argmax() == lite[0].argmax() for keras, lite in answers])
        return f"{note}the same class on {same:.1%} of {len(answers)} inputs, outputs within {difference:.1%}"
    return f"{note}outputs within {difference:.1%} of the largest, on {len(answers)} inputs"


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
