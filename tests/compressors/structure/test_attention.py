"""Attention in the ways that people write it, norms over channels, other meetings of channels: sliced and proved."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.pruning.refusals import about_whole_layers
from raycompress.errors import CompressionError
from tests.support.models.networks import DUMMY, Vit, train, trained

EXAMPLE = Example.from_dummy(DUMMY)


class Indexed(nn.Module):
    """``qkv[0]``, a scale that is fixed, a softmax by hand."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = ((qkv[0] @ qkv[1].transpose(-2, -1)) * self.scale).softmax(-1)
        return self.proj((weights @ qkv[-1]).transpose(1, 2).reshape(n, tokens, -1))


class Chunked(nn.Module):
    """``chunk`` of the last dimension, and the width of all heads in an attribute."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.inner_dim = heads, dim
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        shape = (n, tokens, self.heads, self.inner_dim // self.heads)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Separate(nn.Module):
    """Three projections; a scale from the width of a head."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = heads, dim // heads, dim
        self.query, self.key, self.value, self.dense = (nn.Linear(dim, dim) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.size(-1)), -1)
        mixed = (weights @ v).permute(0, 2, 1, 3).contiguous()
        return self.dense(mixed.view(*mixed.shape[:-2], self.all_head_size))


class Biased(Separate):
    """As many heads as a head is wide, and a parameter with a row for each of them, as LeViT has."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.num_heads = self.key_dim = 4
        self.scores = nn.Parameter(torch.randn(4, 17, 17))
        self.query, self.key, self.value = (nn.Linear(dim, 16) for _ in range(3))
        self.dense = nn.Linear(16, dim)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, self.key_dim).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        weights = torch.softmax(q @ k.transpose(-1, -2) + self.scores, -1)
        return self.dense((weights @ v).transpose(1, 2).flatten(2))


class Stubborn(nn.Module):
    """The number of heads is written into ``forward``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(len(x), x.size(1), 3, 4, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """Halves of a layer that go together, under a norm without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(64, 64)
        self.b = nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32, elementwise_affine=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.a(x.flatten(1)).chunk(2, -1)
        x = value * torch.sigmoid(gate)
        return self.head(self.norm(x + self.b(x)))


class GroupNormed(nn.Module):
    """GroupNorms with different numbers of groups on tied channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 32, 3, padding=1)
        self.norm1 = nn.GroupNorm(4, 32)
        self.b = nn.Conv2d(32, 32, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.a(x)))
        return self.head((x + self.norm2(self.b(x))).mean([2, 3]))


class Encoder(nn.Module):
    """Torch's own transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.squeeze(1))).mean(1))


class Tokens(nn.Module):
    """An embedding that is tied to a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 32)
        self.a = nn.Linear(32, 64)
        self.b = nn.Linear(64, 32)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed((x.flatten(1).clamp(0, 1) * 16).long())
        return self.head(self.norm(x + self.b(F.relu(self.a(x)))).mean(1))


