"""torch's MultiheadAttention in operations that keep batch and length free where a model is traced.

torch's own forward takes both as plain numbers, which a tracer writes into the file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def traceable_attention(model: nn.Module) -> Iterator[None]:
    """Let the attention layers of `model` compute by `_attend`, those that it covers."""
    changed = [module for module in model.modules() if type(module) is nn.MultiheadAttention and _is_plain(module)]
    changed = [module for module in changed if "forward" not in vars(module)]
    for module in changed:
        module.forward = _Attend(module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _is_plain(module: nn.MultiheadAttention) -> bool:
    own = module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn
    return own and not module._forward_pre_hooks and not module._forward_hooks


class _Attend:
    """The forward of one attention layer."""

    def __init__(self, module: nn.MultiheadAttention) -> None:
        self._module = module

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the layer's own forward does."""
        module = self._module
        lone = query.dim() == 2  # no batch
        inputs = [query, key, value]
        if lone:
            inputs = [one.unsqueeze(0) for one in inputs]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not module.batch_first:
            inputs = [one.transpose(0, 1) for one in inputs]
        answer, weights = _attend(module, inputs, key_padding_mask, attn_mask)
        if lone:
            answer, weights = answer.squeeze(0), weights.squeeze(0)
        elif not module.batch_first:
            answer = answer.transpose(0, 1)
        if not need_weights:
            return answer, None
        return answer, weights.mean(dim=-3) if average_attn_weights else weights


def _attend(
    module: nn.MultiheadAttention, inputs: list[Tensor], padding: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the answer, (batch, length, width), and the weights, (batch, heads, length, length), of such inputs."""
    width, heads = module.embed_dim, module.num_heads
    parts: list[Any] = list(module.in_proj_weight.chunk(3))
    biases: list[Any] = [None] * 3 if module.in_proj_bias is None else list(module.in_proj_bias.chunk(3))
    query, key, value = (
        _heads(nn.functional.linear(one, weight, bias), heads)
        for one, weight, bias in zip(inputs, parts, biases, strict=True)
    )
    scores = (query / math.sqrt(width // heads)) @ key.transpose(-2, -1)
    if mask is not None:
        if mask.dim() == 3:  # (batch * heads, length, length)
            mask = mask.reshape(-1, heads, *mask.shape[1:])
        scores = scores + _added(mask, scores)
    if padding is not None:
        scores = scores + _added(padding, scores)[:, None, None, :]
    weights = torch.softmax(scores, dim=-1)
    answer = (weights @ value).transpose(1, 2).flatten(-2)
    return nn.functional.linear(answer, module.out_proj.weight, module.out_proj.bias), weights


def _heads(projected: Tensor, heads: int) -> Tensor:
    """Return (batch, length, width) as (batch, heads, length, width of one)."""
    batch, length, width = projected.shape
    return projected.reshape(batch, length, heads, width // heads).transpose(1, 2)


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as what is added to the scores: of truth values, minus infinity where they hold."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
