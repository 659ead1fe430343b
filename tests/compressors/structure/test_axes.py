"""Which channels hang together, read off the operations of a pass: against known networks, and proved by slicing."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from raycompress.bundle.example import Example
from raycompress.compressors.engines.torch_pruning.scored_layers import scored_layers
from raycompress.compressors.structure.axes.recorder import OUTPUTS, Couplings, record
from raycompress.compressors.structure.axes.sizes import Attribute
from raycompress.compressors.structure.graph import ChannelGraph
from tests.support.models.networks import DUMMY, NETWORKS

CONVOLUTIONAL = ("cnn", "resnet", "mobilenet", "vgg", "mlp", "sequences")


def followed(model: nn.Module, *inputs: Tensor) -> Couplings:
    return record(model, lambda one: one(*inputs))


def groups(couplings: Couplings, tensor: str, dim: int = 0) -> list[list[int]]:
    """Return the elements along a dimension that can go, those that go together in one list."""
    found: dict[int, list[int]] = {}
    for place, (component, reason) in enumerate(
        zip(couplings.of(tensor, dim).tolist(), couplings.reason(tensor, dim), strict=True)
    ):
        if not reason:
            found.setdefault(component, []).append(place)
    return list(found.values())


def tied(couplings: Couplings, one: str, two: str, first: int = 0, second: int = 0) -> bool:
    """Tell whether equal positions of two dimensions go together."""
    return bool((couplings.of(one, first) == couplings.of(two, second)).all())


def chosen(couplings: Couplings, seed: int = 0) -> np.ndarray:
    """Return half of the components of each layer that can go, at random."""
    generator = np.random.default_rng(seed)
    gone: set[int] = set()
    for name, axes in couplings.axes.items():
        if len(axes) < 2 or not name.endswith("weight"):
            continue
        free = {couplings.of(name, 0)[places[0]] for places in groups(couplings, name)}
        rest = sorted(free - gone)
        wanted = min(len(free) // 2 - len(free & gone), len(rest) - 1)
        if wanted > 0:
            gone |= set(generator.choice(rest, wanted, replace=False).tolist())
    return np.array(sorted(gone))


def without(model: nn.Module, couplings: Couplings, gone: np.ndarray, cut: bool) -> nn.Module:
    """Return a copy of `model` in which the components `gone` are zero, or cut out."""
    changed = copy.deepcopy(model)
    for (name, dim), places in couplings.members(gone).items():
        path, _, key = name.rpartition(".")
        module = changed.get_submodule(path)
        tensor = getattr(module, key)
        index = torch.from_numpy(np.setdiff1d(np.arange(tensor.shape[dim]), places) if cut else places)
        value = tensor.detach().index_select(dim, index) if cut else tensor.detach().index_fill(dim, index, 0)
        setattr(module, key, nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value)
    for module in changed.modules() if cut else ():
        _resize(module)
    return changed


def _resize(module: nn.Module) -> None:
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1:  # depthwise ones only
            module.groups = module.weight.shape[0]
        module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = module.weight.shape[0]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_what_is_masked_is_what_is_cut(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2)
    couplings = followed(model, DUMMY)
    gone = chosen(couplings)
    masked, small = without(model, couplings, gone, False), without(model, couplings, gone, True)
    images = torch.randn(4, *DUMMY.shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(small(images), masked(images), rtol=1e-4, atol=1e-5)
    assert sum(map(Tensor.numel, small.parameters())) < 0.5 * sum(map(Tensor.numel, model.parameters()))


def by_torch_pruning(model: nn.Module) -> dict[str, list[set[tuple[str, int]]]]:
    """Return layer -> the channels of convolutions and linear layers that go with each of its own; [] for outputs."""
    names = {module: name for name, module in model.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(model, DUMMY, verbose=False)
    found: dict[str, list[set[tuple[str, int]]]] = {}
    for module, name in names.items():
        if not isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            continue
        remove = graph.get_pruner_of_module(module).prune_out_channels
        sets: list[set[tuple[str, int]]] = [set() for _ in range(module.weight.shape[0])]
        for item in graph.get_pruning_group(module, remove, list(range(len(sets)))):
            other = item.dep.target.module
            outgoing = graph.is_out_channel_pruning_fn(item.dep.handler)
            if outgoing and not item.dep.target.outputs:
                sets = []
                break
            if other in names and outgoing and hasattr(other, "weight"):
                for root, own in zip(item.root_idxs, item.idxs, strict=True):
                    sets[root].add((names[other], own))
        found[name] = sets
    return found


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_groups_are_those_of_torch_pruning(name: str) -> None:
    model = NETWORKS[name]().eval()
    graph = ChannelGraph(model, Example((DUMMY,), {}))
    peer = by_torch_pruning(copy.deepcopy(model))
    assert graph.producers() == list(peer)
    for layer, sets in peer.items():
        if not sets:
            assert graph.reasons(graph.components(layer)) == [OUTPUTS]
        for channel, together in enumerate(sets):
            members = graph.members(graph.components(layer, [channel]))
            assert together == {(member.name, own) for member in members for own in member.channels.tolist()}
            assert not graph.fixed(graph.components(layer, [channel])).any()


@pytest.mark.parametrize("measure", ["l1", "l2", "fpgm", "lamp", "bn"])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_scores_are_those_of_torch_prunings_own_groups(name: str, measure: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    graph = ChannelGraph(model, Example((DUMMY,), {}))
    peer = torch_pruning.DependencyGraph().build_dependency(model, DUMMY, verbose=False)
    importance = {
        "l1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
        "fpgm": torch_pruning.importance.FPGMImportance,
        "lamp": torch_pruning.importance.LAMPImportance,
        "bn": torch_pruning.importance.BNScaleImportance,
    }[measure]()
    for layer in graph.producers():
        module = graph.module(layer)
        channels = list(range(graph.channels(layer)))
        theirs = importance(
            peer.get_pruning_group(module, peer.get_pruner_of_module(module).prune_out_channels, channels)
        )
        own = importance(scored_layers(graph, layer, model))
        assert (own is None) == (theirs is None)
        if own is not None and not graph.follows(layer):
            torch.testing.assert_close(own, theirs)


class Grouped(nn.Module):
    """Attention whose four heads share two heads of keys and values, with rotated positions and a norm of queries."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(12, 16), nn.Linear(12, 8), nn.Linear(12, 8)
        self.out = nn.Linear(16, 12)
        self.norm = nn.Parameter(torch.ones(4))
        self.shared = 2

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            layer(x).view(batch, length, -1, 4).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        query = query * torch.rsqrt(query.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm
        angles = torch.arange(length)[:, None] * torch.ones(4)
        query, key = (one * angles.cos() + self.rotated(one) * angles.sin() for one in (query, key))
        key, value = (one[:, :, None].expand(-1, -1, self.shared, -1, -1).flatten(1, 2) for one in (key, value))
        scores = (query @ key.transpose(-1, -2)).softmax(-1)
        return self.out((scores @ value).transpose(1, 2).reshape(batch, length, -1))

    @staticmethod
    def rotated(x: Tensor) -> Tensor:
        return torch.cat((-x[..., 2:], x[..., :2]), -1)


def test_grouped_keys_go_with_all_queries_that_share_them() -> None:
    couplings = followed(Grouped(), torch.randn(2, 5, 12))
    assert groups(couplings, "key.weight") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups(couplings, "query.weight") == [list(range(8)), list(range(8, 16))]
    assert tied(couplings, "key.weight", "value.weight")
    assert tied(couplings, "query.weight", "out.weight", 0, 1)
    assert groups(couplings, "norm") == []


class Fused(nn.Module):
    """Attention whose queries, keys and values are one layer, as torch computes it itself."""

    def __init__(self, heads: int = 3) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.num_heads, self.head_dim = heads, 4

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.out(attended.transpose(1, 2).flatten(2))


def test_a_head_of_a_fused_layer_is_in_all_of_its_three_parts() -> None:
    couplings = followed(Fused(), torch.randn(2, 5, 12))
    heads = [[4 * head + place + part for part in (0, 12, 24) for place in range(4)] for head in range(3)]
    assert groups(couplings, "qkv.weight") == heads
    assert groups(couplings, "out.weight", 1) == [heads[head][:4] for head in range(3)]


def test_the_number_of_heads_is_the_attribute_that_the_reshape_took() -> None:
    couplings = followed(Fused(), torch.randn(2, 5, 12))
    assert list(couplings.sizes) == [Attribute("", "num_heads")]
    heads = couplings.components.root[couplings.sizes[Attribute("", "num_heads")]]
    assert heads.tolist() == couplings.of("out.weight", 1)[::4].tolist()


class Literal(Fused):
    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2))


