"""Inputs to calibrate a quantizer with: given by the script, or recorded in the model's own calls."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raycompress.bundle.example import Example, tensors_in
from raycompress.errors import CompressionError

SAMPLES = 256
"""Largest number of inputs that are kept."""
_BATCH = 32


def from_data(data: Any, model: nn.Module) -> list[Example]:
    """Return the inputs in `data`, batch by batch.

    Parameters
    ----------
    data
        A tensor with the batch first, a DataLoader or another iterable of batches, or a data set of single samples. A
        batch is a tensor, an (input, label) pair, or a mapping of arguments by name.

    Raises
    ------
    CompressionError
        It holds no inputs.
    """
    if isinstance(data, Tensor):
        batches: Iterable[Any] = torch.split(data[:SAMPLES], _BATCH)
    elif isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        batches = torch.utils.data.DataLoader(data, batch_size=_BATCH)
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        batches = data
    else:
        raise _refused(f"calibration_data is a {type(data).__name__}")
    parameters = inspect.signature(model.forward).parameters.values()
    names = None if any(one.kind is one.VAR_KEYWORD for one in parameters) else {one.name for one in parameters}
    collected: list[Example] = []
    left = SAMPLES
    for batch in batches:
        if left <= 0:
            break
        example = _first(_of_batch(batch, names), left)
        left -= batch_size(example)
        if batch_size(example):
            collected.append(example)
    if not collected:
        raise _refused("calibration_data is empty")
    return collected


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
                "their own: ((first, second), label)",
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
        example = _first(Example(args, kwargs), self._left).map(_copy)
        self.examples.append(example)
        self._left -= max(batch_size(example), 1)
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


def batch_size(example: Example) -> int:
    """Return the size of the first dimension of the example's first tensor; 0 where there is none."""
    found = tensors_in([example.args, example.kwargs])
    return found[0].size(0) if found and found[0].dim() else 0


def singles(examples: list[Example]) -> list[Example]:
    """Return each member of each batch by itself."""
    return [part(example, place, place + 1) for example in examples for place in range(batch_size(example))]


def part(example: Example, start: int, stop: int) -> Example:
    """Return a part of the batch."""
    batch = batch_size(example)
    return example.map(lambda tensor: tensor[start:stop] if tensor.dim() and tensor.size(0) == batch else tensor)


def _first(example: Example, count: int) -> Example:
    return example if batch_size(example) <= count else part(example, 0, count)


def _of_batch(batch: Any, names: set[str] | None) -> Example:
    if isinstance(batch, Mapping):
        wanted = (set(batch) if names is None else names) - {"label", "labels"}
        arguments = {key: value for key, value in batch.items() if key in wanted}
        if not arguments:
            keys = ", ".join(map(str, batch))
            raise _refused(
                f"a batch of calibration_data has {keys}, none of which is an argument of forward()",
                f"name them {', '.join(sorted(wanted))}",
            )
        return Example((), arguments)
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if isinstance(inputs, Mapping):
        return _of_batch(inputs, names)
    if not tensors_in(inputs):
        raise _refused(f"a batch of calibration_data is a {type(batch).__name__} without a tensor")
    return Example(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {})


def _copy(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return tensor.detach().cpu().clone()


def _refused(
    what: str, fix: str = "pass calibration_data= a tensor of inputs, a DataLoader, or batches in a list"
) -> CompressionError:
    return CompressionError(what, where="create_compressor", fix=fix)
