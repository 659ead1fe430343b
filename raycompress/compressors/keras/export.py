"""Saving a Keras model: into a trial's candidate folder, or to the paths given by a script that runs by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from raycompress.bundle import bundle
from raycompress.compressors.keras.inputs import KerasExample
from raycompress.compressors.keras.layers import Array, arrays_of
from raycompress.compressors.keras.measure import KerasSizes
from raycompress.compressors.keras.tflite import Converted, convert
from raycompress.compressors.saving.files import Paths, Writer, inside
from raycompress.compressors.saving.files import write as write_files
from raycompress.errors import CompressionError, UsageError
from raycompress.script.context import Trial

MODEL_SUFFIXES = (".keras", ".h5", ".weights.h5")
MASK_SUFFIXES = (".npz", ".h5")


@dataclass(frozen=True)
class Saved:
    """Everything that is saved of one compressed model.

    Attributes
    ----------
    model
        What gives the outputs that were measured; its variables are the bundle's.
    plain
        A model of plain layers for the script's own file; the same object where the method leaves the layers as they
        were.
    masks
        ``layer.variable`` -> uint8 array, 1 where a weight stays.
    example
        An input, batch of one; it and the outputs are the bundle's reference.
    calibration
        Inputs, each a batch of one, to choose the ranges of an int8 model by.
    before, after
        Sizes of the dense model and of this one.
    asked
        What the user wrote.
    plan
        How `raycompress.load` gets from a fresh model to this one; plain JSON.
    notes
        What a person should know of the saved model.
    tflite
        The int8 model, where the method itself makes one.
    """

    model: Any
    plain: Any
    masks: Mapping[str, Array]
    example: KerasExample
    calibration: Sequence[KerasExample]
    before: KerasSizes
    after: KerasSizes
    asked: Mapping[str, Any]
    plan: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tflite: Converted | None = None


def export(saved: Saved, trial: Trial | None, paths: Paths) -> None:
    """Save `saved`; see `raycompress.compressors.base.BaseCompressor.export_model`."""
    files = {paths.in_folder(paths.model): _model_writer(saved.plain, paths.model)}
    if paths.mask is not None and saved.masks:
        files[paths.in_folder(paths.mask)] = _mask_writer(saved.masks, paths.mask)
    wanted = paths.tflite is not None or (trial is not None and "tflite" in trial.exports)
    converted = saved.tflite or (convert(saved.model, saved.calibration, saved.before.size_bytes) if wanted else None)
    if converted is not None and paths.tflite is not None:
        files[paths.in_folder(paths.tflite)] = converted.write
    if trial is not None:
        files = {inside(name, trial.candidate): write for name, write in files.items()}
    notes = [*saved.notes, *(() if converted is None else (converted.note,))]
    of_bundle = {} if converted is None else {bundle.TFLITE: converted.write}
    write_files(files, lambda: _content(saved, notes), of_bundle, trial, paths)


def _content(saved: Saved, notes: Sequence[str]) -> bundle.Content:
    weights = arrays_of(saved.model)
    inputs, arrays = saved.example.to_json()
    outputs = {
        f"output.{index}": np.ascontiguousarray(array) for index, array in enumerate(saved.example.outputs(saved.model))
    }
    facts = {
        "model": type(saved.plain).__name__,
        "compressor": dict(saved.asked),
        "before": saved.before.to_json(),
        "after": saved.after.to_json(),
        "removed": {},
        "notes": list(notes),
    }
    return bundle.Content(
        weights=cast("Any", weights),
        masks=cast("Any", dict(saved.masks)),
        plan={"variables": list(weights), **saved.plan},
        inputs=inputs,
        reference=cast("Any", {**arrays, **outputs}),
        facts=facts,
        kind="keras",
    )


def _need_suffix(name: str, suffixes: tuple[str, ...]) -> None:
    if not str(name).endswith(suffixes):
        raise UsageError(
            f'"{name}" has no suffix of a known format', where="export_model", fix=f"end it in {' or '.join(suffixes)}"
        )


def _model_writer(model: Any, name: str) -> Writer:
    _need_suffix(name, MODEL_SUFFIXES)

    def write(path: Path) -> None:
        if path.name.endswith(".weights.h5"):
            model.save_weights(str(path))
        elif path.suffix == ".h5":
            if not hasattr(model, "inputs") or not model.inputs:
                raise CompressionError(
                    f"an .h5 file cannot hold {type(model).__name__}, which is neither Sequential nor functional",
                    where="export_model",
                    fix=f'name it "{path.stem}.keras" or "{path.stem}.weights.h5"',
                )
            model.save(str(path), include_optimizer=False)
        else:
            with _without_optimizer(model):
                model.save(str(path))

    return write


@contextlib.contextmanager
def _without_optimizer(model: Any) -> Iterator[None]:
    """Keep the optimizer's state out of what is saved: it is twice as large as the weights."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        yield
        return
    model.optimizer = None
    try:
        yield
    finally:
        model.optimizer = optimizer


def _mask_writer(masks: Mapping[str, Array], name: str) -> Writer:
    _need_suffix(name, MASK_SUFFIXES)

    def write(path: Path) -> None:
        if path.suffix == ".npz":
            np.savez_compressed(path, **cast("Any", dict(masks)))
            return
        import h5py  # type: ignore[import-untyped]

        with h5py.File(path, "w") as file:
            for variable, mask in masks.items():
                file.create_dataset(variable, data=mask, compression="gzip")

    return write
