"""Language models as transformers writes them, in small: GPT-2's linear layers, Llama's grouped keys and its cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WORDS, WIDTH = 60, 32
Cache = list[tuple[Tensor, Tensor]]


def ids(batch: int = 2, length: int = 7, seed: int = 1) -> Tensor:
    """Return tokens."""
    return torch.randint(0, WORDS, (batch, length), generator=torch.Generator().manual_seed(seed))


class Conv1D(nn.Module):
    """The linear layer of GPT-2: its weight is inputs by outputs."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * nx**-0.5)
        self.bias = nn.Parameter(torch.randn(nf) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class GptBlock(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.head_dim, self.split_size = WIDTH // heads, WIDTH
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = Conv1D(3 * WIDTH, WIDTH), Conv1D(WIDTH, WIDTH)
        self.c_fc, self.c_out = Conv1D(4 * WIDTH, WIDTH), Conv1D(WIDTH, 4 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.c_attn(self.ln_1(x)).split(self.split_size, dim=2)
        q, k, v = (part.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + self.c_proj(mixed.reshape(*x.shape[:2], -1))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class Gpt(nn.Module):
    """Two blocks; the output layer shares the table of words."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.wte = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.Sequential(GptBlock(heads), GptBlock(heads))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        answer: Tensor = self.lm_head(self.ln_f(self.blocks(self.wte(tokens))))
        return answer


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def _half_turned(x: Tensor) -> Tensor:
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-second, first), dim=-1)


class GroupedAttention(nn.Module):
    """Several heads of queries for each head of keys and values; positions by rotation."""

    def __init__(self, heads: int, key_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim, self.repeats = head_dim, heads // key_heads
        self.q_proj = nn.Linear(WIDTH, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(WIDTH, key_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(WIDTH, key_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, WIDTH, bias=False)
        self.q_norm, self.k_norm = RmsNorm(head_dim), RmsNorm(head_dim)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], past: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        shape, (cos, sin) = (*x.shape[:-1], -1, self.head_dim), turn
        q = self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        q, k = (one * cos + _half_turned(one) * sin for one in (q, k))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        keys, values = (self._repeated(one) for one in (k, v))
        scores = q @ keys.transpose(2, 3) * self.head_dim**-0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + scores.size(-1) - scores.size(-2))
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        return self.o_proj((weights @ values).transpose(1, 2).reshape(*x.shape[:-1], -1)), (k, v)

    def _repeated(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        spread = x[:, :, None].expand(batch, heads, self.repeats, length, width)
        return spread.reshape(batch, heads * self.repeats, length, width)


class LlamaBlock(nn.Module):
    def __init__(self, heads: int, key_heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm, self.other_norm = RmsNorm(WIDTH), RmsNorm(WIDTH)
        self.attention = GroupedAttention(heads, key_heads, head_dim)
        self.gate_proj, self.up_proj = (nn.Linear(WIDTH, 48, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(48, WIDTH, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], past: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed, kept = self.attention(self.norm(x), turn, past)
        x = x + mixed
        y = self.other_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y)), kept


class LatentAttention(nn.Module):
    """Keys and values of all heads from one narrow layer; a part of each key is shared, written beside it in place."""

    def __init__(self, heads: int = 4, own: int = 6, turned: int = 4, latent: int = 10) -> None:
        super().__init__()
        self.own, self.turned, self.latent, self.value_dim = own, turned, latent, own
        self.query = nn.Linear(WIDTH, heads * (own + turned), bias=False)
        self.down = nn.Linear(WIDTH, latent + turned, bias=False)
        self.up = nn.Linear(latent, heads * 2 * own, bias=False)
        self.out = nn.Linear(heads * own, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).view(*x.shape[:-1], -1, self.own + self.turned).transpose(1, 2)
        latent, shared = torch.split(self.down(x), [self.latent, self.turned], dim=-1)
        both = self.up(latent).view(*x.shape[:-1], -1, self.own + self.value_dim).transpose(1, 2)
        key, value = torch.split(both, [self.own, self.value_dim], dim=-1)
        keys = both.new_empty(*both.shape[:-1], self.own + self.turned)
        keys[..., : self.own].copy_(key)
        keys[..., self.own :].copy_(shared[:, None].expand(-1, key.shape[1], -1, -1))
        mixed = F.scaled_dot_product_attention(q, keys, value, is_causal=True)
        answer: Tensor = self.out(mixed.transpose(1, 2).reshape(*x.shape[:-1], -1))
        return answer


class Latent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.attention = nn.Embedding(WORDS, WIDTH), LatentAttention()
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        answer: Tensor = self.head(x + self.attention(x))
        return answer


class Experts(nn.Module):
    """The weights of all experts in two parameters; each token gathers those of its own."""

    def __init__(self, experts: int, inner: int, *, is_transposed: bool = False) -> None:
        super().__init__()
        self.num_experts, self.is_transposed = experts, is_transposed
        up, down = torch.randn(experts, 2 * inner, WIDTH) * 0.2, torch.randn(experts, WIDTH, inner) * 0.2
        self.gate_up_proj = nn.Parameter(up.transpose(1, 2).contiguous() if is_transposed else up)
        self.down_proj = nn.Parameter(down.transpose(1, 2).contiguous() if is_transposed else down)

    def forward(self, x: Tensor, which: Tensor, weights: Tensor) -> Tensor:
        up, down = self.gate_up_proj[which], self.down_proj[which]
        if self.is_transposed:
            up, down = up.transpose(-1, -2), down.transpose(-1, -2)
        gate, value = (up @ x[:, None, :, None]).squeeze(-1).chunk(2, dim=-1)
        answers = (down @ (F.silu(gate) * value).unsqueeze(-1)).squeeze(-1)
        return (answers * weights.unsqueeze(-1)).sum(1)


class Mixture(nn.Module):
    """Two of four experts for each token, by a router."""

    def __init__(self, *, is_transposed: bool = False) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(WORDS, WIDTH), RmsNorm(WIDTH)
        self.router = nn.Parameter(torch.randn(4, WIDTH))
        self.experts = Experts(4, 24, is_transposed=is_transposed)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens).flatten(0, 1)
        weights, which = F.linear(self.norm(x), self.router).softmax(-1).topk(2, dim=-1)
        answer: Tensor = self.head(x + self.experts(self.norm(x), which, weights))
        return answer.unflatten(0, tuple(tokens.shape))


class Llama(nn.Module):
    """Two blocks; called with a cache it appends to it the keys and values that it computes."""

    def __init__(self, heads: int = 8, key_heads: int = 4, head_dim: int = 6) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(LlamaBlock(heads, key_heads, head_dim) for _ in range(2))
        self.norm = RmsNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.register_buffer("frequencies", 100.0 ** -torch.arange(0, 1, 2 / head_dim), persistent=False)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        start = cache[0][0].size(2) if cache else 0
        angles = torch.arange(start, start + tokens.size(1))[:, None] * self.frequencies
        turn = (torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin())
        x = self.words(tokens)
        for place, block in enumerate(self.blocks):
            x, kept = block(x, turn, cache[place] if cache and start else None)
            if cache is not None:
                cache[place : place + 1] = [kept]
        answer: Tensor = self.head(self.norm(x))
        return answer

    @torch.no_grad()
    def generate(self, tokens: Tensor, count: int) -> Tensor:
        """Return `tokens` and the `count` likeliest ones after them, one at a time, with a cache."""
        cache: Cache = []
        new = tokens
        for _ in range(count):
            new = self(new, cache)[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens
