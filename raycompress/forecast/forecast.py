"""Computes the sizes of a proposal from the experiment file and the model's cost model; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycompress.catalog import CompressorEntry
from raycompress.catalog.stages import quantizes_trained
from raycompress.config.experiment import Experiment
from raycompress.config.matching import ruled
from raycompress.config.search_space import last_stage
from raycompress.model.costs import CostModel
from raycompress.model.file_bytes import FLOAT_BITS, Stored, StoredLayer
from raycompress.model.groups import ChannelGroup, is_inside
from raycompress.model.info import ModelInfo
from raycompress.model.latency_model import LatencyModel, LatencyPredictor
from raycompress.model.latency_table import LATENCY
from raycompress.model.measures import at
from raycompress.text import join_names

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Forecast:
    """Computes the sizes of the model that a config describes.

    Parameters
    ----------
    model, costs
        The layers of the user's model, and what its groups of channels cost.
    compressor
        The catalogue's entry, with the experiment's arguments.
    quantizer
        The entry of a last stage that quantizes what is left: its latency is not known then, and its bytes are where
        `ModelInfo.file_bytes` predicts them.
    """

    model: ModelInfo
    costs: CostModel
    compressor: CompressorEntry
    quantizer: CompressorEntry | None = None
    _known: dict[Any, list[list[str]]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, experiment: Experiment, model: ModelInfo, costs: CostModel) -> Forecast:
        """Return the forecast for the proposals of an experiment."""
        quantizer = experiment.stages[-1].entry if experiment.ends_quantized else None
        return cls(model, costs, experiment.compression.entry, quantizer)

    def sizes(self, config: Config) -> dict[str, float]:
        """Return ``params``, ``flops`` and ``size_bytes`` of the model that `config` asks for.

        ``latency_ms`` is there too where the model's latency is known; it is nearly right, the others exactly. Of a
        model that is made for a deployment target ``size_bytes`` are those of the deployed file, nearly right too; so
        are those of a file that a last stage quantizes, with ``bit_operations`` beside them.
        ``latency_ms@NAME`` and ``size_bytes@NAME`` are those in each target whose latency is known.

        Parameters
        ----------
        config
            ``config_list`` and ``arguments``, concrete; see `SearchSpace.build`.
        """
        removed, dropped = self.removed(config), _dropped(config)
        sizes = self.costs.sizes(removed, dropped)
        if self.quantizer is not None:
            return self._quantized(sizes, removed, dropped, config)
        return self._deployed(sizes, removed, dropped)

    @property
    def dense(self) -> dict[str, float]:
        """The sizes of the dense model, in float."""
        if self.quantizer is None:
            return self._deployed(self.costs.dense, [0] * len(self.costs.groups), ())
        return self.costs.dense if self.predicts_file else _without_bytes(self.costs.dense)

    @property
    def predicts_file(self) -> bool:
        """Whether the bytes of the file are known that a last stage makes, nearly."""
        return self.quantizer is not None and self.model.file_bytes is not None

    def bits(self, config: Config) -> dict[str, int]:
        """Return the bits of each layer that the last stage quantizes, or leaves float; not of dropped blocks."""
        if self.quantizer is None or not quantizes_trained(self.quantizer):
            return {}
        config_list, dropped = last_stage(config)["config_list"], _dropped(config)
        return {
            name: int(entry.get("quant_bits", 8))
            for entry, layers in zip(config_list, self._ruled(config_list, self.quantizer), strict=True)
            if not entry.get("exclude", False)
            for name in layers
            if not is_inside(name, dropped)
        }

    def _quantized(
        self, sizes: dict[str, float], removed: Sequence[int], dropped: Sequence[str], config: Config
    ) -> dict[str, float]:
        """Put the bytes of the quantized file in the place of the weights', where they are predicted."""
        known = self.model.file_bytes
        if known is None:
            return _without_bytes(sizes)
        widths = {layer.name: layer.at(removed) for layer in self.costs.widths}
        stored = Stored(sizes["size_bytes"], widths, self.bits(config), dropped)
        operations = self._bit_operations(sizes["flops"], known.layers, stored)
        return {**sizes, "size_bytes": known.predict(stored), "bit_operations": operations}

    def _bit_operations(self, flops: float, layers: Sequence[StoredLayer], stored: Stored) -> float:
        """Return the multiply-adds, each times the bits of its weight and of its activation.

        Activations are float but where a layer has 8 bits; what no layer's weight takes part in counts as float.

        Parameters
        ----------
        flops
            Of the whole pruned model.
        """
        dense = {layer.name: layer.flops or 0 for layer in self.model.layers}
        saved = 0.0
        for layer in layers:
            bits = stored.bits.get(layer.name, FLOAT_BITS)  # a layer of a dropped block has none
            activation = bits if bits == 8 else FLOAT_BITS
            saved += dense[layer.name] * layer.share(stored.widths) * (FLOAT_BITS**2 - bits * activation)
        return flops * FLOAT_BITS**2 - saved

    def kept_blocks(self, config: Config) -> list[bool]:
        """Return of each residual block of `costs` whether it stays."""
        dropped = _dropped(config)
        return [block.name not in dropped for block in self.costs.blocks]

    def _deployed(self, sizes: dict[str, float], removed: Sequence[int], dropped: Sequence[str]) -> dict[str, float]:
        """Add the latencies that are known, and put the bytes of the deployed file in the place of the weights'."""
        first, widths = self.model.latency, {layer.name: layer.at(removed) for layer in self.costs.widths}
        if dropped:
            widths |= {layer.name: (0, 0) for layer in self.model.layers if is_inside(layer.name, dropped)}
        found = dict(sizes)
        named: dict[str, LatencyPredictor] = dict(self.model.latency_in)
        if isinstance(first, LatencyModel):
            named[first.target] = first
        for name, known in named.items():
            found[at(LATENCY, name)] = known.predict(widths)
            found[at("size_bytes", name)] = known.file_bytes(sizes["size_bytes"])
        if first is not None:
            found |= {"size_bytes": first.file_bytes(sizes["size_bytes"]), LATENCY: first.predict(widths)}
        return found

    def removed(self, config: Config) -> list[int]:
        """Return how many blocks go of each group of `costs`."""
        sparsities = self.sparsities(config["config_list"])
        arguments = config["arguments"]
        argument, given = self.compressor.argument("round_to"), self.model.script_round_to
        default = 1 if argument is None else argument.default if given is None else given
        round_to = 1 if argument is None else int(arguments.get("round_to", default))
        dropped = _dropped(config)
        return [self._of_group(group, sparsities, round_to, dropped) for group in self.costs.groups]

    def sparsities(self, config_list: Sequence[Config]) -> dict[str, float]:
        """Return the sparsity of each layer; layers that no entry names are left out."""
        asked = {}
        for entry, layers in zip(config_list, self._ruled(config_list, self.compressor), strict=True):
            if not entry.get("exclude", False):
                sparsity = float(entry.get("sparsity", entry.get("final_sparsity", 0.0)))
                asked.update(dict.fromkeys(layers, sparsity))
        return asked

    def _ruled(self, config_list: Sequence[Config], compressor: CompressorEntry) -> list[list[str]]:
        """Return the layers that each entry rules; cached, since all samples of a search name the same layers."""
        named = tuple((tuple(one.get("op_names", ())), tuple(one.get("op_types", ()))) for one in config_list)
        key = compressor.name, named
        if key not in self._known:
            self._known[key] = [
                [layer.name for layer in ruled(config_list, index, self.model, compressor)]
                for index in range(len(config_list))
            ]
        return self._known[key]

    def _of_group(
        self, group: ChannelGroup, sparsities: Mapping[str, float], round_to: int, dropped: Sequence[str]
    ) -> int:
        """Return how many blocks of a group go: as many as the layer that is asked for least allows, of those left."""
        members = [name for name in _deciding(self.compressor, group) if not is_inside(name, dropped)]
        if not members or any(name not in sparsities for name in members):
            return 0
        return group.removable(min(sparsities[name] for name in members), round_to)


