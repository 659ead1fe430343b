"""What to do about layers that an entry of config_list names and cannot have: fixes that the checks then accept."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Collection, Iterable, Sequence

from raycompress.catalog import CompressorEntry
from raycompress.catalog.instead import SELECTION, recommended
from raycompress.config.experiment import Experiment
from raycompress.config.matching import matches, round_to_of, ruled
from raycompress.model.info import Layer, ModelInfo
from raycompress.text import closest_name, join_names

PARAMETRIZED = "Parametrized"
"""How torch names the class of a layer with a parametrization: ``ParametrizedConv2d``."""


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern, as of a shell or a regular expression, stands for; none for a plain name."""
    if not set(pattern) & set("*?[^$|+\\"):
        return []
    try:
        expression = re.compile(pattern)
    except re.error:  # as "*" alone
        expression = re.compile(fnmatch.translate(pattern))
    return [name for name in names if fnmatch.fnmatch(name, pattern) or expression.fullmatch(name)]


class LayerAdvice:
    """Makes fixes for the entry `index` of an experiment's config_list."""

    def __init__(self, experiment: Experiment, model: ModelInfo, index: int) -> None:
        compression = experiment.compression
        self._model, self._index = model, index
        self._entries, self._entry = compression.config_list, compression.config_list[index]
        self._compressor: CompressorEntry = compression.entry
        self._arguments = compression.arguments
        self._round_to = round_to_of(self._compressor, compression.arguments)
        self._rules = ruled(self._entries, index, model, self._compressor, self._round_to)

    def works_on(self, layer: Layer) -> bool:
        """Tell whether the compressor takes layers of this type."""
        return self._compressor.takes(layer.type, layer.base)

    def has_matter(self, layer: Layer) -> bool:
        """Tell whether there is anything of the layer to compress: a quantizer takes its outputs as well."""
        return bool(layer.parameters) or self._compressor.kind == "quantization"

    def can_name(self, layer: Layer) -> bool:
        """Tell whether an entry that names this layer alone would be taken."""
        if not self.works_on(layer) or not self.has_matter(layer):
            return False
        if self._compressor.kind == "pruning" and not layer.weight_shape:
            return False
        if self._compressor.refuses_computed and layer.is_computed:
            return False
        is_whole = 1 < self._round_to >= layer.channels > 0  # so that nothing could go from it
        keeps_all = is_whole or layer.name in {*self._model.output_layers, *self._model.whole_layers}
        return not (self._compressor.removes_channels and keeps_all)

    def choices(self, inside: str = "") -> list[str]:
        """Return the layers that an entry can name; those in the block `inside`, if it is given."""
        prefix = f"{inside}." if inside else ""
        return [layer.name for layer in self._model.layers if layer.name.startswith(prefix) and self.can_name(layer)]

    def name_meant(self, name: str) -> str:
        """Return what to write for the unknown layer `name`."""
        choices = self.choices() or [layer.name for layer in self._model.layers]
        free = [one for one in choices if one not in self._entry.get("op_names", ())]
        if found := matching(name, free):
            return f"no patterns are read: write {', '.join(map(json.dumps, found))} in its place"
        meant = next((one for one in free if f".{name}".endswith(f".{one}")), None) or closest_name(name, free)
        return (f'did you mean "{meant}"? ' if meant else "") + f"the layers are {join_names(choices, 12)}"

    def type_meant(self, kind: str) -> str:
        """Return what to write for the unknown type `kind`, whose module may stand before it."""
        kind = kind.rpartition(".")[2]
        known = {layer.type: None for layer in self._model.layers if self.has_matter(layer)}
        types = list(dict.fromkeys(layer.type for layer in self._model.layers if self.can_name(layer))) or list(known)
        free = [one for one in types if one not in self._entry.get("op_types", ())]
        meant = closest_name(kind, free)
        return (f'did you mean "{meant}"? ' if meant else "") + f"the types are {join_names(types, 12)}"

    def without(self, names: Sequence[str], kind: str = "") -> str:
        """Return how to leave layers out of the entry, or what else to name; empty where nothing else can be."""
        named, types = list(self._entry.get("op_names", ())), list(self._entry.get("op_types", ()))
        left = [layer for layer in self._rules if layer.name not in names]
        if not left:
            return self._others(names)
        if set(names) <= set(named):
            return f"remove {join_names(quoted(names))} from op_names"
        if kind in types:
            return f'remove "{kind}" from op_types'
        return f"add an entry after it: {json.dumps({'exclude': True, 'op_names': list(names)})}"

    def _others(self, names: Collection[str]) -> str:
        """Return what to do with an entry that rules no layers but `names`."""
        free = [name for name in self.choices() if name not in names and not self._is_ruled(name)]
        untied = [name for name in free if len(self._model.tie_of(name)) == 1]
        tied = next((tie for tie in map(self._model.tie_of, free) if set(tie) <= set(free)), ())
        write = f"name other layers, such as {join_names(untied or tied)}" if untied or tied else ""
        is_needed = all("exclude" in entry for place, entry in enumerate(self._entries) if place != self._index)
        return ", or ".join(filter(None, ("" if is_needed else "remove the entry", write)))

    def _is_ruled(self, name: str) -> bool:
        """Tell whether another entry names the layer: two cannot rule it."""
        layer = self._model.layer(name)
        rest = [entry for place, entry in enumerate(self._entries) if place != self._index]
        return layer is not None and any(matches(entry, layer, self._compressor) for entry in rest)

    def together(self, tie: Sequence[str]) -> str:
        """Return the entry that names layers whose channels are tied."""
        settings = {key: value for key, value in self._entry.items() if key not in SELECTION}
        return json.dumps({"op_names": list(tie), "expand_op_names": "dependency", **settings})

    def instead(self, layers: Iterable[Layer]) -> str:
        """Return the name of a compressor that takes these layers, with what changes for it; empty for none."""
        types = {layer.type for layer in layers if layer.weight_shape and layer.name not in self._model.output_layers}
        return recommended(self._compressor, types, self._entry, self._arguments) if types else ""

    def plain(self, layers: Sequence[Layer]) -> str:
        """Return how to make parametrized layers plain ones, where the compressor then takes them."""
        plain_type = layers[0].type.removeprefix(PARAMETRIZED)
        takes = self._compressor.layer_types
        if plain_type == layers[0].type or (takes and plain_type not in takes):
            return ""
        call = f'torch.nn.utils.parametrize.remove_parametrizations(model.{layers[0].name}, "weight")'
        return f"{call} before create_compressor makes it a plain {plain_type}"


def quoted(names: Iterable[str]) -> list[str]:
    """Return `names`, each in quotes."""
    return [f'"{name}"' for name in names]
