"""Gives a sliced model the config of the stock model that computes the same, where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from raycompress.bundle.example import Example, device_of
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.structure.plan import plan_of
from raycompress.extras import load_extra
from raycompress.integrations.transformers.sizes import ConfigSearch

EXTRA = "transformers"
NARROWED = "narrowed"
"""The key of config.json under which custom code finds the widths of single layers."""

_SEED = 1
_DENSE: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
"""A model that was given another config -> the one that it had at first."""


def stock_class(model: nn.Module) -> Any:
    """Return the class of transformers that a model is of, or derives from; None where it does not."""
    library = load_extra("transformers", EXTRA, "save_pretrained")
    return next((kind for kind in type(model).__mro__ if getattr(library, kind.__name__, None) is kind), None)


def fit_config(model: Any, example: Example) -> bool:
    """Give a sliced model a config with its own sizes, and return whether there is one.

    A model of the stock class that is made from it has the same shapes and, with the same weights, the same outputs,
    which is tried. The old config is left as it is: other models may have been made from it.

    Parameters
    ----------
    example
        An input.
    """
    kind = stock_class(model) if hasattr(model.config, NARROWED) else type(model)
    if kind is None or plan_of(model).dropped:
        return False
    for config in ConfigSearch(model, kind).found():
        if hasattr(config, NARROWED):
            delattr(config, NARROWED)
        if computes_the_same(model, _twin(model, kind, config), example):
            _DENSE.setdefault(model, model.config)
            _put(model, config)
            return True
    return False


def computes_the_same(model: nn.Module, other: nn.Module, example: Example) -> bool:
    """Tell whether two models give the same outputs for an input, and for a random one of its shapes."""
    device = device_of(model)
    inputs = [example, example.random(_SEED)]
    inputs = inputs if device is None else [one.to(device) for one in inputs]
    return all(
        (outputs := one.try_outputs(other)) is not None
        and relative_difference(one.outputs(model), outputs) <= TOLERANCE
        for one in inputs
    )


def size_changes(model: Any) -> dict[str, tuple[Any, Any]]:
    """Return the numbers in which a model's config differs from its first one: name -> (old value, new value)."""
    before, after = _DENSE.get(model, model.config).to_dict(), model.config.to_dict()
    found: dict[str, tuple[Any, Any]] = {}
    for name, value in after.items():
        if isinstance(value, Mapping) and isinstance(before.get(name), Mapping):
            inner = {key: (before[name].get(key), one) for key, one in value.items() if isinstance(one, int)}
            found |= {f"{name}.{key}": (was, one) for key, (was, one) in inner.items() if was != one}
        elif isinstance(value, int) and value != before.get(name):
            found[name] = (before.get(name), value)
    return found


def _twin(model: Any, kind: Any, config: Any) -> nn.Module:
    """Return a model of the stock class with the weights of `model`."""
    with torch.random.fork_rng(devices=[]), _default_dtype(model.dtype):
        made: nn.Module = kind(config)
    device = device_of(model)
    made = made if device is None else made.to(device)
    made.load_state_dict(model.state_dict())
    return made


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let modules be made in a type, as transformers does: tables that it always makes in float32 stay so."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _put(model: Any, config: Any) -> None:
    """Put a config in the place of the model's, in all modules that have it or a part of it."""
    places = dict(_pairs(model.config, config))
    for module in model.modules():
        old = vars(module).get("config")
        if id(old) in places:
            vars(module)["config"] = places[id(old)]


def _pairs(old: Any, new: Any) -> Iterator[tuple[int, Any]]:
    yield id(old), new
    for name, value in vars(old).items():
        if hasattr(value, "to_diff_dict"):
            yield from _pairs(value, getattr(new, name))
