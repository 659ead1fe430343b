"""What the catalogue says of one compressor."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raycompress.catalog.plugins import Plugin, checked_arguments
from raycompress.errors import PluginError

WEIGHTED_TYPES = (
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Linear",
    "Conv1D",
    "Bilinear",
    "PReLU",
    "Embedding",
    "EmbeddingBag",
)
"""What ``"op_types": ["default"]`` stands for where a compressor names no layer types of its own.

NNI's list, and the linear layer of GPT-2, transformers' ``Conv1D``.
"""

EXPERTS = "Experts"
"""The type of whatever holds the weights of all experts of a mixture in one parameter each; its class has any name."""

FRAMEWORKS = ("torch", "tensorflow")
COMPENSATE = "compensate"
"""The argument of every compressor that cuts channels: whether `Compensation` wins back what is lost."""
PRUNER = "raycompress.compressors.pruning.pruner:Pruner"
"""The class that a script holds where an engine decides what is pruned."""


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
    type
        What a file must give it: ``int``, ``float``, ``bool`` or ``str``; empty for anything, which the compressor
        itself then checks. A search range may stand for it.
    """

    name: str
    default: Any
    summary: str
    from_script: bool = False
    required: bool = False
    type: str = ""


@dataclass(frozen=True)
class CompressorEntry:
    """One compressor.

    Attributes
    ----------
    name, framework, kind
        The name in an experiment file; ``torch`` or ``tensorflow``; ``pruning`` or ``quantization``.
    engine
        ``module:name`` of the adapter that computes its masks, or that quantizes. A plug-in leaves it out: its class is
        the engine.
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
    takes_groups
        Whether layers whose channels are tied lose the same ones, so that what a group loses is known beforehand.
    takes_subclasses
        Whether it works on classes that are derived from those of `layer_types` as well, such as a LoRA layer.
    stores_weights
        Of a quantizer, whether it puts other weights in the places of those that there are, so that there must be some:
        a layer by weight_norm and the like has none, as its weight is computed.
    trains
        Whether the method trains the model in order to choose what goes, in ``compress()`` or while the script trains.
    distribution
        Name and version of the distribution that a plug-in comes with; empty for our own.
    """

    name: str
    framework: str = "torch"
    kind: str = "pruning"
    engine: str = ""
    summary: str = ""
    arguments: tuple[Argument, ...] = ()
    layer_types: tuple[str, ...] = ()
    removes_channels: bool = True
    paper: str = ""
    compressor: str = PRUNER
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
    takes_groups: bool = False
    takes_subclasses: bool = False
    stores_weights: bool = False
    trains: bool = False
    distribution: str = ""

    def of_plugin(self, plugin: Plugin, found: type) -> CompressorEntry:
        """Return the entry of a plug-in's class, complete: where the class is, and what it comes with.

        A class with a method ``choose`` is an engine, see `raycompress.compressors.engine.Engine`; any other is what a
        script holds, made of a `raycompress.compressors.create.Setup`.

        Raises
        ------
        PluginError
            The entry says something that cannot be.
        """
        for name, value, options in (
            ("framework", self.framework, FRAMEWORKS),
            ("kind", self.kind, ("pruning", "quantization")),
        ):
            if value not in options:
                raise PluginError(
                    f'{plugin} cannot be used: its entry has the {name} "{value}"',
                    where=plugin.where,
                    fix=f"its author writes one of {', '.join(options)}",
                )
        checked_arguments(plugin, self.arguments)
        is_engine = callable(getattr(found, "choose", None))
        if is_engine and (self.framework, self.kind) != ("torch", "pruning"):
            raise PluginError(
                f"{plugin} cannot be used: only a pruner of torch models is an engine with choose()",
                where=plugin.where,
                fix="its author writes a class that a script holds: compress(), export_model() and the rest",
            )
        held = self.compressor if is_engine else plugin.value
        complete = replace(self, engine=plugin.value, compressor=held, distribution=plugin.distribution)
        return complete.with_compensation()

    def with_compensation(self) -> CompressorEntry:
        """Return the entry with the argument `COMPENSATE`, where its engine chooses channels that a `PRUNER` cuts."""
        cuts = self.framework == "torch" and self.removes_channels and self.compressor == PRUNER
        if not cuts or self.argument(COMPENSATE) is not None:
            return self
        summary = (
            "whether layers that read removed channels are refitted on inputs, without training; left out, they are "
            "where the script passes calibration= and it helps (docs/recovery/compensation.md)"
        )
        return replace(self, arguments=(*self.arguments, Argument(COMPENSATE, None, summary, type="bool")))

    def takes(self, kind: str, base: str = "") -> bool:
        """Tell whether it works on layers of a class, named `kind`, that is derived from torch's class `base`."""
        return not self.layer_types or self._is_of(self.layer_types, kind, base)

    @property
    def refuses_computed(self) -> bool:
        """Whether layers whose weights are computed from others are an error where an entry names them."""
        return self.kind == "pruning" or self.stores_weights

    def is_named(self, types: Collection[str], kind: str, base: str = "") -> bool:
        """Tell whether ``op_types`` name layers of such a class; ``default`` stands for all that it takes."""
        if "default" in types and self._is_of(self.layer_types or WEIGHTED_TYPES, kind, base):
            return True
        return kind in types or (base == EXPERTS and base in types)

    def _is_of(self, types: tuple[str, ...], kind: str, base: str) -> bool:
        return kind in types or (self.takes_subclasses and base in types)

    def why_not_sliced(self, when: str) -> tuple[str, str]:
        """Return (why ``"slice"`` cannot be `when`, what to do instead); empty texts where it can.

        Parameters
        ----------
        when
            ``before`` or ``after`` the script trains; see `raycompress.config.options.CompressionOptions`.
        """
        if self.framework != "torch":
            return "no compressor of Keras models removes channels, so that there is nothing to slice", 'remove "slice"'
        if not self.removes_channels:
            as_given = f" where {self.base} is level" if self.base else ""
            return f"{self.name} removes no channels{as_given}, so that there is nothing to slice", 'remove "slice"'
        if when != "before" or not self.trains:
            return "", ""
        what = f"{self.name} trains the model to choose what goes, so that nothing can be sliced before"
        if self.returns_small:
            return what, 'remove "slice": its compress() returns the small model'
        return what, 'write "slice": "after", or take a compressor that needs no training, such as group_l1'

    def why_no_depth(self) -> str:
        """Return why no residual blocks of a model can be dropped before this one prunes; empty where they can."""
        if self.framework != "torch" or self.kind != "pruning":
            return f"{self.name} drops no blocks: pruners of torch models do"
        if not self.removes_channels or self.returns_small:
            return f"{self.name} drops no blocks: compressors do that remove channels by masks"
        return ""

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
