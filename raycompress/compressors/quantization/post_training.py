"""The compressors that quantize a trained model with onnxruntime, with no training after it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from raycompress.bundle import optional_inputs
from raycompress.bundle.calling import without_fast_path
from raycompress.bundle.example import Example
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.quantization import int8, session
from raycompress.compressors.quantization.quantizer import (
    Quantized,
    Quantizer,
    agreement,
    float_state,
    saved_int8,
)
from raycompress.compressors.quantization.targets import bits_by_layer
from raycompress.compressors.saving.fingerprint import fingerprint_of, fingerprint_of_bytes
from raycompress.compressors.saving.witness import Fingerprint
from raycompress.compressors.structure.graph import clean_copy
from raycompress.deployment.agent.runtimes.int8 import product_saturates
from raycompress.errors import CompressionError, ExperimentError


class OnnxQuantizer(Quantizer):
    """``ptq_static`` and ``ptq_dynamic``: the model computes with int8 from `compress` on."""

    _made: int8.Int8 | None = None
    _neutral: Mapping[str, int] = MappingProxyType({})
    _agrees = ""

    def compress(self, *_args: Any, **_kwargs: Any) -> nn.Module:
        """Quantize; the model is the int8 one from here on: evaluate it, and train it no more.

        Raises
        ------
        CompressionError
            No input is known to calibrate with, or the model cannot be written as ONNX.
        ExperimentError
            An argument is none that onnxruntime has.
        """
        if self._compressed:
            return self.model
        static = self._entry.name == "ptq_static"
        options = self._options()
        samples = self._samples()
        if static and not samples:
            raise CompressionError(
                "ptq_static has no data to calibrate with",
                where="compress",
                fix="pass calibration_data= to create_compressor, such as 256 training inputs or a DataLoader; or call "
                "the model on some batches between create_compressor and compress()",
            )
        example = self._need_example("compress")
        self._capture.stop()
        self._plain.load_state_dict(float_state(self.model))  # the script may have trained it meanwhile
        with without_fast_path():
            self._made, self.example = self._quantize(example, samples, options)
            forward = session.make(self._plain, self.example, self._made.data, self._neutral)
            as_int8 = session.install(clean_copy(self._plain), forward)
            self._agrees = agreement(self._plain, as_int8, samples or [example], self._made.known)
        self._compressed = True
        return session.install(self.model, forward)

    def _quantize(self, example: Example, samples: list[Example], options: int8.Options) -> tuple[int8.Int8, Example]:
        """Return the int8 model, and the example with the inputs of its file, optional ones too where it can."""
        signature = session.signature_of(self._plain)
        fuller, self._neutral = optional_inputs.find(self._plain, example, signature)
        if self._neutral:
            names = optional_inputs.names_of(fuller, signature)
            fitting = [optional_inputs.completed(sample, signature, names, self._neutral) for sample in samples]
            with contextlib.suppress(CompressionError):
                return self._made_of(fuller, fitting, options), fuller
            self._neutral = {}
        return self._made_of(example, samples, options), example

    def _made_of(self, example: Example, samples: list[Example], options: int8.Options) -> int8.Int8:
        if self._entry.name == "ptq_static":
            return int8.static(self._plain, example, samples, bits_by_layer(self._targets), options)
        return int8.dynamic(self._plain, example, bits_by_layer(self._targets), options)

    def _quantized(self, example: Example) -> Quantized:
        assert self._made is not None
        before = measure.size_bytes(self._plain)
        notes = [self._agrees, *self._made.notes, *self._about_inputs(example)]
        state = float_state(self._plain)
        return saved_int8(self.model, self._made.data, state, before, notes, self._neutral)

    def _about_inputs(self, example: Example) -> list[str]:
        """Return notes on the sizes and the inputs that the file takes."""
        assert self._made is not None
        notes = []
        if not self._made.any_batch:
            notes.append(f"it accepts batches of {example.shapes[0][0]} only, as forward() does")
        if self._made.free:
            free = ", ".join(f"dimension {dim} of {name}" for name, dim in self._made.free)
            notes.append(f"the ONNX file takes any size of {free}")
        if self._made.options.reduce_range is False and any(bits > 4 for bits in bits_by_layer(self._targets).values()):
            notes.append('weights in 8 bits: for x86 processors without VNNI make it with "reduce_range": true')
        return notes

    def _fingerprint(self) -> Fingerprint:
        if self._made is not None:
            return fingerprint_of_bytes(self._made.data)
        return fingerprint_of({name: t for name, t in self.model.state_dict().items() if isinstance(t, torch.Tensor)})

    def _options(self) -> int8.Options:
        method = self._arguments.get("calibration", "minmax")
        if method not in int8.METHODS:
            raise ExperimentError(
                f"calibration is one of {', '.join(int8.METHODS)}, not {method!r}",
                where="arguments.calibration",
                fix='"minmax" is the default',
            )
        asked = self._arguments["reduce_range"]
        if asked != "auto" and not isinstance(asked, bool):
            raise ExperimentError(
                f'reduce_range is true, false or "auto", not {asked!r}',
                where="arguments.reduce_range",
                fix='"auto" asks the processor that compresses',
            )
        return int8.Options(
            per_channel=bool(self._arguments["per_channel"]),
            reduce_range=product_saturates() if asked == "auto" else asked,
            calibration=str(method),
            spare=bool(self._arguments.get("spare_sensitive", False)),
        )
