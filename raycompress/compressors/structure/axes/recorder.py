"""Following real forward passes of a model, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from raycompress.bundle.calling import uncompiled, without_fast_path
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.structure.axes.atoms import AtomTable, Components
from raycompress.compressors.structure.axes.call import Call, flat, source_line
from raycompress.compressors.structure.axes.functions import Functions, Reduction
from raycompress.compressors.structure.axes.labels import Block, Labels
from raycompress.compressors.structure.axes.resolving import Resolver
from raycompress.compressors.structure.axes.rules import follow
from raycompress.compressors.structure.axes.sizes import Attribute
from raycompress.compressors.structure.axes.tracing import SizeTracer, traced_attributes

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids

OUTPUTS = "its channels are the model's outputs"


@dataclass(frozen=True)
class Couplings:
    """Which elements of which tensors of a model go together.

    Attributes
    ----------
    axes
        Tensor's name -> one array of atoms for each of its dimensions.
    components
        Which atoms go together.
    operations
        Name -> how often the passes executed it.
    sizes
        Attributes of modules that hold the length of an axis: what stays of it is their new value.
    unknown
        Operations without a rule that met atoms.
    reductions
        (module, whether it trained) -> the reductions, such as a mean, that a call of it computes, in order.
    sources
        Module -> the modules whose parameters made its inputs.
    last
        The modules whose parameters made the outputs.
    parts
        Atoms along dimensions, and parts of dimensions, whose lengths the source names.
    """

    axes: Mapping[str, tuple[Ids, ...]]
    components: Components
    operations: Mapping[str, int]
    sizes: Mapping[Attribute, Ids] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    reductions: Mapping[tuple[str, bool], Sequence[Reduction]] = field(default_factory=dict)
    sources: Mapping[str, frozenset[str]] = field(default_factory=dict)
    last: frozenset[str] = frozenset()
    parts: Sequence[Ids] = ()

    def lengths(self) -> Iterator[Ids]:
        """Yield the atoms along whatever has a length that may not become 0."""
        for axes in self.axes.values():
            yield from axes
        yield from self.parts

    def of(self, tensor: str, dim: int) -> Ids:
        """Return the component of each element along a dimension of a tensor."""
        found: Ids = self.components.root[self.axes[tensor][dim]]
        return found

    def reason(self, tensor: str, dim: int) -> list[str]:
        """Return for each element why it cannot be removed; an empty text where it can."""
        return [self.components.reasons.get(component, "") for component in self.of(tensor, dim).tolist()]

    def members(self, components: Ids) -> dict[tuple[str, int], Ids]:
        """Return (tensor, dimension) -> indices of all elements that belong to `components`."""
        wanted = np.zeros(len(self.components.root), dtype=bool)
        wanted[components] = True
        found = {}
        for name, axes in self.axes.items():
            for dim, atoms in enumerate(axes):
                inside = np.flatnonzero(wanted[self.components.root[atoms]] & (atoms != 0))
                if len(inside):
                    found[name, dim] = inside
        return found


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operation once it has run, and keeps the labels of the tensors that are alive."""

    def __init__(self, table: AtomTable, named: Mapping[int, tuple[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table
        self.named = named
        self.axes: dict[str, tuple[Ids, ...]] = {}
        self.operations: dict[str, int] = {}
        self.modules: list[str] = []
        self.computed: dict[str, str] = {}
        self.kernels: set[int] = set()
        self.sized = False
        self.sources: dict[str, frozenset[str]] = {}
        self.muted = False
        self._known: Any = WeakTensorKeyDictionary()
        self._makers: Any = WeakTensorKeyDictionary()
        self._own: dict[int, Labels] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its whole compiler to keep it away from here

    def labels(self, tensor: Any) -> Labels:
        """Return the labels of a tensor; of anything else none."""
        if not isinstance(tensor, Tensor):
            return Labels(())
        known: Labels | None = self._known.get(tensor)
        if known is not None:
            return known
        if id(tensor) in self.named and tensor.is_floating_point():
            return self._labels_of_own(tensor)
        return Labels(tuple(tensor.shape))

    def name(self, tensor: Tensor, labels: Labels) -> None:
        """Give a tensor labels; those of parameters are their own."""
        if id(tensor) not in self.named:
            self._known[tensor] = labels

    @property
    def where(self) -> str:
        """The module that is running and the line of its source, for messages."""
        name = self.modules[-1] if self.modules else ""
        return (f' in "{name}"{self.computed.get(name, "")}' if name else "") + source_line()

    def makers(self, tensor: Tensor) -> frozenset[str]:
        """Return the modules whose parameters made a tensor."""
        found: frozenset[str] = self._makers.get(tensor, frozenset())
        return found

    def freeze_ends(self, seen: frozenset[str], reason: str) -> None:
        """Freeze what other modules than those of `seen` made and a pass that broke off would have gone on with."""
        for tensor, labels in list(self._known.items()):
            if self.makers(tensor) - seen:
                self.table.freeze(labels.atoms, reason)

    def _labels_of_own(self, tensor: Tensor) -> Labels:
        if id(tensor) not in self._own:
            name = self.named[id(tensor)][0]
            shape = tuple(map(int, tensor.shape))  # plain sizes: asked for within a call, they would be traced ones
            fixed = range(2, len(shape)) if id(tensor) in self.kernels else ()
            axes = tuple(
                self.table.create(length) if length > 1 and dim not in fixed else np.zeros(length, dtype=np.int64)
                for dim, length in enumerate(shape)
            )
            self.axes[name] = axes
            blocks = tuple(
                Block((dim,), atoms) for dim, atoms in enumerate(axes) if len(atoms) > 1 and dim not in fixed
            )
            self._own[id(tensor)] = Labels(shape, blocks)
        return self._own[id(tensor)]

    def execute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Execute an operation."""
        return func(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outcome = self.execute(func, args, kwargs or {})
        results = tensors_in(outcome) if isinstance(outcome, (Tensor, list, tuple)) else []
        if not results:
            return outcome
        name = func._schema.name.split("::")[-1]
        self.operations[name] = self.operations.get(name, 0) + 1
        plain = name.rstrip("_") if name.endswith("_") and not name.endswith("__") else name
        reason = f"{plain}{self.where}"
        with self.table.allowance.spending(reason):
            self._trace(flat((args, kwargs or {})), results)
            if self.muted:
                return outcome
            call = Call(plain, func, tuple(args), dict(kwargs or {}), results, self.labels, self.table, reason)
            call.sized = self.sized
            for result, labels in zip(results, follow(call), strict=True):
                self.name(result, labels)
        return outcome

    def _trace(self, operands: list[Any], results: list[Tensor]) -> None:
        """Note which modules' parameters make the results."""
        tensors = [value for value in operands if isinstance(value, Tensor)]
        before = frozenset[str]().union(*(self.makers(tensor) for tensor in tensors))
        if self.modules and any(id(tensor) in self.named for tensor in tensors):
            here = self.modules[-1]
            self.sources[here] = self.sources.get(here, frozenset()) | (before - {here})
            before = frozenset({here})
        if before:
            for result in results:
                self._makers[result] = before


def record(model: nn.Module, call: Callable[[nn.Module], Any], *, modes: tuple[bool, ...] = (False, True)) -> Couplings:
    """Follow `model` on one input, in eval and in train mode, and return which of its channels hang together.

    The model is left as it was, its buffers and the state of random numbers included. What it raises in eval mode, or
    in the only mode, passes through. In train mode some models want more than an input, such as a detector its boxes:
    what ran until then counts.

    Parameters
    ----------
    call
        Calls the model with an input; what it returns are the outputs.
    modes
        Values of ``training`` to follow.
    """
    table = AtomTable()
    recorder, tracer = _observers(model, table, Recorder)
    functions = Functions(recorder)
    last: frozenset[str] = frozenset()
    for training in modes:
        with unchanged(model), _module_names(model, recorder.modules, functions), torch.no_grad():
            model.train(training)
            seen = frozenset(recorder.sources)
            try:
                with recorder, tracer, functions, traced_attributes(model):
                    outputs = tensors_in(call(model))
            except Exception as error:
                if not training or len(modes) == 1:
                    raise
                recorder.freeze_ends(seen, f"{type(error).__name__} in train mode, behind which nothing is known")
                outputs = []
            for tensor in outputs:
                table.freeze(recorder.labels(tensor).atoms, OUTPUTS)
                last |= recorder.makers(tensor)
    with table.allowance.spending("the sizes that its forward() uses"):
        components, sizes = Resolver(table, tracer.uses).resolve()
    return Couplings(
        recorder.axes,
        components,
        recorder.operations,
        sizes,
        frozenset(table.unknown),
        functions.reductions,
        recorder.sources,
        last,
        [use.axis for use in tracer.uses],
    )


def followed(model: nn.Module, call: Callable[[nn.Module], Any], kind: Callable[..., Recorder]) -> Any:
    """Call `model` in eval mode under a recorder of one's own, which numbers atoms as `record` does."""
    recorder, tracer = _observers(model, AtomTable(), kind)
    functions = Functions(recorder)
    with unchanged(model), _module_names(model, recorder.modules, functions), torch.no_grad():
        model.eval()
        with recorder, tracer, functions, traced_attributes(model):
            return call(model)


def _observers(model: nn.Module, table: AtomTable, kind: Callable[..., Recorder]) -> tuple[Recorder, SizeTracer]:
    named: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        named.setdefault(id(tensor), (name, tensor))
    recorder = kind(table, named)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd) and module._parameters.get("weight") is not None:
            recorder.kernels.add(id(module.weight))  # it keeps its extent, whatever is computed with it
        for hook in module._forward_pre_hooks.values():
            _, is_of_torch, way = type(hook).__module__.partition("torch.nn.utils.")  # its older way of parametrizing
            if is_of_torch:
                recorder.computed[name] = f", whose weight is computed by {way}"
    return recorder, SizeTracer(recorder)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Leave `model`, its buffers and the state of random numbers as they were; nothing fused or compiled runs."""
    training = {module: module.training for module in model.modules()}
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[]), uncompiled(), without_fast_path():
        try:
            yield
        finally:
            with torch.no_grad():
                for module, before in buffers:
                    module._buffers.update(before)
                for buffer, value in values:
                    buffer.copy_(value)
            for module, was in training.items():
                module.training = was


@contextmanager
def _module_names(model: nn.Module, stack: list[str], functions: Functions) -> Iterator[None]:
    def enter(name: str) -> None:
        stack.append(name)
        functions.enter()

    def leave(name: str, module: nn.Module) -> None:
        functions.leave(name, module.training)
        stack.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            # first of all, so that what other hooks compute is the module's
            before = module.register_forward_pre_hook(lambda *_args, name=name: enter(name), prepend=True)
            after = module.register_forward_hook(lambda one, *_args, name=name: leave(name, one), always_call=True)
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        yield
