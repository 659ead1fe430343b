"""A model that a last stage quantizes once it is trained: in training it computes in float, evaluated as quantized."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from raycompress.bundle.example import Example
from raycompress.compressors.quantization.calibration import Capture
from raycompress.compressors.quantization.quantizer import Quantizer
from raycompress.compressors.saving import evaluations
from raycompress.compressors.saving.fingerprint import fingerprint
from raycompress.compressors.saving.witness import Fingerprint, same
from raycompress.compressors.structure.graph import clean_copy
from raycompress.compressors.wrappers import Uncompiled

Token = tuple[tuple[int, int, int], ...]
Make = Callable[[nn.Module, "list[Example] | None"], Quantizer]
"""Quantizes a copy of the model; inputs to calibrate with, where any were seen."""
_COMPRESSORS = str(Path(__file__).resolve().parent.parent)
_PASSED_ON = (__file__, evaluations.__file__)
"""Files of ours that a call of the script's goes through."""


class _Answered(NamedTuple):
    """The float model's weights, and the quantized model that an evaluation of them was answered by."""

    own: Fingerprint
    quantized: Fingerprint


class QuantizedEvaluation:
    """Forward hook of the whole model: answers evaluations by a quantized copy, made anew when the weights changed.

    An evaluation is a call in eval mode without gradients, by the script. The model itself stays as it is, so that it
    can be trained on. A deep copy or a pickle of the model carries a hook that does nothing.

    Parameters
    ----------
    make
        See `Make`.
    is_ready
        Tells whether the stages before are done; until then the model answers itself.
    """

    def __init__(self, make: Make | None = None, is_ready: Callable[[], bool] = lambda: True) -> None:
        self._make, self._is_ready = make, is_ready
        self._model: nn.Module | None = None
        self._handle: RemovableHandle | None = None
        self._capture = Capture()
        self._uncompiled = Uncompiled()
        self._made: Quantizer | None = None
        self._token: Token = ()
        self._own: Fingerprint = {}
        self._answered: list[_Answered] = []

    def __reduce__(self) -> tuple[type[QuantizedEvaluation], tuple[()]]:
        return QuantizedEvaluation, ()

    def watch(self, model: nn.Module) -> None:
        """Begin to answer for `model`, and to keep the inputs that it is called with."""
        self._model = model
        self._uncompiled.hold()
        self._capture.watch(model)
        self._handle = model.register_forward_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> Any:
        """Return the quantized model's answer to an evaluation; None leaves the model's own."""
        if module is not self._model or module.training or torch.is_grad_enabled():
            return None
        if not self._is_ready() or _is_ours(sys._getframe(1)):
            return None
        return self.answering().model(*args, **kwargs)

    def answering(self, *, is_sure: bool = True) -> Quantizer:
        """Return the quantizer of the weights as they are, and note that its model answers for them.

        They are quantized where they are others than before.

        Parameters
        ----------
        is_sure
            Whether torch's count of changes is believed; otherwise all weights are looked at.
        """
        assert self._model is not None and self._make is not None, "a model is watched"
        is_known = _token(self._model) == self._token and (is_sure or same(self._own, fingerprint(self._model)))
        if self._made is None or not is_known:
            self._capture.stop()
            with torch.inference_mode(False):
                self._made = self._make(clean_copy(self._model), self._capture.examples or None)
                self._own = fingerprint(self._model)
            self._token = _token(self._model)
            self._answered.append(_Answered(self._own, self._made.fingerprint()))
        return self._made

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of what the model answers evaluations as: of the float model, if there were none."""
        assert self._model is not None, "a model is watched"
        own = fingerprint(self._model)
        known = (one.quantized for one in reversed(self._answered) if same(one.own, own))
        return next(known, own)


def _token(model: nn.Module) -> Token:
    """Return what changes whenever a tensor does, as far as torch knows."""
    return tuple((id(one), one.data_ptr(), one._version) for one in (*model.parameters(), *model.buffers()))


def _is_ours(frame: FrameType | None) -> bool:
    """Tell whether a call comes from a compressor, which proves and measures the float model."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_COMPRESSORS) and file not in _PASSED_ON:
            return True
        frame = frame.f_back
    return False
