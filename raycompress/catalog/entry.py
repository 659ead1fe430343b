"""What the catalogue says of one compressor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

WEIGHTED_TYPES = (
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Linear",
    "Bilinear",
    "PReLU",
    "Embedding",
    "EmbeddingBag",
)
"""What ``"op_types": ["default"]`` stands for where a compressor names no layer types of its own (NNI's list)."""


@dataclass(frozen=True)
class Argument:
    """One argument of a compressor: a keyword of ``create_compressor``, or a key of ``compression.arguments``.

    Attributes
    ----------
    name, default
        The keyword and the value that it has when left out.
    summary
        What it does, in a line.
    from_script
        True for what only a script can pass (functions, optimizers, tensors): JSON cannot hold it.
    required
        True where the compressor cannot work without it; `default` then has no meaning.
    """

    name: str
    default: Any
    summary: str
    from_script: bool = False
    required: bool = False


@dataclass(frozen=True)
class CompressorEntry:
    """One compressor.

    Attributes
    ----------
    name, framework, kind
        The name in an experiment file; ``torch`` or ``tensorflow``; ``pruning`` or ``quantization``.
    engine
        ``module:name`` of the adapter that computes its masks, or that quantizes.
    summary
        What it does, in a line.
    arguments
        What it takes beside the model, the config and ``dummy_input``.
    layer_types
        Class names of the layers that it works on; empty for any layer with a weight.
    removes_channels
        Whether whole channels go, so that ``apply_speedup`` can shrink the model.
    paper
        Where the method comes from.
    compressor
        ``module:name`` of the class that the script holds.
    keys
        What an entry of its config_list may hold beside the choice of layers.
    needs
        Those of `keys` that an entry must hold; a tuple inside stands for "one of these".
    acts
        When it compresses: ``in compress()``, ``while the script trains`` ...
    base
        The argument that names another compressor's method which it runs inside; `given` follows it.
    returns_small
        Whether ``compress()`` itself hands back the small model.
    per_layer
        Whether each layer loses the share that its entry says, not all layers of an entry together.
    instead
        Name of the compressor to recommend for layers that it does not take.
    without_entries
        What an empty config_list asks for; empty where it asks for nothing.
    shared_keys
        Those of `keys` that have one value for all layers together.
    spares_outputs
        Whether layers that make the model's outputs keep their channels, where an entry matches them among others.
    """

    name: str
    framework: str
    kind: str
    engine: str
    summary: str
    arguments: tuple[Argument, ...]
    layer_types: tuple[str, ...]
    removes_channels: bool
    paper: str
    compressor: str = "raycompress.compressors.pruning.pruner:Pruner"
    keys: tuple[str, ...] = ("sparsity",)
    needs: tuple[str | tuple[str, ...], ...] = ("sparsity",)
    acts: str = "in compress()"
    base: str = ""
    returns_small: bool = False
    per_layer: bool = True
    instead: str = ""
    without_entries: tuple[Mapping[str, Any], ...] = ()
    shared_keys: tuple[str, ...] = ()
    spares_outputs: bool = False

    def argument(self, name: str) -> Argument | None:
        """Return the argument called `name`, or None."""
        return next((argument for argument in self.arguments if argument.name == name), None)

    def given(self, arguments: Mapping[str, Any]) -> CompressorEntry:
        """Return the entry as it is with these arguments: with a base of ``level`` single weights go, of any layer."""
        base = self.argument(self.base)
        if base is None:
            return self
        name = arguments.get(self.base, base.default)
        if name == "level":
            return replace(self, layer_types=(), removes_channels=False)
        types = ("BatchNorm2d",) if name == "slim" else ("Conv2d",)
        return replace(self, layer_types=types, removes_channels=True)
