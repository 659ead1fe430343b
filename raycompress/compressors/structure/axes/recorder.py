"""Following real forward passes of a model, operation by operation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from raycompress.bundle.example import tensors_in
from raycompress.compressors.structure.axes.atoms import AtomTable, Components
from raycompress.compressors.structure.axes.call import Call
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
    """

    axes: Mapping[str, tuple[Ids, ...]]
    components: Components
    operations: Mapping[str, int]
    sizes: Mapping[Attribute, Ids] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

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


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operation once it has run, and keeps the labels of the tensors that are alive."""

    def __init__(self, table: AtomTable, named: Mapping[int, tuple[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table
        self.named = named
        self.axes: dict[str, tuple[Ids, ...]] = {}
        self.operations: dict[str, int] = {}
        self.modules: list[str] = []
        self.sized = False
        self._known: Any = WeakTensorKeyDictionary()
        self._own: dict[int, Labels] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its whole compiler to keep it away from here

    def labels(self, tensor: Any) -> Labels:
        if not isinstance(tensor, Tensor):
            return Labels(())
        known: Labels | None = self._known.get(tensor)
        if known is not None:
            return known
        if id(tensor) in self.named and tensor.is_floating_point():
            return self._labels_of_own(tensor)
        return Labels(tuple(tensor.shape))

    def name(self, tensor: Tensor, labels: Labels) -> None:
        """Give a tensor labels."""
        self._known[tensor] = labels

    def _labels_of_own(self, tensor: Tensor) -> Labels:
        if id(tensor) not in self._own:
            name = self.named[id(tensor)][0]
            axes = tuple(
                self.table.create(length) if length > 1 else np.zeros(length, dtype=np.int64) for length in tensor.shape
            )
            self.axes[name] = axes
            blocks = tuple(Block((dim,), atoms) for dim, atoms in enumerate(axes) if len(atoms) > 1)
            self._own[id(tensor)] = Labels(tuple(tensor.shape), blocks)
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
        where = f' in "{self.modules[-1]}"' if self.modules and self.modules[-1] else ""
        call = Call(plain, func, tuple(args), dict(kwargs or {}), results, self.labels, self.table, f"{plain}{where}")
        call.sized = self.sized
        for result, labels in zip(results, follow(call), strict=True):
            if id(result) not in self.named:
                self._known[result] = labels
        return outcome


def record(model: nn.Module, call: Callable[[nn.Module], Any], *, modes: tuple[bool, ...] = (False, True)) -> Couplings:
    """Follow `model` on one input, in eval and in train mode, and return which of its channels hang together.

    The model is left as it was, its buffers and the state of random numbers included.

    Parameters
    ----------
    call
        Calls the model with an input; what it returns are the outputs.
    modes
        Values of ``training`` to follow.
    """
    table = AtomTable()
    recorder, tracer = _observers(model, table, _Recorder)
    for training in modes:
        with _unchanged(model), _module_names(model, recorder.modules), torch.no_grad():
            model.train(training)
            with recorder, tracer, traced_attributes(model):
                outputs = tensors_in(call(model))
            for tensor in outputs:
                table.freeze(recorder.labels(tensor).atoms, OUTPUTS)
    components, sizes = Resolver(table, tracer.uses).resolve()
    return Couplings(recorder.axes, components, recorder.operations, sizes, frozenset(table.unknown))


def followed(model: nn.Module, call: Callable[[nn.Module], Any], kind: Callable[..., _Recorder]) -> Any:
    """Call `model` in eval mode under a recorder of one's own, which numbers atoms as `record` does."""
    recorder, tracer = _observers(model, AtomTable(), kind)
    with _unchanged(model), _module_names(model, recorder.modules), torch.no_grad():
        model.eval()
        with recorder, tracer, traced_attributes(model):
            return call(model)


def _observers(model: nn.Module, table: AtomTable, kind: Callable[..., _Recorder]) -> tuple[_Recorder, SizeTracer]:
    named: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        named.setdefault(id(tensor), (name, tensor))
    recorder = kind(table, named)
    return recorder, SizeTracer(recorder)


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    fast = torch.backends.mha.get_fastpath_enabled()  # torch's own attention in one operation, which says nothing
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.random.fork_rng(devices=[]), _uncompiled():
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for module, was in training.items():
                module.training = was


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled models as they are written; where nothing was compiled, the compiler is not imported for it."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _module_names(model: nn.Module, stack: list[str]) -> Iterator[None]:
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(lambda *_args, name=name: stack.append(name))
            after = module.register_forward_hook(lambda *_args: _leave(stack), always_call=True)
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        yield


def _leave(stack: list[str]) -> None:
    stack.pop()
