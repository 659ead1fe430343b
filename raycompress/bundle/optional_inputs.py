"""Inputs that a model's forward() takes but need not be given, such as ``attention_mask`` and ``token_type_ids``.

A file made of a model has a fixed list of inputs. It serves every way of calling the model where each optional input
is one of the file's, and a value is known that stands for a missing one: ones for a mask, zeros for token types. Which
it is nobody declares; it is found by calling the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example

_SAME = 1e-5
"""Relative difference up to which two answers are the same."""
_PLANE = 2
"""Dimensions of the first input of a model of sequences: batch and length."""


def find(model: nn.Module, example: Example, signature: inspect.Signature) -> tuple[Example, dict[str, int]]:
    """Return the example with every optional input that has a neutral value, and these values by parameter.

    An optional input is a tensor of the shape of the first one, which is (batch, length); other models have none. One
    that is called ``decoder_...`` is of the shape of the first of that name.
    """
    given = dict(signature.bind(*example.args, **example.kwargs).arguments)
    neutral: dict[str, int] = {}
    for name, parameter in signature.parameters.items():
        if parameter.default is not None or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        value, first = given.get(name), _like(name, given)
        if first is None:
            continue
        if value is None:
            found = _neutral(model, signature, given, name, torch.zeros_like(first, dtype=torch.int64))
            if found is not None and _matters(model, signature, given, name, first):
                neutral[name] = found
                given[name] = torch.full_like(first, found, dtype=torch.int64)
        elif isinstance(value, Tensor) and value.shape == first.shape and value is not first:
            found = _neutral(model, signature, {k: v for k, v in given.items() if k != name}, name, value)
            if found is not None:
                neutral[name] = found
    return _ordered(signature, given), neutral


def completed(
    call: Example, signature: inspect.Signature, names: tuple[str, ...], neutral: Mapping[str, int]
) -> Example:
    """Return a call with exactly the arguments called `names`, in the order of the parameters.

    Missing ones that have a neutral value get it; others that are given their default, or None, are left out.

    Raises
    ------
    TypeError
        The arguments do not fit the signature.
    """
    given = dict(signature.bind(*call.args, **call.kwargs).arguments)
    for name, parameter in signature.parameters.items():
        first = _like(name, given) if name in neutral else None
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if name not in names and not variable and name in given and _is_default(given[name], parameter.default):
            del given[name]
        if name in names and given.get(name) is None and first is not None:
            given[name] = torch.full_like(first, neutral[name], dtype=torch.int64)
    return _ordered(signature, given)


def names_of(example: Example, signature: inspect.Signature) -> tuple[str, ...]:
    """Return the parameters that a call gives."""
    return tuple(signature.bind(*example.args, **example.kwargs).arguments)


def _like(name: str, given: Mapping[str, Any]) -> Tensor | None:
    """Return the argument whose shape an optional one has; None where it is no (batch, length)."""
    stem = name.partition("_")[0]
    others = [other for other in given if other != name]
    found = given[next((other for other in others if other.partition("_")[0] == stem), others[0])] if others else None
    return found if isinstance(found, Tensor) and found.dim() == _PLANE and found.numel() >= _PLANE else None


def _is_default(value: Any, default: Any) -> bool:
    return value is None if default is None else isinstance(value, (bool, int, float, str)) and value == default


def _ordered(signature: inspect.Signature, given: Mapping[str, Any]) -> Example:
    bound = inspect.BoundArguments(signature, {name: given[name] for name in signature.parameters if name in given})
    return Example(tuple(bound.args), dict(bound.kwargs))


def _neutral(
    model: nn.Module, signature: inspect.Signature, without: Mapping[str, Any], name: str, like: Tensor
) -> int | None:
    """Return the value of which a tensor changes nothing, against leaving the input out; None where there is none."""
    expected = _ordered(signature, without).try_outputs(model)
    for value in (1, 0):
        changed = _ordered(signature, {**without, name: torch.full_like(like, value)})
        if expected and _same(expected, changed.try_outputs(model)):
            return value
    return None


def _matters(
    model: nn.Module, signature: inspect.Signature, without: Mapping[str, Any], name: str, first: Tensor
) -> bool:
    """Tell whether the model reads the input: whether zeros and ones in turn change what it answers."""
    mixed = (torch.arange(first.numel()) % 2).reshape(first.shape)
    answer = _ordered(signature, {**without, name: mixed}).try_outputs(model)
    return answer is not None and not _same(answer, _ordered(signature, without).try_outputs(model))


def _same(one: list[Tensor], other: list[Tensor] | None) -> bool:
    if other is None or [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
        return False
    return all(
        float((a.double() - b.double()).norm()) <= _SAME * max(float(a.double().norm()), _SAME)
        for a, b in zip(one, other, strict=True)
    )
