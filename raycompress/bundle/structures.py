"""Nested structures of tensors: what models are called with and what they answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

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
    """Return `value` with each tensor replaced by ``change(tensor)``, in the order of `tensors_in`; types are kept."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return _with_members(value, {key: map_tensors(member, change) for key, member in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(member, change) for member in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(member, change) for member in value)
    if is_dataclass(value) and not isinstance(value, type):
        copied: Any = copy.copy(value)
        for field in fields(value):
            object.__setattr__(copied, field.name, map_tensors(getattr(value, field.name), change))
        return copied
    return value


def _with_members(mapping: Mapping[Any, Any], members: dict[Any, Any]) -> Any:
    """Return a mapping of the type of `mapping`, such as transformers' BatchEncoding; a dict where it is read-only."""
    if type(mapping) is dict:
        return members
    try:
        copied: Any = copy.copy(mapping)
        for key, member in members.items():
            copied[key] = member
    except TypeError:
        return members
    return copied


def containers(value: Any) -> Iterator[Any]:
    """Yield the tuples, lists and mappings of a nested structure."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    elif isinstance(value, (tuple, list)):
        yield value
    for member in value if isinstance(value, (tuple, list)) else ():
        yield from containers(member)


def describe(value: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a structure as plain JSON data; `tensors` is filled with the tensors that it names.

    Raises
    ------
    BundleError
        It holds something else than tensors, numbers, texts, tuples, lists and mappings by name.
    """
    if isinstance(value, Tensor):
        name = f"input.{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: describe(member, tensors) for key, member in value.items()}}
    if isinstance(value, (tuple, list)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [describe(member, tensors) for member in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise BundleError(
        f"the model is called with a {type(value).__name__}, which cannot be stored without pickle",
        fix="pass dummy_input= to create_compressor, made of tensors, numbers, strings, tuples, lists and dicts",
    )


def rebuild(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """Return what `describe` was given, mappings as dicts; raises KeyError or TypeError on data that is not that."""
    ((kind, value),) = data.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: rebuild(member, tensors) for key, member in value.items()}
    if kind in ("tuple", "list"):
        members = [rebuild(member, tensors) for member in value]
        return tuple(members) if kind == "tuple" else members
    if kind == "value":
        return value
    raise KeyError(kind)
