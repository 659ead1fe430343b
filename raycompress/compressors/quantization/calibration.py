"""Inputs to calibrate a quantizer with: given by the script, or recorded in the model's own calls."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raycompress.bundle.example import Example
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.loaders import calls_in
from raycompress.errors import CompressionError

SAMPLES = 256
"""Largest number of inputs that are kept."""
_BATCH = 32


def from_data(data: Any, model: nn.Module) -> list[Example]:
    """Return the inputs in `data`, batch by batch.

    Parameters
    ----------
    data
        A tensor with the batch first, or a mapping of such by the arguments' names; a DataLoader or another iterable of
        batches; or a data set of single samples. For batches see `raycompress.compressors.loaders.calls_in`.

    Raises
    ------
    CompressionError
        It holds no inputs.
    """
    if isinstance(data, (Tensor, Mapping)) and tensors_in(data):
        batches: Iterable[Any] = _split(data)
    elif isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        batches = torch.utils.data.DataLoader(data, batch_size=_BATCH)
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        batches = data
    else:
        raise _refused(f"calibration_data is a {type(data).__name__}")
    collected: list[Example] = []
    left = SAMPLES
    for call in calls_in(batches, model):
        example = call
        if not collected:
            _check_inputs(call, model)
            example = call.with_lists(model)
        example = _first(replace(example, lists=bool(collected and collected[0].lists) or example.lists), left)
        if example.batch:
            collected.append(example)
        left -= example.batch
        if left <= 0:
            break
    if not collected:
        raise _refused("calibration_data is empty")
    return collected


def _split(data: Tensor | Mapping[str, Tensor]) -> Iterator[Any]:
    for piece in Example((data,), {}).part(0, SAMPLES).pieces(_BATCH):
        yield piece.args[0]


def _check_inputs(example: Example, model: nn.Module) -> None:
    """Raise CompressionError where a batch holds no tensor, or arguments that forward() does not have."""
    first = next(iter([*example.args, *example.kwargs.values()]), None)
    if not tensors_in([example.args, example.kwargs]):
        raise _refused(f"a batch of calibration_data is a {type(first).__name__} without a tensor")
    if isinstance(first, Mapping) and not example.runs(model):
        names = ", ".join(sorted(inspect.signature(model.forward).parameters))
        raise _refused(
            f"a batch of calibration_data has {', '.join(map(str, first))}, none of which is an argument of forward()",
            f"name them {names}",
        )


def check_fits(examples: list[Example], model: nn.Module) -> None:
    """Raise CompressionError where `model`, on the CPU, cannot be called with `examples`, or they hold NaN."""
    signature = inspect.signature(model.forward)
    for number, example in enumerate(examples):
        if any(bool(torch.isnan(tensor).any()) for tensor in tensors_in([example.args, example.kwargs])):
            raise _refused(f"batch {number} of calibration_data holds NaN", "calibrate with real inputs of the model")
        try:
            signature.bind(*example.args, **example.kwargs)
            if not number:
                example.to(torch.device("cpu")).outputs(model)
        except Exception as error:
            shapes = ", ".join(str(list(shape)) for shape in example.shapes)
            reason = str(error).strip().partition("\n")[0]
            raise _refused(
                f"{type(model).__name__} cannot be called with calibration_data of shape {shapes}: {reason}",
                "give inputs with the batch first, as the model is called with; several inputs of it in a tuple of "
                "their own: ((first, second), label), or by name",
            ) from error


class Capture:
    """Forward pre-hook of the whole model: keeps copies of the first inputs that it is called with.

    A deep copy or a pickle of the model carries a hook that does nothing.
    """

    def __init__(self) -> None:
        self.examples: list[Example] = []
        self._left = SAMPLES
        self._handle: RemovableHandle | None = None

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the input."""
        if self._handle is None:
            return
        call = Example(args, kwargs)
        example = (call if call.is_list else _first(call, self._left)).map(_copy)
        self.examples.append(example)
        self._left -= max(example.batch, 1)
        if self._left <= 0:
            self.stop()

    def __reduce__(self) -> tuple[type[Capture], tuple[()]]:
        return Capture, ()

    def watch(self, model: nn.Module) -> Capture:
        """Go on keeping inputs, until there are enough."""
        if self._left > 0 and self._handle is None:
            self._handle = model.register_forward_pre_hook(self, with_kwargs=True, prepend=True)
        return self

    def stop(self) -> None:
        """Keep no more inputs."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def pieces(examples: list[Example], size: int) -> list[Example]:
    """Return the samples in batches of exactly `size`; what is left over of a batch is left out."""
    whole = [example.pieces(size) for example in examples]
    return [piece for found in whole for piece in found if piece.batch == size]


def _first(example: Example, count: int) -> Example:
    return example if example.batch <= count else example.part(0, count)


def _copy(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return tensor.detach().cpu().clone()


def _refused(
    what: str, fix: str = "pass calibration_data= a tensor of inputs, a DataLoader, or batches in a list"
) -> CompressionError:
    return CompressionError(what, where="create_compressor", fix=fix)
