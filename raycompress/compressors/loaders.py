"""Reads the items of a loader as calls of a model: which of it are inputs, and how forward() takes them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from raycompress.bundle.example import Example, device_of

_LABELS = frozenset({"label", "labels", "target", "targets"})


def calls_in(items: Iterable[Any], model: nn.Module) -> Iterator[Example]:
    """Yield the call of `model` that each item stands for; labels are left out.

    An item is a tensor, a mapping of arguments by name, or a tuple or list that begins with inputs: a tensor, a
    mapping, several arguments, or a list of images. Of the ways to read the first item the first one that `model` runs
    on counts for all; where it runs on none, the most usual one.
    """
    parameters = inspect.signature(model.forward).parameters
    device = device_of(model)
    way: str | None = None
    for item in items:
        calls = _calls(item, parameters)
        usual = next(iter(calls))
        if way is None:
            way = usual
            if len(calls) > 1:
                here = {name: call if device is None else call.to(device) for name, call in calls.items()}
                way = next((name for name, call in here.items() if call.runs(model)), usual)
        yield calls.get(way, calls[usual])


def apart(loader: Iterable[Any]) -> Iterable[Any]:
    """Return a loader that can be read in the midst of the script's own loop over it.

    A torch loader whose workers persist has a single iterator, which a second loop would begin anew.
    """
    if not isinstance(loader, DataLoader) or getattr(loader, "_iterator", None) is None:
        return loader
    other = copy.copy(loader)
    other._iterator = None
    return other


def labels_in(item: Any) -> Any:
    """Return what an item has behind its inputs, or among them by the name of labels; None where it has none."""
    if isinstance(item, Mapping):
        return next((item[key] for key in sorted(_LABELS) if key in item), None)
    if isinstance(item, (tuple, list)) and len(item) > 1:
        return item[-1]
    return None


def _calls(item: Any, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Example]:
    """Return the calls that an item may stand for, by the way to read it, the most usual one first."""
    if isinstance(item, Mapping):
        return _by_name(item, parameters)
    if not isinstance(item, (tuple, list)) or not item:
        return {"itself": Example((item,), {})}
    first = item[0]
    found: dict[str, Example] = {}
    masked = _with_masks(item, parameters)
    if len(masked) > 1:
        found["with masks"] = Example(masked, {})
    if isinstance(first, Mapping):
        found.update(_by_name(first, parameters))
    elif isinstance(first, (tuple, list)):
        found["several"] = Example(tuple(first), {})
        found["a list"] = Example((first,), {})
    else:
        found["the first"] = Example((first,), {})
    if len(item) > 2:
        found["all but the last"] = Example(tuple(item[:-1]), {})
    if len(item) > 1:
        found["all"] = Example(tuple(item), {})
    if isinstance(item, list):
        found["the list"] = Example((item,), {})
    return found


def _by_name(item: Mapping[Any, Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Example]:
    """Return the calls with the members as arguments, but labels that forward() can do without; or with it whole."""
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    needed = {name for name, one in parameters.items() if one.default is one.empty}
    given = {key: value for key, value in item.items() if key not in _LABELS or key in needed}
    named = {key: value for key, value in given.items() if key in parameters}
    found: dict[str, Example] = {}
    if takes_all and given:
        found["by name"] = Example((), given)
    if named:
        found["by parameter"] = Example((), named)
    if len(given) < len(item):
        found["without labels"] = Example((given,), {})
    return {**found, "a mapping": Example((item,), {})}


def _with_masks(item: Any, parameters: Mapping[str, inspect.Parameter]) -> tuple[Any, ...]:
    """Return the members of an item up to the last mask: what a data set of tokenized texts has before its labels."""
    first, masked = item[0], 1
    for place, (value, name) in enumerate(zip(item, parameters, strict=False)):
        if place and not (isinstance(value, Tensor) and isinstance(first, Tensor) and value.shape == first.shape):
            break
        masked = place + 1 if "mask" in name or name.endswith("type_ids") else masked
    return tuple(item[:masked])
