"""Checks of an experiment's config_list against the layers of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from raycompress.catalog.quantizers import ACTIVATIONS
from raycompress.catalog.rounding import removable
from raycompress.config.checks.layer_advice import LayerAdvice, quoted
from raycompress.config.experiment import Experiment
from raycompress.config.matching import is_narrow, matches, round_to_of, ruled, spared, types_of
from raycompress.config.schema.ranges import is_range
from raycompress.config.text.reader import JsonPath
from raycompress.errors import Problem
from raycompress.model.info import COMPUTED, UNUSED, Layer, ModelInfo
from raycompress.text import join_names

_OTHERS = "take another compressor; `raycompress compressors` lists them"


def check_fit(experiment: Experiment, model: ModelInfo) -> Iterator[Problem]:
    """Yield what is wrong between the experiment and the model, entry by entry."""
    for index in range(len(experiment.compression.config_list)):
        yield from _Fit(experiment, model, index).problems()


def notes_on_fit(experiment: Experiment, model: ModelInfo) -> Iterator[str]:
    """Yield notes on what is not wrong and worth knowing."""
    for index in range(len(experiment.compression.config_list)):
        yield from _Fit(experiment, model, index).notes()
    yield from _notes_on_ties(experiment, model)


class _Fit:
    """Checks one entry of config_list against the model."""

    def __init__(self, experiment: Experiment, model: ModelInfo, index: int) -> None:
        compression = experiment.compression
        self.experiment = experiment
        self.model = model
        self.index = index
        self.entries = compression.config_list
        self.entry = self.entries[index]
        self.compressor = compression.entry
        self.round_to = round_to_of(self.compressor, compression.arguments)
        self.rules = ruled(self.entries, index, model, self.compressor, self.round_to)
        self.spared = spared(self.entries, model, self.compressor, self.round_to)
        self.is_excluded = "exclude" in self.entry
        across = any(compression.arguments.get(name, False) for name in ("global", "isomorphic"))
        self.is_per_layer = self.compressor.removes_channels and self.compressor.per_layer and not across
        self.advice = LayerAdvice(experiment, model, index)

    def where(self, *path: str | int) -> str:
        return self.experiment.where(self._path(*path))

    def _path(self, *path: str | int) -> JsonPath:
        return ("compression", "config_list", self.index, *path)

    def problems(self) -> Iterator[Problem]:
        yield from self._unknown_names()
        yield from self._unknown_types()
        yield from self._matches_nothing()
        if self.is_excluded:
            return
        yield from self._unfit_types()
        if "quant_types" in self.compressor.keys:
            yield from self._unused_layers()
        if self.compressor.removes_channels:
            yield from self._output_layers()
            yield from self._whole_layers()
            yield from self._half_ties()
            yield from self._too_few()
        elif self.compressor.refuses_computed:
            yield from self._computed_layers()
        if self.is_per_layer:
            yield from self._too_little()
        if self.entry.get("expand_op_names") == "dependency" and self.model.ties is None:
            fix = "let the script call its model once on an input, or write true or false"
            yield Problem("which layers are tied is not known", self.where("expand_op_names"), fix)

    def notes(self) -> Iterator[str]:
        present = {kind for layer in self.model.layers for kind in layer.types}
        absent = [kind for kind in self.entry.get("op_types", ()) if kind not in present and self._is_spare(kind)]
        if absent:
            types = join_names(absent)
            yield f"{self.where('op_types')}: the model has no layer of type {types}, whose outputs stay float"
        whole = [name for index, name in self.spared if index == self.index]
        for why, layers in self._reasons(whole).items() if self.rules else ():
            yield f'{self.where("op_types")}: "default" leaves out {join_names(quoted(layers))}: {why}'
        matched = [layer for layer in self.model.layers if matches(self.entry, layer, self.compressor)]
        if matched and not self.rules and not whole:  # a default for a type that every layer has an exception from
            yield f"{self.where()}: the entry does nothing, since {self._overruled_by(matched[0])}"
        sparsity = self.entry.get("sparsity")
        if self.is_excluded or not self.is_per_layer or not is_range(sparsity):
            return
        low = _lowest(sparsity)
        small = [
            layer
            for layer in self.rules
            if layer.channels and low > 0 and not removable(layer.channels, low, self.round_to)
        ]
        if small:
            names = join_names(f"{layer.name} ({layer.channels} channels)" for layer in small)
            yield f"{self.where('sparsity')}: at {low:g}, the low end, nothing is removed from {names}"

    def _unknown_names(self) -> Iterator[Problem]:
        layers = {layer.name: layer for layer in self.model.layers}
        for position, name in enumerate(self.entry.get("op_names", ())):
            if name in layers:
                continue
            where = self.where("op_names", position)
            inside = [layer for layer in layers if layer.startswith(f"{name}.")]
            if inside:
                fit = self.advice.choices(name)
                fix = f"name the layers in it: {join_names(fit)}" if fit else self.advice.name_meant(name)
                yield Problem(f'"{name}" is no layer but holds {len(inside)}', where, fix)
                continue
            yield Problem(f'the model has no layer "{name}"', where, self.advice.name_meant(name))

    def _works_on(self, layer: Layer) -> bool:
        return self.advice.works_on(layer)

    def _unknown_types(self) -> Iterator[Problem]:
        present = {kind for layer in self.model.layers if self.advice.has_matter(layer) for kind in layer.types}
        for position, kind in enumerate(self.entry.get("op_types", ())):
            if kind != "default" and kind not in present and not self._is_spare(kind):
                what = f'the model has no layer of type "{kind}"'
                yield Problem(what, self.where("op_types", position), self.advice.type_meant(kind))

    def _is_spare(self, kind: str) -> bool:
        """Whether activations of a type that the model has no layer of may be named, since others are quantized."""
        if self.compressor.kind != "quantization" or kind not in ACTIVATIONS:
            return False
        return any(self._is_compressed(layer.name) for layer in self.model.layers)

    def _matches_nothing(self) -> Iterator[Problem]:
        known = {layer.name for layer in self.model.layers}
        types = {kind for layer in self.model.layers for kind in layer.types}
        wrong = [name for name in self.entry.get("op_names", ()) if name not in known]
        wrong += [kind for kind in self.entry.get("op_types", ()) if kind != "default" and kind not in types]
        matched = [layer for layer in self.model.layers if matches(self.entry, layer, self.compressor)]
        if not matched and not wrong:  # what is wrong by itself was told
            kinds = types_of(self.entry, self.compressor) or ()
            fix = (
                f"none of the layers named is of type {join_names(kinds)}"
                if "op_names" in self.entry
                else self.advice.without([]) or _OTHERS
            )
            yield Problem("the entry matches no layer", self.where(), fix)
        elif matched and not self.rules and "op_names" in self.entry:
            what = f"the entry does nothing: {self._overruled_by(matched[0])}"
            yield Problem(what, self.where(), "remove it, or put it after them")
        else:
            yield from self._overlaps()

    def _overruled_by(self, layer: Layer) -> str:
        by = next(
            position
            for position in range(len(self.entries) - 1, self.index, -1)
            if matches(self.entries[position], layer, self.compressor)
        )
        return f"later entries, such as config_list[{by}], take all its layers"

    def _overlaps(self) -> Iterator[Problem]:
        """A layer named by two entries that both compress it: only one of them can be meant."""
        if self.is_excluded:
            return
        for position, name in enumerate(self.entry.get("op_names", ())):
            layer = self.model.layer(name)
            if layer is None or not matches(self.entry, layer, self.compressor):
                continue
            for later in range(self.index + 1, len(self.entries)):
                other = self.entries[later]
                if "exclude" in other or not matches(other, layer, self.compressor):
                    continue
                what = f'"{name}" is in config_list[{later}] as well, which rules it'
                yield Problem(what, self.where("op_names", position), "name it in one of the two")
                break

    def _unfit_types(self) -> Iterator[Problem]:
        unfit = [layer for layer in self.rules if not self._works_on(layer)]
        if self.compressor.kind == "pruning":
            unfit += [layer for layer in self.rules if self._works_on(layer) and not layer.weight_shape]
        for kind in dict.fromkeys(layer.type for layer in unfit):
            of_kind = [layer for layer in unfit if layer.type == kind]
            names = [layer.name for layer in of_kind]
            takes = join_names(self.compressor.layer_types) or "layers with a weight"
            what = f"{self.compressor.name} works on {takes}, not on {kind}: {join_names(names)}"
            instead = self.advice.instead(of_kind)
            takes_it = f"{instead} takes {kind}" if instead else ""
            fixes = filter(None, [self.advice.plain(of_kind), self.advice.without(names, kind), takes_it])
            yield Problem(what, self._where_of(kind, names), "; ".join(fixes) or _OTHERS)

    def _where_of(self, kind: str, names: Sequence[str]) -> str:
        for key, wanted in (("op_names", names), ("op_types", [kind])):
            for position, name in enumerate(self.entry.get(key, ())):
                if name in wanted:
                    return self.where(key, position)
        return self.where()

    def _output_layers(self) -> Iterator[Problem]:
        names = [layer.name for layer in self.rules if layer.name in self.model.output_layers and self._works_on(layer)]
        if names and not (self.compressor.spares_outputs and self._others()):
            what = f"{join_names(quoted(names))} makes the model's outputs: with channels removed it would answer less"
            kind = next(layer.type for layer in self.rules if layer.name == names[0])
            yield Problem(what, self._where_of(kind, names), self.advice.without(names) or _OTHERS)

    def _whole_layers(self) -> Iterator[Problem]:
        """Layers named that can lose no channel for other reasons than that they make the outputs."""
        of_outputs = self.model.output_layers
        names = [layer.name for layer in self.rules if layer.name in self.model.whole_layers and self._works_on(layer)]
        if not (self.compressor.spares_outputs and self._others()):
            yield from self._refused([name for name in names if name not in of_outputs], "can lose no channel")

    def _computed_layers(self) -> Iterator[Problem]:
        """Layers named that have no weights of their own."""
        names = [layer.name for layer in self.rules if layer.is_computed and self._works_on(layer)]
        yield from self._refused(names, "cannot be compressed")

    def _refused(self, names: Iterable[str], so: str) -> Iterator[Problem]:
        for why, others in self._reasons(names).items():
            what = f"{join_names(quoted(others))} {so}: {why}"
            kind = next(layer.type for layer in self.rules if layer.name == others[0])
            yield Problem(what, self._where_of(kind, others), self.advice.without(others) or _OTHERS)

    def _unused_layers(self) -> Iterator[Problem]:
        """Layers whose values are to be quantized, and that no input reaches."""
        names = [layer.name for layer in self.rules if self.model.whole_layers.get(layer.name) == UNUSED]
        if names:
            what = f"{join_names(quoted(names))} takes no part in the forward pass: there are no values to quantize"
            kind = next(layer.type for layer in self.rules if layer.name == names[0])
            yield Problem(what, self._where_of(kind, names), self.advice.without(names) or _OTHERS)

    def _reasons(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return why layers keep all their channels -> the layers."""
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(self._reason(name), []).append(name)
        return found

    def _reason(self, name: str) -> str:
        if name in self.model.whole_layers:
            return self.model.whole_layers[name]
        layer = self.model.layer(name)
        if layer is not None and layer.is_computed:
            return COMPUTED
        if name not in self.model.output_layers and self._is_narrow(name):
            return f"what stays is a multiple of round_to, {self.round_to}"
        if name not in self.model.output_layers:
            return f"it is tied to layers of a type that {self.compressor.name} does not take"
        return "it makes outputs of the model"

    def _is_narrow(self, name: str) -> bool:
        layer = self.model.layer(name)
        return layer is not None and is_narrow(layer, self.round_to)

    def _others(self) -> bool:
        """Whether any entry compresses a layer that makes no outputs."""
        inner = (layer for layer in self.model.layers if layer.name not in self.model.output_layers)
        return any(self._works_on(layer) and self._is_compressed(layer.name) for layer in inner)

    def _half_ties(self) -> Iterator[Problem]:
        """Tied layers of which a part is compressed: no channel could be removed from them."""
        done: set[str] = set()
        for layer in self.rules:
            tie = self.model.tie_of(layer.name)
            rest = [name for name in tie if not self._is_compressed(name) and not self._is_narrow(name)]
            if layer.name in done or not rest or not self._works_on(layer):
                continue
            done.update(tie)
            part = [name for name in tie if name not in rest]
            what = (
                f"the channels of {join_names(quoted(part))} are tied to those of {join_names(quoted(rest))}, "
                "which keep theirs: nothing could be removed"
            )
            yield Problem(what, self._where_of(layer.type, part), self._of_half_tie(part, rest))

    def _of_half_tie(self, part: Sequence[str], rest: Sequence[str]) -> str:
        """Return what to do about tied layers of which only `part` is compressed."""
        others = [layer for layer in map(self.model.layer, rest) if layer is not None]
        leave_out = self.advice.without(part)
        if any(layer.name in self.model.output_layers for layer in others):
            return leave_out or _OTHERS
        unfit = [layer for layer in others if not (self._works_on(layer) and layer.weight_shape)]
        if not unfit:
            together = f"name all of them in one entry, {self.advice.together([*part, *rest])}"
            return ", or ".join(filter(None, (together, leave_out)))
        instead = self.advice.instead([*others, *filter(None, map(self.model.layer, part))])
        plain = self.advice.plain(unfit)
        fixes = [plain, instead and f"{instead} takes them together", leave_out]
        return f"{self.compressor.name} takes no {unfit[0].type}: " + ("; or ".join(filter(None, fixes)) or _OTHERS)

    def _is_compressed(self, name: str) -> bool:
        layer = self.model.layer(name)
        if any(name == whole for _, whole in self.spared):
            return False
        ruling = [entry for entry in self.entries if layer and matches(entry, layer, self.compressor)]
        return bool(ruling) and "exclude" not in ruling[-1]

    def _too_few(self) -> Iterator[Problem]:
        """Layers that can lose nothing at any sparsity, since so many channels have to stay."""
        few = [layer for layer in self.rules if self._works_on(layer) and is_narrow(layer, self.round_to)]
        if few and self.entry.get("sparsity") != 0:
            names = join_names(f"{layer.name} ({layer.channels} channels)" for layer in few)
            what = f"what stays is a multiple of round_to, {self.round_to}, so that nothing can go from {names}"
            fixes = ('write a smaller "round_to" in the arguments', self.advice.without([layer.name for layer in few]))
            yield Problem(what, self.where("sparsity"), ", or ".join(filter(None, fixes)))

    def _too_little(self) -> Iterator[Problem]:
        sparsity = self.entry.get("sparsity")
        if not isinstance(sparsity, (int, float)) or sparsity == 0:
            return
        for layer in self.rules:
            if layer.channels == 0 or 1 < self.round_to >= layer.channels:
                continue  # no channels, or told by _too_few
            if not removable(layer.channels, sparsity, self.round_to):
                share = "is less than one"
                if self.round_to > 1:
                    share = f"rounds to none, as what stays is a multiple of round_to, {self.round_to}"
                what = f"{sparsity:g} of the {layer.channels} channels of {layer.name} {share}: nothing goes"
                least = _least(layer.channels, self.round_to)
                fixes = (self.advice.without([layer.name]), f"write a sparsity of at least {least:g}" if least else "")
                yield Problem(what, self.where("sparsity"), ", or ".join(filter(None, fixes)) or _OTHERS)