class Upwards(nn.Module):
    """Transposed and three-dimensional convolutions, a flatten of five dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.norm = nn.BatchNorm2d(16)
        self.deep = nn.Conv3d(16, 16, (1, 3, 3))
        self.head = nn.Linear(16 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.up(F.relu(self.a(x)))))
        return self.head(F.relu(self.deep(x.unsqueeze(2))).flatten(1))


def vit_with(attention: type[nn.Module]) -> type[nn.Module]:
    return type(f"VitOf{attention.__name__}", (Vit,), {"attention": attention})


def pruned(model: nn.Module, steps: int = 4, **arguments: Any) -> Compressor:
    entries = [{"sparsity": 0.5, "op_types": ["default"]}, {"op_names": ["head"], "exclude": True}]
    config = {"compressor": "group_l2", "config_list": entries, "arguments": arguments}
    pruner = create_compressor(model, config, dummy_input=DUMMY)
    pruner.compress()
    train(model, steps)
    return pruner


CELLS = [
    *[(vit_with(attention), {}) for attention in (Indexed, Chunked, Separate, Biased)],
    (vit_with(Separate), {"steps": 2}),
    (Encoder, {"round_to": 2}),
    (Encoder, {"round_to": 1, "steps": 3}),
    (Gated, {}),
    (Gated, {"steps": 2}),
    (GroupNormed, {}),
    (Tokens, {}),
    (Upwards, {}),
]


@pytest.mark.parametrize(("kind", "arguments"), CELLS)
def test_masked_equals_sliced(kind: type[nn.Module], arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = kind()
    train(model, 4)
    before = sum(parameter.numel() for parameter in model.parameters())
    pruner = pruned(model, **arguments)
    masked = copy.deepcopy(model)
    pruner.apply_speedup()
    for example in (EXAMPLE, EXAMPLE.random(3), EXAMPLE.random(4)):
        assert relative_difference(example.outputs(masked), example.outputs(model)) <= TOLERANCE
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.5 * before
    assert all(of == 2 * gone for gone, of in pruner._slicing.removal.counts().values())  # type: ignore[attr-defined]
    train(model, 1)


def test_whole_heads_go_and_their_number_follows() -> None:
    model = trained("vit", 4)
    attention: Any = model.blocks[0].attn  # type: ignore[index, union-attr]
    with torch.no_grad():  # heads 1 and 2 of 4, of 8 channels each
        for part in range(3):
            attention.qkv.weight[32 * part + 8 : 32 * part + 24] *= 1e-2
    pruner = pruned(model)
    gone = pruner._slicing.removal.channels["blocks.0.attn.qkv"]  # type: ignore[attr-defined]
    assert gone == tuple(32 * part + channel for part in range(3) for channel in range(8, 24))
    pruner.apply_speedup()
    assert (attention.num_heads, attention.qkv.out_features, attention.proj.in_features) == (2, 48, 16)


def test_torchs_attention_keeps_its_heads_and_narrows_them() -> None:
    model = trained("torch_vit", 4)
    attention: Any = model.blocks[0].attn  # type: ignore[index, union-attr]
    pruner = pruned(model, round_to=2)
    gone = pruner._slicing.removal.channels["patch"]  # type: ignore[attr-defined]
    assert {channel % 8 for channel in gone} == {channel for channel in gone if channel < 8}
    with torch.no_grad():
        attention.out_proj.weight += 1  # as a step of an optimizer may do
    masked = EXAMPLE.outputs(model)
    assert not attention.out_proj.weight[list(gone)].any()
    pruner.apply_speedup()
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (4, 4, 16)
    assert relative_difference(masked, EXAMPLE.outputs(model)) <= TOLERANCE


@pytest.mark.parametrize("sparsity", [0.7, 0.8, 0.9])
def test_few_channels_left_of_many_keep_their_order_in_every_layer(sparsity: float) -> None:
    model = trained("vit", 4)
    group = ["patch", "blocks.0.attn.proj", "blocks.0.fc2", "blocks.1.attn.proj", "blocks.1.fc2"]
    entries = [{"sparsity": sparsity, "op_names": group, "expand_op_names": False}]
    config = {"compressor": "group_l1", "config_list": entries, "arguments": {"round_to": 1}}
    with torch.no_grad():
        model.norm.weight.copy_(torch.linspace(1, 2, 32))  # type: ignore[union-attr, operator]
    before: Any = copy.deepcopy(model)
    pruner = create_compressor(model, config, dummy_input=DUMMY)
    pruner.compress()
    pruner.apply_speedup()  # which proves that it is the masked model
    gone = pruner._slicing.removal.channels["patch"]  # type: ignore[attr-defined]
    kept = [channel for channel in range(32) if channel not in gone]
    for name in ("patch.bias", "norm.weight", "blocks.0.norm1.weight", "blocks.1.fc2.bias"):
        assert torch.equal(model.get_parameter(name), before.get_parameter(name)[kept])


def test_a_masked_norm_sees_the_channels_that_stay_only() -> None:
    model = trained("vit", 4)
    pruner = pruned(model)
    gone = list(pruner._slicing.removal.channels["patch"])  # type: ignore[attr-defined]
    kept = [channel for channel in range(32) if channel not in gone]
    norm: Any = model.norm
    x = torch.randn(2, 17, 32) * 3 + 1
    out = norm(x)
    assert not out[..., gone].any()
    alone = (out[..., kept] - norm.bias[kept]) / norm.weight[kept]
    assert float(alone.mean(-1).abs().max()) < 1e-5
    assert torch.allclose(alone.var(-1, unbiased=False), torch.ones(2, 17), atol=1e-3)
    late = copy.deepcopy(model)
    assert torch.equal(late.norm(x), out)  # type: ignore[operator]


def test_a_number_of_heads_in_the_source_is_named_with_its_line() -> None:
    config = {"compressor": "group_l2", "config_list": [{"sparsity": 0.5, "op_names": ["blocks.0.attn.qkv"]}]}
    with pytest.raises(CompressionError, match=r'the size 4 in reshape in "blocks\.0\.attn" at test_attention\.py:\d+'):
        create_compressor(vit_with(Stubborn)(), config, dummy_input=DUMMY).compress()
    left_out = about_whole_layers(pruned(vit_with(Stubborn)())._slicing)  # type: ignore[attr-defined]
    assert any("blocks.0.attn.qkv" in note and "the size 4 in reshape" in note for note in left_out)
