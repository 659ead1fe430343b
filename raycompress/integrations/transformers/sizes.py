"""Finds the config of a stock model of transformers that has the sizes of a sliced one.

No table of models: the model is built from changed configs, on the device meta, which computes nothing, and its shapes
are compared with those of the sliced one.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Path = tuple[str, ...]
"""Names of attributes from a config to a number in it, such as ``("text_config", "hidden_size")``."""

Sizes = dict[tuple[str, int], int]
"""(name of a parameter or buffer, dimension) -> size."""

Numbers = dict[tuple[str, str], float]
"""(name of a module, attribute) -> value."""

_UNSET = ("head_dim", "num_key_value_heads", "intermediate_size", "n_inner", "ffn_dim", "d_kv")
"""Fields that say how wide something is, and that may be None, for a width that follows from others."""

_MOST_CONFIGS = 300
_MOST_FOUND = 6


@dataclass
class Built:
    """What a model built from a config has.

    Attributes
    ----------
    sizes
        Of every parameter and buffer of its state.
    numbers
        The numbers that its modules keep as attributes.
    """

    sizes: Sizes
    numbers: Numbers

    @classmethod
    def of(cls, model: nn.Module) -> Built:
        """Read a model."""
        state = model.state_dict()
        sizes = {(name, dim): size for name, tensor in state.items() for dim, size in enumerate(tensor.shape)}
        numbers = {
            (name, key): float(value)
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        return cls(sizes, numbers)

    def differing(self, wanted: Built) -> list[tuple[str, int]]:
        """Return where a size is another one; a tensor that only one of both has counts with all its dimensions."""
        return [one for one in {**self.sizes, **wanted.sizes} if self.sizes.get(one) != wanted.sizes.get(one)]

    def unlike(self, wanted: Built) -> list[tuple[str, str]]:
        """Return the attributes that differ."""
        return [one for one in self.numbers if self.numbers[one] != wanted.numbers.get(one)]

    @property
    def names(self) -> set[str]:
        """The parameters and buffers."""
        return {name for name, _ in self.sizes}


@dataclass
class ConfigSearch:
    """Searches the configs from which a class of model gets the sizes of a sliced model.

    Parameters
    ----------
    model
        The sliced model; its ``config`` still says the sizes of the dense one.
    kind
        The class to build from a config: the model's own, or a stock one that it derives from.
    """

    model: Any
    kind: type[nn.Module]
    _wanted: Built = field(init=False)
    _built: dict[tuple[Any, ...], Built | None] = field(init=False, default_factory=dict)
    _paths: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        self._wanted = Built.of(self.model)
        self._paths = list(_paths(self.model.config))

    def found(self) -> list[Any]:
        """Return configs that give all sizes, those first whose modules are most like the sliced model's.

        Sizes alone do not tell a config: eight channels are two heads of four or one of eight. Who uses one has to
        compare what the models compute.
        """
        with torch.random.fork_rng(devices=[]):
            dense = self._build({})
            fitting = {} if dense is None else self._fitting(self._starts(dense))
            ranked = sorted(fitting.values(), key=lambda changes: (self._unlikeness(changes), len(changes)))
            configs = [one for changes in ranked if _is_valid(one := self._config(changes))]
            return configs[:_MOST_FOUND]

    def _fitting(self, starts: list[Mapping[Path, int]]) -> dict[tuple[Any, ...], Mapping[Path, int]]:
        """Return the changes of the dense model's config that give all sizes."""
        fitting: dict[tuple[Any, ...], Mapping[Path, int]] = {}
        pending = starts
        seen: set[tuple[Any, ...]] = set()
        while pending and len(self._built) < _MOST_CONFIGS:
            changes = pending.pop()
            if _key(changes) in seen or (built := self._build(changes)) is None:
                continue
            seen.add(_key(changes))
            differing = built.differing(self._wanted)
            if differing:
                pending += self._mended(changes, built, differing[0])
                continue
            fitting[_key(changes)] = changes
            pending += [one for place in built.unlike(self._wanted) for one in self._renumbered(changes, built, place)]
        return fitting

    def _unlikeness(self, changes: Mapping[Path, int]) -> int:
        built = self._build(changes)
        assert built is not None
        return len(built.unlike(self._wanted))

    def _starts(self, dense: Built) -> list[Mapping[Path, int]]:
        """Return what the search begins with, the dense model's own sizes last, which are tried first.

        The others set a field that the config lacks and the modules ask for all the same, as Qwen2's do by
        ``getattr(config, "head_dim", ...)``, to what the sliced model has.
        """
        start = self._with_depth(dense)
        starts: list[Mapping[Path, int]] = [start]
        for name in sorted(set(_UNSET) - set(vars(self.model.config))):
            wanted = {value for (_, key), value in self._wanted.numbers.items() if key == name}
            if len(wanted) != 1:
                continue
            value = int(wanted.pop())
            one, other = ({**start, (name,): factor * value} for factor in (1, 2))
            built, again = self._build(one), self._build(other)
            if built is not None and again is not None and built.sizes != again.sizes:
                starts.insert(0, one)
        return starts

    def _with_depth(self, dense: Built) -> dict[Path, int]:
        """Return the change of the number of layers, where the sliced model has fewer; no change otherwise."""
        if dense.names == self._wanted.names:
            return {}
        for path in self._paths:
            value = _get(self.model.config, path)
            if value is not None and "layer" in path[-1]:
                for fewer in range(value - 1, 0, -1):
                    built = self._build({path: fewer})
                    if built is not None and built.names == self._wanted.names:
                        return {path: fewer}
        return {}

    def _mended(self, changes: Mapping[Path, int], built: Built, place: tuple[str, int]) -> Iterator[dict[Path, int]]:
        """Yield `changes` with one more field, by which the size at a place becomes the wanted one."""
        wanted, now = self._wanted.sizes.get(place), built.sizes.get(place)
        if wanted is None or now is None:
            return
        yield from self._solved(changes, now, wanted, lambda other: other.sizes.get(place))

    def _renumbered(
        self, changes: Mapping[Path, int], built: Built, place: tuple[str, str]
    ) -> Iterator[dict[Path, int]]:
        """Yield `changes` with one more field, by which an attribute of a module becomes the wanted one."""
        wanted, now = self._wanted.numbers.get(place), built.numbers[place]
        if wanted:
            yield from self._solved(changes, now, wanted, lambda other: other.numbers.get(place))

    def _solved(
        self, changes: Mapping[Path, int], now: float, wanted: float, value_in: Callable[[Built], float | None]
    ) -> Iterator[dict[Path, int]]:
        for path in self._paths:
            if path in changes:
                continue
            at = _get(self.model.config, path)
            for probe in (16, 8) if at is None else (2 * at, at + 1):
                other = self._build({**changes, path: probe})
                found = None if other is None else value_in(other)
                if found is None:
                    continue
                before = (at, now) if at is not None else (probe, found)
                yield from ({**changes, path: one} for one in _values(before, (probe, found), wanted))
                break

    def _build(self, changes: Mapping[Path, int]) -> Built | None:
        """Return what the model of a changed config has; None where none can be built from it."""
        key = _key(changes)
        if key not in self._built:
            try:
                with torch.device("meta"):
                    self._built[key] = Built.of(self.kind(self._config(changes)))
            except Exception:  # noqa: BLE001 - whatever a model's class raises for sizes that do not fit together
                self._built[key] = None
        return self._built[key]

    def _config(self, changes: Mapping[Path, int]) -> Any:
        config = copy.deepcopy(self.model.config)
        for path, value in changes.items():
            part = config
            for name in path[:-1]:
                part = getattr(part, name)
            if "layer" in path[-1]:
                _shorten_lists(part, getattr(part, path[-1]), value)
            setattr(part, path[-1], value)
        return config


def _values(before: tuple[int, float], probed: tuple[int, float], wanted: float) -> Iterator[int]:
    """Yield the values of a field that may give a wanted size, by the sizes that it gives at one or two of its values.

    A size may be proportional to the field, inversely so, or be a part of it with something added.

    Examples
    --------
    >>> list(_values((4, 32.0), (8, 64.0), 16.0))  # heads, each eight wide
    [2, 8]
    """
    (at, now), (probe, found) = before, probed
    if probe != at and found == now:
        return
    tried = [at * wanted / now, at * now / wanted]
    if probe != at:
        tried.append(at + (wanted - now) * (probe - at) / (found - now))
    for value in dict.fromkeys(tried):
        if value == int(value) and value >= 1 and (value != at or probe == at):
            yield int(value)


def _paths(config: Any, above: Path = ()) -> Iterator[Path]:
    """Yield the fields of a config, and of the configs in it, that may say how large something is."""
    for name, value in vars(config).items():
        if name.startswith("_") or name.endswith("_token_id"):
            continue
        is_size = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if is_size or (value is None and name in _UNSET):
            yield (*above, name)
        elif hasattr(value, "to_diff_dict"):
            yield from _paths(value, (*above, name))


def _is_valid(config: Any) -> bool:
    """Tell whether a config can be read again: some classes refuse numbers that their models could do with."""
    try:
        type(config).from_dict(config.to_dict())
    except Exception:  # noqa: BLE001 - whatever a config's class raises
        return False
    return True


def _get(config: Any, path: Path) -> int | None:
    for name in path:
        config = getattr(config, name, None)
    value: int | None = config
    return value


def _shorten_lists(part: Any, before: int | None, value: int) -> None:
    """Let lists with a member a layer, such as ``layer_types``, end where the layers do."""
    for name, one in vars(part).items():
        if isinstance(one, list) and before is not None and len(one) == before > value:
            setattr(part, name, one[:value])


def _key(changes: Mapping[Path, int]) -> tuple[Any, ...]:
    return tuple(sorted(Counter(changes).items()))
