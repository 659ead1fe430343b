"""What there is to search: the dimensions of an experiment, and the way back from a sample to a plain config."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycompress.catalog import CompressorEntry
from raycompress.catalog.stages import quantizes_trained
from raycompress.config.depth import blocks_of, built_depth, needs_blocks
from raycompress.config.dimension import Dimension, grid
from raycompress.config.experiment import Experiment
from raycompress.config.matching import Entry, overruled_by_name, round_to_of, ruled
from raycompress.config.schema.ranges import find_ranges, is_range
from raycompress.config.text.reader import JsonPath
from raycompress.model.groups import role
from raycompress.model.info import ModelInfo
from raycompress.text import dotted

Config = dict[str, Any]


@dataclass(frozen=True)
class _Slot:
    """Stands in a template where the value of a dimension goes."""

    dimension: Dimension


@dataclass(frozen=True)
class SearchSpace:
    """The dimensions of a search.

    Attributes
    ----------
    dimensions
        In the order of the file; none for a one-time experiment. Names are unique.
    """

    dimensions: tuple[Dimension, ...]
    _template: Config = field(repr=False)
    _quantizes_trained: bool = False

    @classmethod
    def of(cls, experiment: Experiment, model: ModelInfo | None = None) -> SearchSpace:
        """Find the dimensions of an experiment.

        Parameters
        ----------
        experiment
            What to search.
        model
            The layers of the user's model. With it, layers that an entry names and a later entry rules make no
            dimension.

        Raises
        ------
        ValueError
            Without a model where `needs_model`.
        """
        if model is None and cls.needs_model(experiment):
            raise ValueError("the dimensions depend on the layers of the model")
        names = _Names()
        first, *later = (_stage_template(stage, model, names) for stage in experiment.each_stage())
        template = {
            **first,
            "parameters": {
                parameter["name"]: names.slot(parameter["name"], "parameter_config", parameter)
                for parameter in experiment.parameter_config
            },
            **_depth(experiment.compression.depth, model, names),
            **({"stages": later} if later else {}),
        }
        return cls(tuple(names.dimensions), template, quantizes_trained(experiment.stages[-1].entry))

    @staticmethod
    def needs_model(experiment: Experiment) -> bool:
        """Whether the dimensions depend on the layers of the model, which the file alone does not tell."""
        return any(
            entry.get("expand_op_names", True) == "dependency"
            or ("op_names" not in entry and entry.get("expand_op_names", True))
            for stage in experiment.stages
            for entry in stage.config_list
            if _is_searched(_own(entry, stage.entry))
        ) or needs_blocks(experiment.compression.depth)

    def build(self, sample: Mapping[str, Any]) -> Config:
        """Turn a sample into what a trial is given.

        Parameters
        ----------
        sample
            A value for each dimension, by its name.

        Returns
        -------
        dict
            ``config_list`` with no search range and no ``expand_op_names``, ``arguments``, and ``parameters`` (the
            values of ``parameter_config`` by name); where blocks may go ``depth``, whose ``drop`` are the names of
            those that do; of further stages ``stages``, a list of such ``config_list`` and ``arguments``. No object in
            it is shared with anything else.

        Raises
        ------
        KeyError
            When the sample lacks a dimension.
        """
        built = _filled(self._template, sample)
        assert isinstance(built, dict)
        if "depth" in built:
            built["depth"] = built_depth(built["depth"])
        return built

    @property
    def sparsities(self) -> tuple[Dimension, ...]:
        """The dimensions that say how much of a layer, or of several, is left in the end."""
        found: dict[str, Dimension] = {}
        for entry in self._template.get("config_list", ()):
            slot = entry.get("sparsity", entry.get("final_sparsity"))
            if isinstance(slot, _Slot):
                found[slot.dimension.name] = slot.dimension
        return tuple(found.values())

    @property
    def depths(self) -> tuple[Dimension, ...]:
        """The dimensions that say which residual blocks stay, or how many go."""
        template = self._template.get("depth", {})
        slots = (*template.get("keep", {}).values(), template.get("number"))
        return tuple(slot.dimension for slot in slots if isinstance(slot, _Slot))

    @property
    def bits(self) -> tuple[Dimension, ...]:
        """The dimensions that say how many bits a layer, or several, is quantized to once the model is trained."""
        found: dict[str, Dimension] = {}
        for entry in last_stage(self._template)["config_list"] if self._quantizes_trained else ():
            slot = entry.get("quant_bits")
            if isinstance(slot, _Slot) and slot.dimension.choices is not None:
                found[slot.dimension.name] = slot.dimension
        return tuple(found.values())

    def smallest(self) -> dict[str, Any]:
        """Return the sample with the largest sparsities, the fewest bits and blocks, else the middle of every range."""
        ends = {one.name: one.nearest(1.0) for one in self.sparsities}
        ends |= {one.name: min(one.choices or ()) for one in self.bits}
        ends |= {one.name: False if _is_block(one) else one.most for one in self.depths}
        return {**self.centre(), **ends}

    def largest(self) -> dict[str, Any]:
        """Return the sample with the least sparsities, the most bits and all blocks, else the middle of every range."""
        ends = {one.name: one.nearest(0.0) for one in self.sparsities}
        ends |= {one.name: one.most for one in self.bits}
        ends |= {one.name: True if _is_block(one) else one.nearest(0) for one in self.depths}
        return {**self.centre(), **ends}

    @property
    def guided(self) -> tuple[Dimension, ...]:
        """Those that ``guided`` measures and proposes: sparsities, bits of a later stage, and blocks."""
        depths = (one for one in self.depths if one.kind == "int" or _is_block(one))
        return (*self.sparsities, *self.bits, *depths)

    def centre(self) -> dict[str, Any]:
        """Return the sample in the middle of every dimension."""
        return {dimension.name: copy.deepcopy(dimension.centre()) for dimension in self.dimensions}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield every sample of the grid, one at a time; the last dimension changes fastest."""
        return (copy.deepcopy(sample) for sample in grid(self.dimensions))

    @property
    def grid_size(self) -> int:
        """How many samples the grid has; 1 without a dimension. ValueError for a float without interval or n."""
        return math.prod(dimension.grid_size for dimension in self.dimensions)

    def n_samples(self, experiment: Experiment) -> int:
        """Return how many samples the experiment tries.

        One without a dimension and for ``passive``; for ``sequence`` at most the grid.
        """
        if not self.dimensions or experiment.proposer == "passive":
            return 1
        if experiment.proposer != "sequence":
            return experiment.n_samples or 1
        return self.grid_size if experiment.n_samples is None else min(self.grid_size, experiment.n_samples)