def _notes_on_ties(experiment: Experiment, model: ModelInfo) -> Iterator[str]:
    """Tied layers that are compressed by different amounts: as many channels go as the least of them says."""
    compression = experiment.compression
    if not compression.entry.removes_channels:
        return
    amounts: dict[str, Any] = {}
    entries: dict[str, int] = {}
    for index, entry in enumerate(compression.config_list):
        if "exclude" not in entry:
            for layer in ruled(compression.config_list, index, model, compression.entry):
                shared = "sparsity" in compression.entry.shared_keys
                amounts[layer.name] = _amount(entry, index, layer.name, model, shared=shared)
                entries[layer.name] = index
    for tie in model.ties or ():
        together = [name for name in tie if name in amounts]
        if len({amounts[name] for name in together}) > 1:
            where = experiment.where(("compression", "config_list", entries[together[0]]))
            yield (
                f"{where}: the channels of {join_names(quoted(together))} are tied, so that different sparsities "
                'act as one; name them in one entry with "expand_op_names": "dependency"'
            )


def _amount(entry: Mapping[str, Any], index: int, name: str, model: ModelInfo, *, shared: bool) -> Any:
    """Return a key that is the same for layers that are always compressed by the same amount."""
    sparsity = entry.get("sparsity")
    if not is_range(sparsity):
        return sparsity
    expand = False if shared else entry.get("expand_op_names", True)
    if expand == "dependency":
        return (index, model.tie_of(name))
    return (index, name) if expand else (index,)


def _least(channels: int, round_to: int) -> float | None:
    """Return the smallest sparsity, in hundredths, that removes any of so many channels; None where none does."""
    return next((share / 100 for share in range(100) if removable(channels, share / 100, round_to)), None)


def _lowest(value: Any) -> float:
    return float(min(value["range"]))
