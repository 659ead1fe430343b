"""One input of the user's model, as the model is called with it, and the tensors inside nested structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.errors import BundleError


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of a nested structure (tuples, lists, mappings, dataclasses), in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for member in value.values() for tensor in tensors_in(member)]
    if isinstance(value, (list, tuple)):
        return [tensor for member in value for tensor in tensors_in(member)]
    if is_dataclass(value) and not isinstance(value, type):
        return [tensor for field in fields(value) for tensor in tensors_in(getattr(value, field.name))]
    return []


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return `value` with each tensor replaced by ``change(tensor)``; tuples, lists and mappings keep their type."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(member, change) for key, member in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(member, change) for member in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(member, change) for member in value)
    return value


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch every module to eval mode, and back to what each of them was; the random state is left as it was."""
    flags = [(module, module.training) for module in model.modules()]
    devices = [tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"][:1]
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.inference_mode(False):
            yield
    finally:
        for module, training in flags:
            module.training = training


@dataclass(frozen=True)
class Example:
    """The arguments of one forward call, batch dimension first.

    Attributes
    ----------
    args, kwargs
        Positional and keyword arguments; tensors in them are detached copies.
    least
        How many samples the model needs at a time, where that is known to be more than one.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    least: int = 1

    @classmethod
    def from_dummy(cls, dummy: Any) -> Example:
        """Read ``dummy_input``: a tensor, a tuple or list of arguments, or a mapping of keyword arguments."""
        # tokenizers of transformers return a mapping of their own
        copied = map_tensors(dict(dummy) if isinstance(dummy, Mapping) else dummy, _copy)
        if isinstance(copied, dict):
            return cls((), copied)
        return cls(tuple(copied) if isinstance(copied, (tuple, list)) else (copied,), {})

    @classmethod
    def from_call(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Example:
        """Keep the first of the batch of a real call; all of it where a tensor has its batch elsewhere, as RNNs do."""
        found = tensors_in([args, kwargs])
        batch = found[0].size(0) if found and found[0].dim() else 0
        whole = any(tensor.dim() > 1 and tensor.size(0) != batch and batch in tensor.shape[1:] for tensor in found)

        def first(tensor: Tensor) -> Tensor:
            if whole:
                return _copy(tensor)
            return _copy(tensor[:1] if tensor.dim() and tensor.size(0) == batch else tensor)

        return cls(map_tensors(args, first), map_tensors(kwargs, first))

    @classmethod
    def of_first_call(cls, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Example:
        """Keep as few of the batch of a real call as `model` runs on: clips and pairs come in fours and twos.

        That is `from_call` for nearly every model, and for one that runs on no part of the batch either.
        """
        whole = cls(map_tensors(args, _copy), map_tensors(kwargs, _copy))
        return whole.runnable(model) or cls.from_call(args, kwargs)

    def runnable(self, model: nn.Module) -> Example | None:
        """Return the example with as few of its batch as `model` runs on, in eval mode; None where it runs on none."""
        sizes = [1 << power for power in range(1, self.batch.bit_length()) if 1 << power < self.batch]
        parts = (Example.from_call(self.args, self.kwargs), *(next(self.pieces(size)) for size in sizes), self)
        fits = next((part for part in parts if part._runs(model)), None)
        return None if fits is None else replace(fits, least=min(fits.batch, self.batch) if fits is not parts[0] else 1)

    def with_least(self, model: nn.Module) -> Example:
        """Return the example as it is, knowing how many of its batch `model` needs."""
        fits = self.runnable(model) if self.batch > 1 else None
        return self if fits is None else replace(self, least=fits.least)

    def _runs(self, model: nn.Module) -> bool:
        try:
            self.outputs(model)
        except Exception:  # noqa: BLE001 - of the user's model: it may run on more
            return False
        return True

    @property
    def batch(self) -> int:
        """How many samples it has, by its first tensor; 1 where that has no dimension."""
        found = tensors_in([self.args, self.kwargs])
        return found[0].size(0) if found and found[0].dim() else 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each tensor, batch dimension first."""
        return tuple(tuple(tensor.shape) for tensor in tensors_in([self.args, self.kwargs]))

    def call(self, model: nn.Module) -> Any:
        """Return the outputs of the model."""
        return model(*self.args, **self.kwargs)

    def outputs(self, model: nn.Module) -> list[Tensor]:
        """Return the output tensors of the model in eval mode, without gradients."""
        with evaluating(model), torch.no_grad():
            return tensors_in(self.call(model))

    def map(self, change: Callable[[Tensor], Tensor]) -> Example:
        """Return the example with every tensor changed."""
        return Example(map_tensors(self.args, change), map_tensors(self.kwargs, change), self.least)

    def pieces(self, size: int) -> Iterator[Example]:
        """Yield the same samples in batches of at most `size`; what has no batch dimension is in each."""
        found = tensors_in([self.args, self.kwargs])
        whole = found[0].size(0) if found and found[0].dim() else 1
        for start in range(0, whole, size):

            def cut(tensor: Tensor, start: int = start) -> Tensor:
                return tensor[start : start + size] if tensor.dim() and tensor.size(0) == whole else tensor

            yield self.map(cut)

    def to(self, device: torch.device) -> Example:
        """Return the example on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def random(self, seed: int) -> Example:
        """Return a fresh example of the same shapes: normal floats, integers within the range of this one's."""
        generator = torch.Generator().manual_seed(seed)

        def draw(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                fresh = torch.randn(tensor.shape, generator=generator)
            elif tensor.is_complex() or not tensor.numel():
                return tensor
            else:
                low, high = int(tensor.min()), int(tensor.max())
                fresh = torch.randint(low, high + 1, tensor.shape, generator=generator)
            return fresh.to(device=tensor.device, dtype=tensor.dtype)

        return self.map(draw)

    def to_json(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the structure as plain JSON data, and the tensors that it names."""
        tensors: dict[str, Tensor] = {}
        return {"args": _describe(self.args, tensors), "kwargs": _describe(self.kwargs, tensors)}, tensors

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Example:
        """Rebuild what `to_json` returned; raises KeyError or TypeError on data that is not that."""
        return cls(_rebuild(data["args"], tensors), _rebuild(data["kwargs"], tensors))


def _copy(tensor: Tensor) -> Tensor:
    # outside inference mode: a tensor made inside cannot be traced later
    with torch.inference_mode(False):
        return tensor.detach().clone()


def _describe(value: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(value, Tensor):
        name = f"input.{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": {str(key): _describe(member, tensors) for key, member in value.items()}}
    if isinstance(value, (tuple, list)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_describe(member, tensors) for member in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise BundleError(
        f"the model is called with a {type(value).__name__}, which cannot be stored without pickle",
        fix="pass dummy_input= to create_compressor, made of tensors, numbers, strings, tuples, lists and dicts",
    )


def _rebuild(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, value),) = data.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _rebuild(member, tensors) for key, member in value.items()}
    if kind in ("tuple", "list"):
        members = [_rebuild(member, tensors) for member in value]
        return tuple(members) if kind == "tuple" else members
    if kind == "value":
        return value
    raise KeyError(kind)


def distinct(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the first of each set of names that share one tensor."""
    aliases = shared(state)
    return {name: tensor for name, tensor in state.items() if name not in aliases}


def shared(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return name -> the earlier name that shares its tensor, for tied weights.

    Raises
    ------
    BundleError
        The state holds what is no tensor, as a module's ``get_extra_state()`` may return.
    """
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            module = name.removesuffix("_extra_state").removesuffix(".") or "the model"
            raise BundleError(
                f"{module} keeps extra state, a {type(tensor).__name__}, which cannot be stored without pickle",
                where=name,
                fix="return a tensor from its get_extra_state(): torch.frombuffer(bytearray(data), dtype=torch.uint8)",
            )
        if tensor.numel():
            key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
            if first.setdefault(key, name) != name:
                aliases[name] = first[key]
    return aliases