def last_stage(built: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of what `SearchSpace.build` returned that the last stage is given, or the only one."""
    last: Mapping[str, Any] = [built, *built.get("stages", ())][-1]
    return last


def _is_block(dimension: Dimension) -> bool:
    """Tell whether a dimension is about one residual block: whether it stays."""
    return dimension.choices is not None and isinstance(dimension.choices[0], bool)


def _depth(depth: Mapping[str, Any] | None, model: ModelInfo | None, names: _Names) -> Config:
    """Return the part of a template for the blocks that may go: a choice for each, or the number of them."""
    if depth is None:
        return {}
    if "drop" in depth:
        number = _with_slots(depth["drop"], "depth.drop", "compression", names)
        known = {"blocks": depth["blocks"]} if model is None else {"order": blocks_of(depth, model, by_influence=True)}
        return {"depth": {"number": number, **known}}
    keep = {"type": "choice", "range": [True, False]}
    named = blocks_of(depth, model)
    return {"depth": {"keep": {name: names.slot(f"{name}.keep", "depth", keep) for name in named}}}


def _stage_template(experiment: Experiment, model: ModelInfo | None, names: _Names) -> Config:
    """Return one stage with a slot in the place of each search range.

    A name that an earlier stage has taken gets the compressor's before it: ``level.conv1.sparsity``.
    """
    compression = experiment.compression
    round_to = round_to_of(compression.entry, compression.arguments)
    is_uniform = compression.arguments.get("uniform") is True
    is_later = bool(experiment.stage)
    entries: list[Config] = []
    for index, asked in enumerate(compression.config_list):
        home = compression.compressor if is_later else f"config_list[{index}]"
        shared = _shared_slots(asked, compression.entry, home, names)
        for entry, prefix in _expanded(compression.config_list, index, model, compression.entry, round_to, is_uniform):
            entries.append(_with_slots({**entry, **shared}, prefix, home, names))
    home = compression.compressor if is_later else "compression"
    arguments = _with_slots(compression.arguments, "arguments", home, names, anything=True)
    return {"config_list": entries, "arguments": arguments}


def _own(entry: Entry, compressor: CompressorEntry) -> Config:
    """Return what an entry says of each layer by itself."""
    return {key: value for key, value in entry.items() if key not in compressor.shared_keys}


def _shared_slots(entry: Entry, compressor: CompressorEntry, home: str, names: _Names) -> Config:
    """Return one slot, for all layers of the entry, in the place of each range that they share."""
    if not any(is_range(entry.get(key)) for key in compressor.shared_keys):
        return {}
    prefix = _group_name(entry)
    return {
        key: names.slot(f"{prefix}.{key}", home, entry[key])
        for key in compressor.shared_keys
        if is_range(entry.get(key))
    }


def _is_searched(entry: Entry) -> bool:
    return any(True for _ in find_ranges(dict(entry)))


def _expanded(
    config_list: Sequence[Entry],
    index: int,
    model: ModelInfo | None,
    compressor: CompressorEntry,
    round_to: int,
    is_uniform: bool,
) -> Iterator[tuple[Config, str]]:
    """Yield the entries that entry `index` stands for, each with the name of its layers.

    Where repeated blocks are to stay alike, layers of one role are in one entry.
    """
    entry = dict(config_list[index])
    expand = entry.pop("expand_op_names", True)
    if not _is_searched(_own(entry, compressor)) or expand is False:
        yield entry, _group_name(entry)
        return
    named: Sequence[str] = entry.get("op_names", ())
    if model is not None:
        layers = [layer.name for layer in ruled(config_list, index, model, compressor, round_to)]
        named = [name for name in named if name in layers] if named else layers
    else:
        named = [name for name in named if not overruled_by_name(config_list, index, name)]
    if expand == "dependency" and model is not None:
        groups = list(dict.fromkeys(tuple(name for name in named if name in model.tie_of(member)) for member in named))
    else:
        groups = [(name,) for name in named]
    for group in _by_role(groups) if is_uniform else groups:
        together = tuple(dict.fromkeys(map(role, group))) if is_uniform else group
        yield {**entry, "op_names": list(group)}, _names_together(together)


def _by_role(groups: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Join groups of layers that have a role in common, in the order of their first layers."""
    joined: list[tuple[str, ...]] = []
    for group in groups:
        roles = set(map(role, group))
        same = [one for one in joined if not roles.isdisjoint(map(role, one))]
        place = joined.index(same[0]) if same else len(joined)
        joined = [one for one in joined if one not in same]
        joined.insert(place, (*(name for one in same for name in one), *group))
    return joined


def _group_name(entry: Entry) -> str:
    if "op_names" in entry:
        return _names_together(entry["op_names"])
    return f"[{','.join(entry.get('op_types', ()))}]"


def _names_together(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"[{','.join(names)}]"


class _Names:
    """Makes the dimensions, each with a name of its own."""

    def __init__(self) -> None:
        self.dimensions: list[Dimension] = []
        self._taken: set[str] = set()

    def slot(self, name: str, home: str, value: Mapping[str, Any]) -> _Slot:
        """Return the slot of a new dimension called `name`; `home` goes before a name that is taken."""
        if name in self._taken:
            name = f"{home}.{name}"
        unique, number = name, 1
        while unique in self._taken:
            number += 1
            unique = f"{name}#{number}"
        self._taken.add(unique)
        self.dimensions.append(Dimension.of(unique, value))
        return _Slot(self.dimensions[-1])


def _with_slots(
    value: Any, prefix: str, home: str, names: _Names, *, anything: bool = False, path: JsonPath = ()
) -> Any:
    """Copy `value` with a slot in the place of each search range."""
    if is_range(value, anything=anything):
        return names.slot(dotted((prefix, *path)), home, value)
    if isinstance(value, Mapping):
        return {
            key: _with_slots(inner, prefix, home, names, anything=anything, path=(*path, key))
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [
            _with_slots(inner, prefix, home, names, anything=anything, path=(*path, index))
            for index, inner in enumerate(value)
        ]
    return value


def _filled(template: Any, sample: Mapping[str, Any]) -> Any:
    """Copy a template with each slot's value in its place."""
    if isinstance(template, _Slot):
        dimension = template.dimension
        return copy.deepcopy(dimension.plain(sample[dimension.name]))
    if isinstance(template, dict):
        return {key: _filled(inner, sample) for key, inner in template.items()}
    if isinstance(template, list):
        return [_filled(inner, sample) for inner in template]
    return template
