"""The compressors that quantize a trained model with onnxruntime, with no training after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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
from raycompress.compressors.saving.fingerprint import fingerprint_of, fingerprint_of_bytes
from raycompress.compressors.saving.witness import Fingerprint
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError, ExperimentError


class OnnxQuantizer(Quantizer):
    """``ptq_static`` and ``ptq_dynamic``: the model computes with int8 from `compress` on."""

    _made: int8.Int8 | None = None
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
        options = self._options() if static else None
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
        if options is not None:
            self._made = int8.static(self._plain, example, samples, self._targets, options)
        else:
            per_channel, reduce_range = bool(self._arguments["per_channel"]), bool(self._arguments["reduce_range"])
            self._made = int8.dynamic(self._plain, example, self._targets, per_channel, reduce_range)
        forward = session.make(self._plain, example, self._made.data)
        as_int8 = session.install(clean_copy(self._plain), forward)
        self._agrees = agreement(self._plain, as_int8, samples or [example])
        self._compressed = True
        return session.install(self.model, forward)

    def _quantized(self, example: Example) -> Quantized:
        assert self._made is not None
        before = measure.size_bytes(self._plain)
        notes = [self._agrees]
        if not self._made.any_batch:
            notes.append(f"it accepts batches of {example.shapes[0][0]} only, as forward() does")
        return saved_int8(self.model, self._made.data, float_state(self._plain), before, notes)

    def _fingerprint(self) -> Fingerprint:
        if self._made is not None:
            return fingerprint_of_bytes(self._made.data)
        return fingerprint_of({name: t for name, t in self.model.state_dict().items() if isinstance(t, torch.Tensor)})

    def _options(self) -> int8.StaticOptions:
        method = self._arguments["calibration"]
        if method not in int8.METHODS:
            raise ExperimentError(
                f"calibration is one of {', '.join(int8.METHODS)}, not {method!r}",
                where="arguments.calibration",
                fix='"minmax" is the default',
            )
        return int8.StaticOptions(
            bool(self._arguments["per_channel"]), bool(self._arguments["reduce_range"]), str(method)
        )
