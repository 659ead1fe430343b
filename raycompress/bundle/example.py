"""One input of the user's model, as the model is called with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.calling import uncompiled
from raycompress.bundle.structures import containers, describe, map_tensors, rebuild, tensors_in
from raycompress.errors import BundleError


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch every module to eval mode, and back to what each of them was; the random state is left as it was.

    Compiled models run as they are written.
    """
    flags = [(module, module.training) for module in model.modules()]
    devices = [tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"][:1]
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.inference_mode(False), uncompiled():
            yield
    finally:
        for module, training in flags:
            module.training = training


def device_of(model: nn.Module) -> torch.device | None:
    """Return where the model's parameters are; None for one that has none."""
    return next((parameter.device for parameter in model.parameters()), None)


@dataclass(frozen=True)
class Example:
    """The arguments of one forward call, batch dimension first.

    Attributes
    ----------
    args, kwargs
        Positional and keyword arguments; tensors in them are detached copies.
    least
        How many samples the model needs at a time, where that is known to be more than one.
    lists
        Whether the batch are the members of lists, such as a detector's images, where that is known.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    least: int = 1
    lists: bool = False

    @classmethod
    def from_dummy(cls, dummy: Any) -> Example:
        """Read ``dummy_input``: a tensor, a tuple or list of arguments, or a mapping of keyword arguments."""
        return next(_readings(map_tensors(dummy, _copy)))

    @classmethod
    def for_model(cls, dummy: Any, model: nn.Module) -> Example:
        """Read ``dummy_input`` as `model` takes it, knowing how many of its batch it needs.

        Where the plain reading (see `from_dummy`) does not run: a list may be one argument, such as a detector's
        images, a mapping too, and a tuple may end with keyword arguments, as that of ``torch.onnx.export``.
        """
        readings = list(_readings(map_tensors(dummy, _copy)))
        found = readings[0]
        for one in readings if len(readings) > 1 else ():
            known = one.with_lists(model)
            if known.lists or one.runs(model):  # that its lists are known says that it runs
                found = known
                break
        return found.with_least(model)

    @classmethod
    def from_call(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Example:
        """Keep the first of the batch of a real call; all of it where a tensor has its batch elsewhere, as RNNs do."""
        return cls(args, kwargs).first().map(_copy)

    @classmethod
    def of_first_call(cls, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Example:
        """Keep as few of the batch of a real call as `model` runs on: clips and pairs come in fours and twos.

        That is `first` for nearly every model, and for one that runs on no part of the batch either.
        """
        whole = cls(map_tensors(args, _copy), map_tensors(kwargs, _copy)).with_lists(model)
        return (whole.runnable(model) or whole.first()).map(_copy)

    def first(self) -> Example:
        """Return the example with a batch of one; all of it where a tensor has its batch elsewhere, as RNNs do."""
        found = tensors_in([self.args, self.kwargs])
        if self.lists:
            return self.part(0, 1)
        if self.is_list:  # of images: their first dimension are channels
            return self
        batch = found[0].size(0) if found and found[0].dim() else 0
        whole = any(tensor.dim() > 1 and tensor.size(0) != batch and batch in tensor.shape[1:] for tensor in found)
        return self if whole else self.part(0, 1)

    def runnable(self, model: nn.Module) -> Example | None:
        """Return the example with as few of its batch as `model` runs on, in eval mode; None where it runs on none."""
        sizes = [1 << power for power in range(1, self.batch.bit_length()) if 1 << power < self.batch]
        parts = (self.first(), *(self.part(0, size) for size in sizes), self)
        fits = next((part for part in parts if part.runs(model)), None)
        return None if fits is None else replace(fits, least=min(fits.batch, self.batch) if fits is not parts[0] else 1)

    def with_least(self, model: nn.Module) -> Example:
        """Return the example as it is, knowing how many of its batch `model` needs."""
        known = self.with_lists(model)
        fits = known.runnable(model) if known.batch > 1 else None
        return known if fits is None else replace(known, least=fits.least)

    def with_lists(self, model: nn.Module) -> Example:
        """Return the example, knowing whether the lists in it are its batch: as many answers as there are members.

        The first member alone, or twice the list, has to have its own number of answers: levels of a pyramid, which
        are a list as well, have not.
        """
        if not self.is_list or self.lists:
            return self
        batched = replace(self, lists=True)
        answers = self._answers(model)
        if answers and batched.batch > 1 and (alone := batched.part(0, 1)._answers(model)):
            return replace(self, lists=answers == alone * batched.batch)
        twice = replace(
            self, args=tuple(map(_doubled, self.args)), kwargs={k: _doubled(v) for k, v in self.kwargs.items()}
        )
        return replace(self, lists=answers > 0 and twice._answers(model) == 2 * answers)

    def _answers(self, model: nn.Module) -> int:
        """Return how many samples the model answers: the length of a list, or of the first tensor; 0 for no answer."""
        try:
            with evaluating(model), torch.no_grad():
                answer = self.call(model)
        except Exception:  # noqa: BLE001 - of the user's model
            return 0
        if isinstance(answer, list):
            return len(answer)
        found = tensors_in(answer)
        return found[0].size(0) if found and found[0].dim() else 0

    def runs(self, model: nn.Module) -> bool:
        """Tell whether `model` computes the example, in eval mode."""
        return self.try_outputs(model) is not None

    def try_outputs(self, model: nn.Module) -> list[Tensor] | None:
        """Return the output tensors as `outputs` does; None where the model does not take the example."""
        try:
            return self.outputs(model)
        except Exception:  # noqa: BLE001 - whatever a user's model raises
            return None

    @property
    def batch(self) -> int:
        """How many samples it has, by its first tensor; 1 where that has no dimension."""
        if self.lists:
            return len(self._first_value)
        found = tensors_in([self.args, self.kwargs])
        return found[0].size(0) if found and found[0].dim() else 1

    @property
    def is_list(self) -> bool:
        """Whether its first argument is a list that may be a batch: of images, or of mappings that hold tensors."""
        first = self._first_value
        if not isinstance(first, list) or not first:
            return False
        if all(isinstance(one, Tensor) for one in first):
            return all(one.dim() == _IMAGE and one.size(0) in _CHANNELS for one in first)
        return all(isinstance(one, Mapping) and tensors_in(one) for one in first)

    @property
    def _first_value(self) -> Any:
        return next(iter([*self.args, *self.kwargs.values()]), None)

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
        return Example(map_tensors(self.args, change), map_tensors(self.kwargs, change), self.least, self.lists)

    def pieces(self, size: int) -> Iterator[Example]:
        """Yield the same samples in batches of at most `size`; what has no batch dimension is in each."""
        for start in range(0, self.batch, size):
            yield self.part(start, start + size)

    def part(self, start: int, stop: int) -> Example:
        """Return the samples from `start` to `stop`; what has no batch dimension is as it is."""
        batch = self.batch
        if self.lists:

            def members(value: Any) -> Any:
                is_batch = isinstance(value, (list, tuple)) and len(value) == batch
                return value[start:stop] if is_batch else value

            return replace(
                self, args=tuple(map(members, self.args)), kwargs={k: members(v) for k, v in self.kwargs.items()}
            )
        found = tensors_in([self.args, self.kwargs])
        if not found or not found[0].dim():
            return self
        return self.map(lambda one: one[start:stop] if one.dim() and one.size(0) == batch else one)

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

    def check_storable(self, model: nn.Module) -> None:
        """Raise BundleError where `model` cannot be called with what a bundle keeps of the example.

        That are tensors, numbers, texts, tuples, lists and dicts; of a named tuple, or of another mapping, a plain one.
        """
        kept = Example.from_json(*self.to_json())
        kind = next((type(one).__name__ for one in containers([self.args, self.kwargs]) if type(one) not in _PLAIN), "")
        if kind and not kept.runs(model):
            raise BundleError(
                f"{type(model).__name__} is called with a {kind}, and cannot be called with what is stored of it "
                "without pickle: plain tuples and dicts",
                fix="let forward() take its tensors by name, or by index",
            )

    def to_json(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the structure as plain JSON data, and the tensors that it names."""
        tensors: dict[str, Tensor] = {}
        return {"args": describe(self.args, tensors), "kwargs": describe(self.kwargs, tensors)}, tensors

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Example:
        """Rebuild what `to_json` returned; raises KeyError or TypeError on data that is not that."""
        return cls(rebuild(data["args"], tensors), rebuild(data["kwargs"], tensors))


_PLAIN = (dict, list, tuple)
_IMAGE = 3
_CHANNELS = (1, 3, 4)


def _readings(dummy: Any) -> Iterator[Example]:
    """Yield the calls that a ``dummy_input`` can stand for, the plain one first."""
    if isinstance(dummy, Mapping):
        if all(isinstance(key, str) for key in dummy):
            yield Example((), dict(dummy))
        yield Example((dummy,), {})
    elif isinstance(dummy, (tuple, list)):
        yield Example(tuple(dummy), {})
        if dummy and isinstance(dummy[-1], Mapping) and all(isinstance(key, str) for key in dummy[-1]):
            before = dummy[0] if len(dummy) == 2 and isinstance(dummy[0], (tuple, list)) else dummy[:-1]
            yield Example(tuple(before), dict(dummy[-1]))
        yield Example((dummy,), {})
    else:
        yield Example((dummy,), {})


def _doubled(value: Any) -> Any:
    return [*value, *value] if isinstance(value, list) else value


def _copy(tensor: Tensor) -> Tensor:
    # outside inference mode: a tensor made inside cannot be traced later
    with torch.inference_mode(False):
        return tensor.detach().clone()


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
