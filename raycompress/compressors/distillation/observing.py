"""Watches one call of a model: what some of its layers answer, and its maps of attention."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from raycompress.bundle.calling import running_modules, uncompiled, without_fast_path
from raycompress.bundle.structures import tensors_in


@dataclass(frozen=True)
class AttentionMap:
    """Where each position looks.

    Attributes
    ----------
    module
        The innermost module that has others inside, or torch's attention, which computed it.
    shares
        Of shape (..., heads, queries, keys), each row of sum one.
    """

    module: str
    shares: Tensor


@dataclass
class Observed:
    """What was seen of one call.

    Attributes
    ----------
    features
        Layer -> the first tensor that it answered.
    maps
        The maps of attention, in the order in which they were computed.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    maps: list[AttentionMap] = field(default_factory=list)


@contextmanager
def observing(model: nn.Module, layers: Sequence[str], *, attention: bool) -> Iterator[Observed]:
    """Watch the calls of `model` inside; a model that is compiled runs as it is written meanwhile.

    Parameters
    ----------
    layers
        Names of the modules whose answers are kept.
    attention
        Whether maps of attention are: of ``scaled_dot_product_attention``, of torch's ``MultiheadAttention``, and of
        a softmax over the last of four dimensions.
    """
    seen = Observed()
    with ExitStack() as stack:
        for name in layers:
            hook = model.get_submodule(name).register_forward_hook(_keeping(seen, name))
            stack.callback(hook.remove)
        if layers or attention:
            stack.enter_context(uncompiled())
        if attention:
            stack.enter_context(without_fast_path())
            running = stack.enter_context(running_modules(model, _is_attention))
            stack.enter_context(_Maps(seen, running))
        yield seen


def _keeping(seen: Observed, name: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found = tensors_in(output)
        if found:
            seen.features[name] = found[0]

    return hook


def _is_attention(module: nn.Module) -> bool:
    """Tell whether a map is named after a module: after one with others inside, or torch's attention."""
    return isinstance(module, nn.MultiheadAttention) or any(module.children())


class _Maps(TorchFunctionMode):
    """Notes the maps of attention of the functions that compute one."""

    def __init__(self, seen: Observed, running: list[str]) -> None:
        super().__init__()
        self._seen, self._running = seen, running

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            answer, shares = _with_map(func, args, kwargs)
            self._note(shares)
            return answer
        if func is functional.scaled_dot_product_attention:
            self._note(_map_of(*args, **kwargs))
        answer = func(*args, **kwargs)
        if func in _SOFTMAX and answer.dim() == 4 and _dim(args, kwargs) in (-1, 3):
            self._note(answer)
        return answer

    def _note(self, shares: Tensor) -> None:
        self._seen.maps.append(AttentionMap(self._running[-1], shares))


_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax, torch.special.softmax)


def _dim(args: Sequence[Any], kwargs: Any) -> Any:
    return kwargs.get("dim", args[1] if len(args) > 1 else None)


def _map_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return the map that ``scaled_dot_product_attention`` computes of these arguments, without dropout."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if attn_mask is not None:
        is_allowed = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if is_allowed else scores + attn_mask
    return scores.float().softmax(-1).nan_to_num(0.0)  # a row of padding sees nothing


def _with_map(func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Tensor]:
    """Return what torch's attention answers, and its map without dropout, of each head."""
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    is_dropped = given["training"] and given["dropout_p"] > 0
    shown = {**given, "need_weights": True, "average_attn_weights": False}
    if is_dropped:
        _, shares = func(**{**shown, "dropout_p": 0.0})
        return func(**given), shares
    output, shares = func(**shown)
    if not given["need_weights"]:
        return (output, None), shares
    return (output, shares.mean(-3) if given["average_attn_weights"] else shares), shares