def test_a_number_in_the_source_keeps_what_it_counts_and_is_named_with_its_line() -> None:
    couplings = followed(Literal(), torch.randn(2, 5, 12))
    assert groups(couplings, "qkv.weight") == []
    line = Literal.forward.__code__.co_firstlineno + 1
    assert couplings.reason("qkv.weight", 0)[0] == (
        f"the size 3 in reshape at test_axes.py:{line}, which cannot follow"
    )


class Width(Fused):
    """Attention whose width is taken from its input's: heads go with as many channels of the input."""

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(batch, length, width)
        return self.out(attended)


@pytest.mark.parametrize("heads", [2, 3, 6])
def test_one_number_for_two_widths_ties_them(heads: int) -> None:
    couplings = followed(nn.Sequential(nn.Linear(4, 12), Width(heads), nn.Linear(12, 2)), torch.randn(2, 5, 4))
    wide = 12 // heads
    assert groups(couplings, "0.weight") == [list(range(wide * head, wide * head + wide)) for head in range(heads)]
    assert tied(couplings, "0.weight", "1.out.weight", 0, 1)


class Shuffled(nn.Module):
    def __init__(self, shuffle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.shuffle = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 4, 1), shuffle

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.shuffle(self.one(x)))


@pytest.mark.parametrize(
    "shuffle",
    [
        lambda x: x.view(len(x), 2, x.shape[1] // 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2),
        lambda x: F.channel_shuffle(x, 2),
    ],
)
def test_shuffled_channels_keep_equal_halves(shuffle: Callable[[Tensor], Tensor]) -> None:
    couplings = followed(Shuffled(shuffle), torch.randn(2, 1, 4, 4))
    assert groups(couplings, "one.weight") == [[0, 3], [1, 4], [2, 5]]
    assert groups(couplings, "two.weight", 1) == [[0, 1], [2, 3], [4, 5]]


class Padded(nn.Module):
    """A shortcut that is padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.head(self.two(x) + F.pad(x, (0, 0, 0, 0, 0, 2)))


def test_channels_that_meet_padding_stay() -> None:
    couplings = followed(Padded(), torch.randn(2, 1, 4, 4))
    assert groups(couplings, "two.weight") == [[0], [1], [2], [3]]
    assert "add" in couplings.reason("two.weight", 0)[4]


def mlp(first: nn.Module, second: nn.Module) -> nn.Module:
    return nn.Sequential(first, nn.GELU(), second)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 12), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


def test_the_halves_of_a_gated_layer_go_together() -> None:
    couplings = followed(Gated(), torch.randn(3, 4))
    assert groups(couplings, "up.weight") == [[place, place + 6] for place in range(6)]
    assert tied(couplings, "down.weight", "down.weight", 1, 1)


@pytest.mark.parametrize(
    ("wrap", "original"),
    [(parametrizations.weight_norm, "original1"), (parametrizations.spectral_norm, "original")],
    ids=["weight_norm", "spectral_norm"],
)
def test_weights_that_are_computed_are_followed_to_their_parameters(wrap: Any, original: str) -> None:
    couplings = followed(mlp(wrap(nn.Linear(4, 6)), nn.Linear(6, 2)), torch.randn(3, 4))
    name = f"0.parametrizations.weight.{original}"
    assert groups(couplings, name) == [[place] for place in range(6)]
    assert tied(couplings, name, "2.weight", 0, 1)


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.linalg.qr(self.one(x))[0])


def test_an_operation_without_a_rule_keeps_what_it_touches_and_is_named() -> None:
    couplings = followed(Unknown(), torch.randn(4, 4))
    assert groups(couplings, "one.weight") == []
    why = couplings.reason("one.weight", 0)[0]
    assert re.fullmatch(r"linalg_qr at test_axes\.py:\d+, which is not followed", why)
    assert set(couplings.reason("two.weight", 0)) == {OUTPUTS}


class Auxiliary(nn.Module):
    """A second head that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.body(x))
        return {"out": self.head(x), "aux": self.aux(x)} if self.training else {"out": self.head(x)}


