"""The interface of the compressor that a script gets from `create_compressor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from raycompress.bundle.example import Example, device_of
from raycompress.compressors.base import BaseCompressor, SavingCompressor
from raycompress.compressors.distillation.teacher import teacher_dtype, teacher_of, too_late
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.saving.evaluations import Evaluations
from raycompress.script import context


class Compressor(BaseCompressor[nn.Module, Example]):
    """The base of the compressors of torch models, which change their model in place."""

    _teacher: nn.Module | None = None

    @property
    def teacher(self) -> nn.Module:
        """The dense model for `raycompress.distill`: frozen, in eval mode, on the model's device.

        It is a copy of the model as it is when this is first read, or in ``create_compressor(..., teacher=True)``.

        Raises
        ------
        CompressionError
            It is first read after `compress`, when there are no dense weights to copy any more.
        """
        if self._teacher is None:
            if isinstance(self, SavingCompressor) and self._is_compressed:
                raise too_late(self.model)
            self._teacher = teacher_of(self.model)
        device = device_of(self.model)
        return self._teacher if device is None else self._teacher.to(device)

    def keep_teacher(self, asked: Any) -> None:
        """Copy the model for `teacher`, as ``teacher=`` of `create_compressor` asks for it: True, or a type."""
        self._teacher = teacher_of(self.model, teacher_dtype(asked))

    def count_flops_params(self, shape: Any) -> tuple[int, int, list[dict[str, Any]]]:
        """Return (multiply-adds, parameters, one row a layer), before or after the speed-up.

        Parameters
        ----------
        shape
            Shape of an input, batch first, or an input. FLOPs are torch's count divided by 2, for a batch of one.
        """
        return measure.layer_table(self.model, self._example_of(shape))

    def _evaluations(self) -> Evaluations | None:
        """Watch the calls of the model's class in a trial, whose process ends with it."""
        trial = context.current()
        is_stage = isinstance(self, SavingCompressor) and self._is_stage
        if trial is None or trial.config_path is None or is_stage:
            return None
        evaluations = Evaluations(self.model)
        evaluations.mark()
        return evaluations

    def _example_of(self, shape: Any) -> Example:
        if not isinstance(shape, Sequence) or not all(isinstance(size, int) for size in shape):
            return Example.for_model(shape, self.model)
        import torch

        known = self.example
        if known is not None and known.shapes == (tuple(shape),):
            return known
        parameter = next(self.model.parameters(), torch.empty(0))
        assert isinstance(parameter, Tensor)
        return Example((torch.randn(*shape, device=parameter.device, dtype=parameter.dtype),), {})


def count_flops_params(model: nn.Module, x: Any, *_ignored: Any, **_more: Any) -> tuple[int, int, list[dict[str, Any]]]:
    """Return (multiply-adds, parameters, one row a layer); see `Compressor.count_flops_params`.

    Parameters
    ----------
    model
        It is left as it is.
    x
        Shape of an input, batch first, or an input. Further arguments of NNI's function are ignored.
    """
    return Compressor(model).count_flops_params(x)
