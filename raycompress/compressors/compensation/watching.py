"""Runs the dense and the small model side by side, and gathers what layers read in one and put out in the other."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.calling import without_fast_path
from raycompress.bundle.example import Example, evaluating
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.compensation.equations import NormalEquations
from raycompress.compressors.compensation.readers import Places, Reader, input_rows, is_plain, output_rows
from raycompress.compressors.layer_kinds import output_dim
from raycompress.compressors.structure.cut import Sliced

Tensors = Mapping[tuple[str, str], Sliced]
BATCH_NORM = nn.modules.batchnorm._BatchNorm


class _AllCalled(BaseException):
    """Ends a pass: every layer that it is run for was called. No model's ``except Exception`` stops it."""


@contextlib.contextmanager
def computing(model: nn.Module, handles: Sequence[Any]) -> Iterator[None]:
    """Let `model` compute in eval mode without gradients, with hooks that end with it; attention runs as written.

    A hook may end the pass by `_AllCalled`.
    """
    try:
        # the fast path calls no hooks
        with evaluating(model), torch.no_grad(), without_fast_path(), contextlib.suppress(_AllCalled):
            yield
    finally:
        for handle in handles:
            handle.remove()


def in_order(dense: nn.Module, readers: Sequence[Reader], batch: Example) -> list[Reader]:
    """Return the readers in the order in which a pass ends their calls, with the BatchNorms that follow them.

    A reader that is not called is left out, and one that computes in a way of its own.
    """
    by_name = {reader.name: reader for reader in readers}
    order: dict[str, int] = {}
    made: dict[int, tuple[str, weakref.ref[Tensor], int]] = {}  # all outputs together would be large
    norms: dict[str, str] = {}
    others: set[str] = set()

    def ended(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            order[name] = order.get(name, 0) + 1
            if by_name[name].is_own and not _is_plain(module, args, kwargs, output):
                others.add(name)
            if isinstance(output, Tensor):
                made[id(output)] = name, weakref.ref(output), output._version

        return hook

    def normed(norm: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            name, reference, version = made.get(id(inputs[0]), ("", None, 0)) if inputs else ("", None, 0)
            output = None if reference is None else reference()
            if output is not None and output is inputs[0] and output._version == version:
                norms[name] = norm

        return hook

    handles = [dense.get_submodule(name).register_forward_hook(ended(name), with_kwargs=True) for name in by_name]
    for name, module in dense.named_modules():
        if isinstance(module, BATCH_NORM) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(normed(name)))
    with computing(dense, handles):
        batch.call(dense)
    plain = {name for name in order if dense.get_submodule(by_name[name].owner)._parameters.get("bias") is None}
    return [
        replace(by_name[name], norm=norms.get(name, "") if name in plain else "", calls=calls)
        for name, calls in order.items()
        if name not in others
    ]


def _is_plain(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> bool:
    values = tensors_in([args, kwargs])
    return len(values) == 1 and isinstance(output, Tensor) and is_plain(module, values[0], output)


def gather(
    dense: nn.Module,
    small: nn.Module,
    tensors: Tensors,
    batch: Example,
    equations: Mapping[Reader, NormalEquations],
    most: int,
    seed: int,
) -> None:
    """Add at most so many rows of one batch to each reader's: inputs of the small model, outputs of the dense one.

    A pass ends with the last call of these readers: what comes after it is not computed.

    Parameters
    ----------
    small
        May be the dense model itself, which is then called once.
    tensors
        What is left of each tensor in `small`; a weight that is not in it is whole.
    """
    expected: dict[Reader, list[tuple[Places, Tensor]]] = {reader: [] for reader in equations}
    count = _until_called(equations)
    is_one_pass = small is dense

    def put_out(reader: Reader) -> Callable[..., None]:
        module = dense.get_submodule(reader.owner)
        sliced = tensors.get((reader.owner, "weight"))
        kept = None if sliced is None else sliced.kept[output_dim(module)]

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            calls = expected[reader]
            calls.append(output_rows(module, tensors_in(output)[0], kept, most, seed + len(calls)))
            if not is_one_pass:
                count(reader)

        return hook

    def read(reader: Reader) -> Callable[..., None]:
        module = small.get_submodule(reader.owner)
        offset = float(bool(reader.norm) or module._parameters.get("bias") is not None)

        def hook(watched: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
            if expected[reader]:
                places, outputs = expected[reader].pop(0)
                value = args[0] if args else next(iter(kwargs.values()))
                if watched is not module:
                    value = _attended(watched, args, kwargs)
                rows = input_rows(module, value, places, offset)
                if rows is not None:
                    equations[reader].add(rows, outputs.reshape(len(outputs), rows.size(1), -1))
            count(reader)

        return hook

    outputs = [dense.get_submodule(reader.name).register_forward_hook(put_out(reader)) for reader in equations]
    if not is_one_pass:
        with computing(dense, outputs):
            batch.call(dense)
        outputs, count = [], _until_called(equations)
    inputs = [
        small.get_submodule(reader.name).register_forward_hook(read(reader), with_kwargs=True) for reader in equations
    ]
    with computing(small, [*outputs, *inputs]):
        batch.call(small)


def _until_called(readers: Iterable[Reader]) -> Callable[[Reader], None]:
    """Return a function that is to be called after each call of a reader; it ends the pass when there is none left."""
    left = {reader: reader.calls for reader in readers}

    def called(reader: Reader) -> None:
        left[reader] -= 1
        if max(left.values()) <= 0:
            raise _AllCalled

    return called


def _attended(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return what torch's attention projects: its answer with a projection that changes nothing."""
    assert isinstance(attention, nn.MultiheadAttention)
    weight = attention.out_proj.weight
    through = nn.Linear(weight.size(1), weight.size(1), bias=False, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        through.weight.copy_(torch.eye(weight.size(1)))
    probe = object.__new__(type(attention))
    probe.__dict__ = {**attention.__dict__, "_modules": {**attention._modules, "out_proj": through}}
    return tensors_in(probe.forward(*args, **kwargs))[0]
