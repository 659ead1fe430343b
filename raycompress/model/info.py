"""What is known of the user's model without loading it: its layers, their sizes, and which channels are tied.

Written by the inspection of the script (`raycompress.compressors.structure.inspection`), read by the search space and
by preflight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from raycompress.catalog import EXPERTS
from raycompress.model.costs import CostModel
from raycompress.model.file_bytes import FileBytes
from raycompress.model.latency_model import LatencyModel, LatencyPredictor, latency_predictor

UNUSED = "it takes no part in the forward pass"
"""Why a layer that no input reaches can lose no channel; nor can its values be quantized."""

COMPUTED = "its weight is computed"
"""How the reason of a layer begins that weight_norm and the like give a weight: it has none of its own to prune."""


@dataclass(frozen=True)
class Layer:
    """One layer: with parameters of its own, or with none and no layers inside, such as an activation.

    Attributes
    ----------
    name, type
        As in ``model.named_modules()`` and the class name, e.g. ``layer1.0.conv2``, ``Conv2d``.
    channels
        Output channels (features), what a filter pruner removes; 0 where the layer has none.
    parameters
        Number of parameters.
    flops
        Multiply-adds of one forward pass on the first batch's shape with batch size 1; None when no input was seen.
    weight_shape
        Shape of ``weight``; empty where there is none.
    base
        Name of torch's class that its class is derived from, such as ``Linear`` of a LoRA layer; empty for torch's own.
    is_computed
        Whether its weight is computed from others, as by weight_norm.
    """

    name: str
    type: str
    channels: int
    parameters: int
    flops: int | None
    weight_shape: tuple[int, ...]
    base: str = ""
    is_computed: bool = False

    @property
    def types(self) -> tuple[str, ...]:
        """The types that ``op_types`` can name it by: its class, or what stands for classes of any name."""
        return (self.type, self.base) if self.base == EXPERTS and self.type != EXPERTS else (self.type,)


@dataclass(frozen=True)
class BlockInfo:
    """One residual block: a module that computes x + f(x), and can be dropped.

    Attributes
    ----------
    name, type
        As in `Layer`, e.g. ``layer1.1``, ``BasicBlock``.
    influence
        How much it changes what passes through it, from 0 on; see
        `raycompress.compressors.depth.influence.block_influence`. None where that was not asked for.
    why_not
        Why the model does not work without it; empty where it does.
    """

    name: str
    type: str
    influence: float | None = None
    why_not: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """The layers of a model, in the order of ``named_modules()``.

    Attributes
    ----------
    ties
        Sets of layers whose output channels must be removed together (residual additions); singletons left out.
        None when the model saw no input, so that ties are not known.
    output_layers
        Layers whose output channels are the model's outputs: pruning them would change what the model answers.
    whole_layers
        Convolution or linear layer that can lose no channel -> why: it makes the outputs, meets an operation that fixes
        the number, or takes no part in the forward pass.
    parameters, flops, size_bytes
        Of the whole model; flops None as in `Layer`.
    input_shapes
        Shapes of the inputs that were seen, batch dimension first; None when there were none.
    costs
        The sizes as a function of the removed channels, where that was asked for and can be predicted.
    costs_unknown
        Why it cannot; empty where it can, or was not asked for.
    latency
        What predicts the latency of a narrow one, where that was asked for: the times of its layers at several widths,
        or, for a deployment target, those of whole networks.
    latency_in
        The same for further deployment targets, and eager torch beside them: name -> what predicts the latency there.
    blocks
        The residual blocks, where they were asked for.
    dense_ms
        Deployment target -> milliseconds of a pass of this model there, where its latency counts and is not predicted.
    latency_unknown
        Why it cannot be predicted; empty where it can, or was not asked for.
    file_bytes
        What predicts the size of the file that a last stage makes, which quantizes; None where there is none, or
        nobody asked.
    file_bytes_unknown
        Why it cannot be predicted; empty where it can, or was not asked for.
    weights
        Tells one state of the weights from another, where that was asked for.
    has_evaluator
        Whether the script passes ``evaluator=`` to create_compressor.
    round_to
        What the number of channels that stay is a multiple of, as the search has chosen for its deployment targets;
        None where it has not.
    script_round_to
        The same as the script passes it to create_compressor, where it does.
    """

    layers: tuple[Layer, ...]
    ties: tuple[tuple[str, ...], ...] | None
    output_layers: tuple[str, ...]
    parameters: int
    flops: int | None
    size_bytes: int
    input_shapes: tuple[tuple[int, ...], ...] | None
    costs: CostModel | None = None
    costs_unknown: str = ""
    latency: LatencyPredictor | None = None
    latency_unknown: str = ""
    weights: str = ""
    has_evaluator: bool = False
    whole_layers: Mapping[str, str] = field(default_factory=dict)
    latency_in: Mapping[str, LatencyPredictor] = field(default_factory=dict)
    dense_ms: Mapping[str, float] = field(default_factory=dict)
    blocks: tuple[BlockInfo, ...] = ()
    file_bytes: FileBytes | None = None
    file_bytes_unknown: str = ""
    round_to: int | None = None
    script_round_to: int | None = None

    @property
    def latency_models(self) -> list[LatencyModel]:
        """What predicts latencies in deployment targets, fitted to networks that were timed there."""
        return [one for one in (self.latency, *self.latency_in.values()) if isinstance(one, LatencyModel)]

    def layer(self, name: str) -> Layer | None:
        """Return the layer called `name`, or None."""
        return next((layer for layer in self.layers if layer.name == name), None)

    def tie_of(self, name: str) -> tuple[str, ...]:
        """Return all layers tied to `name`, itself included."""
        return next((tie for tie in self.ties or () if name in tie), (name,))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        parts = {
            name: None if (part := getattr(self, name)) is None else part.to_json()
            for name in ("costs", "latency", "file_bytes")
        }
        there = {name: one.to_json() for name, one in self.latency_in.items()}
        return {**asdict(self), **parts, "latency_in": there}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelInfo:
        """Rebuild what `to_json` returned."""

        def shapes(values: Sequence[Sequence[int]] | None) -> tuple[tuple[int, ...], ...] | None:
            return None if values is None else tuple(tuple(value) for value in values)

        layers = (Layer(**{**layer, "weight_shape": tuple(layer["weight_shape"])}) for layer in data["layers"])
        ties = data["ties"]
        return cls(
            layers=tuple(layers),
            ties=None if ties is None else tuple(tuple(tie) for tie in ties),
            output_layers=tuple(data["output_layers"]),
            parameters=data["parameters"],
            flops=data["flops"],
            size_bytes=data["size_bytes"],
            input_shapes=shapes(data["input_shapes"]),
            costs=None if data.get("costs") is None else CostModel.from_json(data["costs"]),
            costs_unknown=data.get("costs_unknown", ""),
            latency=None if data.get("latency") is None else latency_predictor(data["latency"]),
            latency_unknown=data.get("latency_unknown", ""),
            weights=data.get("weights", ""),
            has_evaluator=data.get("has_evaluator", False),
            whole_layers=dict(data.get("whole_layers", {})),
            latency_in={name: latency_predictor(one) for name, one in data.get("latency_in", {}).items()},
            dense_ms=dict(data.get("dense_ms", {})),
            blocks=tuple(BlockInfo(**block) for block in data.get("blocks", ())),
            file_bytes=None if data.get("file_bytes") is None else FileBytes.from_json(data["file_bytes"]),
            file_bytes_unknown=data.get("file_bytes_unknown", ""),
            round_to=data.get("round_to"),
            script_round_to=data.get("script_round_to"),
        )
