"""What is seen a level above the operations: reductions that a mask has to know of, and torch's own attention."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from raycompress.bundle.structures import tensors_in
from raycompress.compressors.masking.reductions import reduced_by
from raycompress.compressors.structure.axes.atoms import AtomTable
from raycompress.compressors.structure.axes.labels import Block, Labels

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids


@dataclass(frozen=True)
class Reduction:
    """A function that combines all elements along some dimensions, such as a mean or a norm.

    Attributes
    ----------
    atoms
        Dimension -> its atoms; dimensions that keep their length are left out.
    """

    atoms: dict[int, Ids]


class _Followed(Protocol):
    """What `Functions` needs of the recorder."""

    table: AtomTable
    muted: bool

    @property
    def where(self) -> str: ...

    def labels(self, tensor: Any) -> Labels: ...

    def name(self, tensor: Tensor, labels: Labels) -> None: ...


class Functions(TorchFunctionMode):
    """Sees torch's functions before they become operations.

    Attributes
    ----------
    reductions
        (module, whether it trained) -> the reductions of its first call, in order, without those of modules inside it.
    """

    def __init__(self, recorder: _Followed) -> None:
        super().__init__()
        self.reductions: dict[tuple[str, bool], Sequence[Reduction]] = {}
        self._recorder = recorder
        self._calls: list[list[Reduction]] = []

    def enter(self) -> None:
        """Note that a module starts."""
        self._calls.append([])

    def leave(self, name: str, training: bool) -> None:
        """Note that a module ends."""
        found = self._calls.pop()
        if any(reduction.atoms for reduction in found):
            self.reductions.setdefault((name, training), found)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            return self._attention(func, args, kwargs)
        if self._calls and not self._recorder.muted:
            reduced = reduced_by(func, args, kwargs)
            if reduced is not None:
                labels = self._recorder.labels(reduced[0])
                blocks = {dim: labels.at(dim) for dim in reduced[1]}
                atoms = {dim: block.atoms for dim, block in blocks.items() if block and len(block.dims) == 1}
                self._calls[-1].append(Reduction(atoms))
        return func(*args, **kwargs)

    def _attention(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Torch's attention: one width for inputs, heads and positions in them; each head loses the same positions.

        Its function computes with the width of its inputs as that of all heads together, so both are one axis here.
        """
        self._recorder.muted = True
        try:
            outcome = func(*args, **kwargs)
        finally:
            self._recorder.muted = False
        call = inspect.signature(func).bind(*args, **kwargs).arguments
        table, reason = self._recorder.table, f"attention{self._recorder.where}"

        def along(tensor: Tensor, dim: int) -> Ids:
            block = self._recorder.labels(tensor).at(dim)
            if block is not None and len(block.dims) > 1:
                self._recorder.labels(tensor).rigid([dim], table, reason)
                block = None
            return np.zeros(tensor.shape[dim], dtype=np.int64) if block is None else block.atoms

        query, heads = call["query"], int(call["num_heads"])
        width = along(query, -1)
        grouped = width.reshape(heads, -1)
        table.tie(grouped, grouped[:1], reason)
        inner = [tensor for name in ("bias_k", "bias_v") if (tensor := call.get(name)) is not None]
        if call.get("use_separate_proj_weight"):
            for name, source in (("q_proj_weight", "query"), ("k_proj_weight", "key"), ("v_proj_weight", "value")):
                table.tie(along(call[name], 0), width, reason)
                table.tie(along(call[name], 1), along(call[source], -1), reason)
        else:
            table.tie(along(call["in_proj_weight"], 0).reshape(3, -1), width, reason)
            for source in ("query", "key", "value"):
                table.tie(along(call["in_proj_weight"], 1), along(call[source], -1), reason)
        if call.get("in_proj_bias") is not None:
            table.tie(along(call["in_proj_bias"], 0).reshape(3, -1), width, reason)
        for tensor in inner:
            table.tie(along(tensor, -1), width, reason)
        table.tie(along(call["out_proj_weight"], 1), width, reason)
        out = along(call["out_proj_weight"], 0)
        if call.get("out_proj_bias") is not None:
            table.tie(along(call["out_proj_bias"], 0), out, reason)
        attended = tensors_in(outcome)[0]
        self._recorder.name(attended, Labels(tuple(attended.shape), (Block((attended.dim() - 1,), out),)))
        return outcome