def why_not(experiment: Experiment, model: ModelInfo, costs: CostModel) -> str:
    """Return why the sizes of a proposal cannot be computed before it is trained; empty where they can."""
    compression = experiment.compression
    entry = compression.entry
    if experiment.quantizer is not None and not experiment.later:
        return ""
    if not entry.removes_channels:
        return f"{entry.name} removes no channels, so that no size falls"
    across = [name for name in ("global", "isomorphic") if compression.arguments.get(name)]
    if across or not entry.per_layer:
        how = f'with "{across[0]}" ' if across else ""
        return f"{entry.name} {how}itself decides how much goes from which layer"
    if entry.takes_groups or compression.arguments.get("dependency_aware"):
        return ""
    forecast = Forecast.of(experiment, model, costs)
    named = forecast.sparsities([{**one, "sparsity": 0.5} for one in compression.config_list])
    for group in costs.groups:
        tied = _deciding(entry, group)
        if len(tied) > 1 and all(name in named for name in tied):
            instead = f', or the compressor "{entry.instead}"' if entry.instead else ""
            return (
                f"the channels of {join_names(tied)} are tied, and {entry.name} chooses those of each layer by "
                f'themselves, so that only those go which all of them choose; use "dependency_aware": true{instead}'
            )
    return ""


def _without_bytes(sizes: Mapping[str, float]) -> dict[str, float]:
    return {metric: size for metric, size in sizes.items() if metric != "size_bytes"}


def _dropped(config: Config) -> Sequence[str]:
    """Return the names of the residual blocks that a config drops."""
    dropped: Sequence[str] = config.get("depth", {}).get("drop", ())
    return dropped


def _deciding(entry: CompressorEntry, group: ChannelGroup) -> tuple[str, ...]:
    """Return the layers of a group that a config_list for `entry` has to name."""
    return group.norms if entry.layer_types and "BatchNorm2d" in entry.layer_types else group.layers