def test_heads_of_training_are_followed_and_the_model_is_left_as_it_was() -> None:
    model = Auxiliary().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    inputs = torch.randn(8, 4)
    torch.random.set_rng_state(state)
    couplings = record(model, lambda one: one(inputs))
    assert tied(couplings, "aux.weight", "head.weight", 1, 1)
    assert not model.training and not model._forward_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_shared_weights_are_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 6)
            self.head = nn.Linear(6, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x))

    couplings = followed(Tied(), torch.randint(0, 7, (2, 3)))
    assert list(couplings.axes) == ["embed.weight"]
    assert groups(couplings, "embed.weight", 1) == [[place] for place in range(6)]
    assert groups(couplings, "embed.weight", 0) == []


class Breaking(Auxiliary):
    """The second head wants more than the input in train mode, and the model raises before it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(6, 8)
        self.aux = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.body(x))
        if self.training:
            x = self.before(x)
            raise TypeError("no targets")
        return self.head(x)


def test_what_a_broken_pass_would_have_gone_on_with_stays() -> None:
    couplings = followed(Breaking(), torch.randn(8, 4))
    assert groups(couplings, "before.weight") == []
    assert "TypeError in train mode" in couplings.reason("before.weight", 0)[0]
    assert groups(couplings, "body.weight") == [[place] for place in range(6)]
