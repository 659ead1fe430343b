"""Coupled channels of convolutions with groups, of norms, embeddings and attention: known groups, proved by slicing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress.bundle.example import Example
from raycompress.compressors.structure.axes.recorder import OUTPUTS, Couplings, record
from raycompress.compressors.structure.graph import ChannelGraph
from tests.compressors.structure.test_axes import followed, groups, tied, without

IMAGE = (2, 8, 6, 6)


def one_by_one(length: int) -> list[list[int]]:
    return [[place] for place in range(length)]


def spaced(length: int, parts: int) -> list[list[int]]:
    """Return the elements at equal positions of equal parts."""
    size = length // parts
    return [[place + part * size for part in range(parts)] for place in range(size)]


def runs(length: int, size: int) -> list[list[int]]:
    """Return runs of `size` neighbours."""
    return [list(range(start, start + size)) for start in range(0, length, size)]


def between(*middle: nn.Module, channels: int = 8) -> nn.Sequential:
    """Return `middle` between a convolution that makes eight channels and one that reads `channels`."""
    return nn.Sequential(nn.Conv2d(8, 8, 1), *middle, nn.Conv2d(channels, 3, 1))


def whole(model: nn.Module, *inputs: Tensor) -> Couplings:
    """Follow a pass under ``inference_mode``, in which torch executes a layer as one operation."""
    with torch.inference_mode():
        return record(model, lambda one: one(*inputs), modes=(False,))


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Sequential], list[list[int]], list[list[int]]]] = {
    # groups of the first convolution, groups of what the last one reads
    "dense": (lambda: between(nn.Conv2d(8, 8, 3)), one_by_one(8), one_by_one(8)),
    "depthwise": (lambda: between(nn.Conv2d(8, 8, 3, groups=8)), one_by_one(8), one_by_one(8)),
    "multiplied": (lambda: between(nn.Conv2d(8, 16, 3, groups=8), channels=16), one_by_one(8), runs(16, 2)),
    "many": (lambda: between(nn.Conv2d(8, 12, 3, groups=4), channels=12), runs(8, 2), runs(12, 3)),
    "few": (lambda: between(nn.Conv2d(8, 12, 3, groups=2), channels=12), spaced(8, 2), spaced(12, 2)),
    "transposed": (lambda: between(nn.ConvTranspose2d(8, 6, 2), channels=6), one_by_one(8), one_by_one(6)),
    "transposed depthwise": (lambda: between(nn.ConvTranspose2d(8, 8, 2, groups=8)), one_by_one(8), one_by_one(8)),
    "transposed many": (
        lambda: between(nn.ConvTranspose2d(8, 12, 2, groups=4), channels=12),
        runs(8, 2),
        runs(12, 3),
    ),
    "transposed with one output a group": (
        lambda: between(nn.ConvTranspose2d(8, 2, 2, groups=2), channels=2),
        spaced(8, 2),
        [],
    ),
    "transposed few": (
        lambda: between(nn.ConvTranspose2d(8, 12, 2, groups=2), channels=12),
        spaced(8, 2),
        spaced(12, 2),
    ),
}


def cut_to(model: nn.Module, original: nn.Module) -> nn.Module:
    """Set the attributes of sliced convolutions: groups go whole where the channels in one are as many as before."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.conv._ConvNd):
            continue
        was = original.get_submodule(name)
        first, second = was.weight.shape[:2]
        inner = second if not was.transposed else first // was.groups
        rows = module.weight.shape[0] if not was.transposed else module.weight.shape[0] // inner
        if was.groups > 1 and was.groups >= was.in_channels // was.groups:
            module.groups = rows if was.transposed else rows // (first // was.groups)
        else:
            module.groups = was.groups
    return model


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_channels_of_a_convolution_with_groups(name: str) -> None:
    make, first, last = CONVOLUTIONS[name]
    couplings = followed(make(), torch.randn(IMAGE))
    assert groups(couplings, "0.weight") == groups(couplings, "0.bias") == first
    assert groups(couplings, "2.weight", 1) == last
    assert set(couplings.reason("2.weight", 0)) == {OUTPUTS}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_half_of_the_groups_of_a_convolution_are_cut(name: str) -> None:
    torch.manual_seed(0)
    model, images = CONVOLUTIONS[name][0]().eval(), torch.randn(IMAGE)
    couplings = followed(model, images)
    gone = set()
    for tensor, dim in (("0.weight", 0), ("2.weight", 1)):
        free = [couplings.of(tensor, dim)[places[0]] for places in groups(couplings, tensor, dim)]
        gone |= set(free[: len(free) // 2])
    removed = np.array(sorted(gone))
    masked = without(model, couplings, removed, False)
    small = cut_to(without(model, couplings, removed, True), model)
    assert small[0].weight.shape[0] < 8
    assert small[2].weight.shape[1] < model[2].weight.shape[1] or not CONVOLUTIONS[name][2]
    with torch.no_grad():
        torch.testing.assert_close(small(images), masked(images), rtol=1e-4, atol=1e-5)


def test_a_kernel_that_forward_makes_keeps_its_channels() -> None:
    class Blurred(nn.Module):
        def __init__(self, groups: int) -> None:
            super().__init__()
            self.one, self.two, self.groups = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1), groups

        def forward(self, x: Tensor) -> Tensor:
            kernel = torch.ones(8, 8 // self.groups, 3, 3)
            return self.two(F.conv2d(self.one(x), kernel, groups=self.groups))

    for count in (8, 4, 2):
        couplings = followed(Blurred(count), torch.randn(IMAGE))
        assert groups(couplings, "one.weight") == [] == groups(couplings, "two.weight", 1)
        reason = couplings.reason("one.weight", 0)[0]
        assert "convolution" in reason or "ones at test_axes_layers.py" in reason


def test_the_first_layer_of_an_image_may_have_groups() -> None:
    couplings = followed(nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 3, 1)), torch.randn(IMAGE))
    assert groups(couplings, "0.weight") == []
    assert "convolution" in couplings.reason("0.weight", 0)[0]


def test_an_image_without_a_batch_dimension_is_convolved_too() -> None:
    model = between(nn.Conv2d(8, 12, 3, groups=2), channels=12)
    assert groups(followed(model, torch.randn(8, 6, 6)), "0.weight") == spaced(8, 2)
    assert groups(whole(model, torch.randn(8, 6, 6)), "2.weight", 1) == spaced(12, 2)


@pytest.mark.parametrize("name", ["dense", "depthwise", "many", "few"])
def test_a_whole_convolution_is_followed_as_its_parts_are(name: str) -> None:
    make, first, last = CONVOLUTIONS[name]
    couplings = whole(make(), torch.randn(IMAGE))
    assert set(couplings.operations) == {"conv2d"}
    assert (groups(couplings, "0.weight"), groups(couplings, "2.weight", 1)) == (first, last)


@pytest.mark.parametrize("bias", [True, False])
def test_a_whole_linear_layer_is_followed_as_its_parts_are(bias: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias), nn.ReLU(), nn.Linear(6, 5, bias), nn.ReLU(), nn.Linear(5, 2, bias))
    for shape in ((3, 4), (3, 7, 4)):
        couplings = whole(model, torch.randn(shape))
        assert set(couplings.operations) == {"linear", "relu"}
        assert groups(couplings, "0.weight") == groups(couplings, "2.weight", 1) == one_by_one(6)
        assert groups(couplings, "2.weight") == groups(couplings, "4.weight", 1) == one_by_one(5)
        assert tied(couplings, "0.weight", "2.weight", 0, 1) and not groups(couplings, "4.weight")


NORMS: dict[str, tuple[Callable[[], nn.Module], list[list[int]]]] = {
    "batch": (lambda: nn.BatchNorm2d(8), one_by_one(8)),
    "batch without weights": (lambda: nn.BatchNorm2d(8, affine=False), one_by_one(8)),
    "one group": (lambda: nn.GroupNorm(1, 8), one_by_one(8)),
    "two groups": (lambda: nn.GroupNorm(2, 8), spaced(8, 2)),
    "two groups without weights": (lambda: nn.GroupNorm(2, 8, affine=False), spaced(8, 2)),
    "a group each": (lambda: nn.GroupNorm(8, 8), [list(range(8))]),
}


@pytest.mark.parametrize("name", NORMS)
def test_channels_of_a_norm_of_images(name: str) -> None:
    make, expected = NORMS[name]
    couplings = followed(between(make()), torch.randn(IMAGE))
    assert groups(couplings, "0.weight") == groups(couplings, "2.weight", 1) == expected
    if "1.weight" in couplings.axes:
        assert tied(couplings, "0.weight", "1.weight") and tied(couplings, "0.weight", "1.bias")


@pytest.mark.parametrize("groups_of_norm", [1, 2, 4])
def test_a_group_norm_keeps_its_statistics_where_each_group_loses_a_copy(groups_of_norm: int) -> None:
    """Each group is two equal halves, of which the last layer reads the first: without the others nothing changes."""
    torch.manual_seed(0)
    model, size = between(nn.GroupNorm(groups_of_norm, 16), channels=16), 16 // groups_of_norm
    model[0] = nn.Conv2d(8, 16, 1)
    copies = [place for place in range(16) if place % size >= size // 2]
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[copies] = tensor[[place - size // 2 for place in copies]]
        model[2].weight[:, copies] = 0
    images = torch.randn(IMAGE)
    couplings = followed(model, images)
    gone = np.unique(couplings.of("0.weight", 0)[copies])
    assert set(gone) & set(couplings.of("0.weight", 0)) == set(gone) and len(gone) == size // 2
    small = without(model, couplings, gone, True)
    small[1].num_channels = 8
    assert small[0].weight.shape[0] == small[1].weight.shape[0] == small[2].weight.shape[1] == 8
    with torch.no_grad():
        torch.testing.assert_close(small(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["batch", "one group"])
def test_norms_are_layers_of_the_graph(name: str) -> None:
    model, images = between(NORMS[name][0]()).eval(), torch.randn(IMAGE)
    graph = ChannelGraph(model, Example((images,), {}))
    members = graph.members(graph.components("0", [1, 4]))
    assert {member.name: member.channels.tolist() for member in members} == {"0": [1, 4], "1": [1, 4]}
    couplings = followed(model, images)
    both = couplings.members(couplings.of("0.weight", 0)[[1, 4]])
    assert {name for name, dim in both} == {"0.weight", "0.bias", "2.weight"} | {
        f"1.{key}" for key, tensor in model[1].state_dict().items() if tensor.dim()
    }
    assert all(places.tolist() == [1, 4] for places in both.values())


@pytest.mark.parametrize("follow", [followed, whole])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_over_the_last_dimension_goes_with_it(kind: type[nn.Module], follow: Callable[..., Couplings]) -> None:
    model = nn.Sequential(nn.Linear(4, 6), kind(6), nn.Linear(6, 2))
    couplings = follow(model, torch.randn(3, 5, 4))
    assert groups(couplings, "0.weight") == groups(couplings, "1.weight") == one_by_one(6)
    assert tied(couplings, "1.weight", "2.weight", 0, 1)


@pytest.mark.parametrize("follow", [followed, whole])
def test_a_norm_over_several_dimensions_keeps_their_lengths(follow: Callable[..., Couplings]) -> None:
    couplings = follow(between(nn.LayerNorm([8, 6, 6])), torch.randn(IMAGE))
    assert groups(couplings, "0.weight") == [] == groups(couplings, "2.weight", 1)
    assert "layer_norm" in couplings.reason("0.weight", 0)[0]


@pytest.mark.parametrize("follow", [followed, whole])
def test_a_norm_over_a_head_keeps_its_width(follow: Callable[..., Couplings]) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.two = nn.Linear(4, 12), nn.LayerNorm(4), nn.Linear(12, 2)
            self.heads = 3

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.norm(self.one(x).view(*x.shape[:2], self.heads, 4)).reshape(*x.shape[:2], -1))

    couplings = follow(Heads(), torch.randn(3, 5, 4))
    assert groups(couplings, "one.weight") == groups(couplings, "two.weight", 1) == runs(12, 4)
    assert groups(couplings, "norm.weight") == []


def test_a_group_norm_of_shuffled_channels() -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.two = nn.Conv2d(8, 8, 1), nn.GroupNorm(1, 4), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            return self.two(self.norm(x.view(len(x), -1, 2, *x.shape[2:])).mean(2))

    couplings = followed(Shuffled(), torch.randn(IMAGE))
    assert groups(couplings, "one.weight") == runs(8, 2)
    assert groups(couplings, "norm.weight") == groups(couplings, "two.weight", 1) == one_by_one(4)


class Tokens(nn.Module):
    """The sum of a row of each of two tables, before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places, self.head = nn.Embedding(11, 6), nn.Embedding(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.tokens(x) + self.places(torch.arange(x.shape[1]))))


def test_tables_that_are_added_lose_the_same_columns_and_no_row() -> None:
    torch.manual_seed(0)
    model, sentence = Tokens(), torch.randint(0, 11, (2, 5))
    couplings = followed(model, sentence)
    assert groups(couplings, "tokens.weight", 1) == groups(couplings, "head.weight", 1) == one_by_one(6)
    assert tied(couplings, "tokens.weight", "places.weight", 1, 1)
    assert groups(couplings, "tokens.weight") == [] == groups(couplings, "places.weight")
    gone = np.unique(couplings.of("head.weight", 1)[[1, 2, 5]])
    masked, small = without(model, couplings, gone, False), without(model, couplings, gone, True)
    assert small.tokens.weight.shape == (11, 3)
    torch.testing.assert_close(small(sentence), masked(sentence))


class Shared(nn.Module):
    """Torch's attention of six heads, by threes on two heads of keys and values; a value is wider than a key."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(12, 24), nn.Linear(12, 8), nn.Linear(12, 10)
        self.out = nn.Linear(30, 12)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).view(*x.shape[:2], -1, width).transpose(1, 2)
            for layer, width in ((self.query, 4), (self.key, 4), (self.value, 5))
        )
        attended = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.out(attended.transpose(1, 2).reshape(*x.shape[:2], -1))


@pytest.mark.parametrize("follow", [followed, whole])
def test_heads_with_shared_keys_go_with_them(follow: Callable[..., Couplings]) -> None:
    couplings = follow(Shared(), torch.randn(2, 5, 12))
    assert groups(couplings, "key.weight") == runs(8, 4)
    assert groups(couplings, "query.weight") == runs(24, 12)
    assert groups(couplings, "value.weight") == runs(10, 5)
    assert groups(couplings, "out.weight", 1) == runs(30, 15)
    both = (
        couplings.of("key.weight", 0)[::4],
        couplings.of("value.weight", 0)[::5],
        couplings.of("query.bias", 0)[::12],
    )
    assert both[0].tolist() == both[1].tolist() == both[2].tolist()


def test_half_of_the_shared_keys_are_cut() -> None:
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(2, 5, 12)
    couplings = followed(model, x)
    gone = np.unique(couplings.of("key.weight", 0)[:4])
    masked, small = without(model, couplings, gone, False), without(model, couplings, gone, True)
    assert (small.query.weight.shape[0], small.value.weight.shape[0], small.out.weight.shape[1]) == (12, 5, 15)
    torch.testing.assert_close(small(x), masked(x), rtol=1e-4, atol=1e-5)


class Moved(nn.Module):
    """Two layers of eight channels each, between which `move` changes the places of channels or of positions."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.move = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1), move

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.move(self.one(x)))


def half(x: Tensor) -> int:
    return x.shape[1] // 2


def reordered(x: Tensor) -> Tensor:
    return x[:, torch.tensor([3, 1, 0, 2, 4, 5, 7, 6])]


def in_windows(x: Tensor) -> Tensor:
    """Cut an image into windows of 3 by 3 and put it together again."""
    return F.fold(F.unfold(x, 3, stride=3), x.shape[-2:], 3, stride=3)


MOVES: dict[str, tuple[Callable[[Tensor], Tensor], list[list[int]], str]] = {
    # groups of the first layer, the operation that keeps the others
    "places rolled": (lambda x: x.roll((1, 2), (2, 3)), one_by_one(8), ""),
    "channels rolled": (lambda x: x.roll(1, 1), [], "roll"),
    "all rolled": (lambda x: x.roll(1), [], "roll"),
    "places chosen": (lambda x: x[:, :, torch.tensor([0, 2])], one_by_one(8), ""),
    "channels chosen": (reordered, [], "index"),
    "masked": (lambda x: x[torch.arange(2) < 1], [], "index"),
    "windows along a side": (lambda x: x.unfold(2, 3, 3).mean(-1), one_by_one(8), ""),
    "windows along channels": (lambda x: x.unfold(1, 8, 1).movedim(-1, 1).squeeze(2), [], "unfold"),
    "windows": (in_windows, one_by_one(8), ""),
    "same layout": (lambda x: x.as_strided(x.shape, x.stride()), one_by_one(8), ""),
    "other layout": (lambda x: x.as_strided(x.shape, (x.stride(0), 36, 1, 6)), [], "as_strided"),
    "halves stacked": (lambda x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2), spaced(8, 2), ""),
    "halves swapped": (lambda x: torch.cat((x[:, half(x) :], x[:, : half(x)]), 1), spaced(8, 2), ""),
    "from the end": (lambda x: torch.cat((x[:, -half(x) :], x[:, : -half(x)]), 1), spaced(8, 2), ""),
    "uneven parts": (lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1), [], "split"),
    "every other": (lambda x: torch.cat((x[:, ::2], x[:, 1::2]), 1), [], "slice"),
    "side stacked": (lambda x: torch.stack((x, x), -1).mean(-1), one_by_one(8), ""),
    "nothing before": (lambda x: torch.cat((torch.empty(0), x), 1), one_by_one(8), ""),
}


@pytest.mark.parametrize("name", MOVES)
def test_moved_channels(name: str) -> None:
    """What stays free is cut, and the network answers as with zeros in its place; what stays names its operation."""
    torch.manual_seed(0)
    move, free, operation = MOVES[name]
    model, images = Moved(move), torch.randn(IMAGE)
    couplings = followed(model, images)
    assert groups(couplings, "one.weight") == free
    if not free:
        assert all(operation in reason for reason in couplings.reason("one.weight", 0))
        return
    gone = np.unique(couplings.of("one.weight", 0)[[place for group in free[::2] for place in group]])
    masked, small = without(model, couplings, gone, False), without(model, couplings, gone, True)
    assert small.one.weight.shape[0] == small.two.weight.shape[1] == 4
    with torch.no_grad():
        torch.testing.assert_close(small(images), masked(images), rtol=1e-4, atol=1e-5)


def test_the_mask_of_an_attention_goes_with_its_heads() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 12), nn.Linear(12, 2)
            self.bias = nn.Parameter(torch.randn(3, 5, 5))

        def forward(self, x: Tensor) -> Tensor:
            heads = self.one(x).view(*x.shape[:2], -1, 4).transpose(1, 2)
            attended = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.bias)
            return self.two(attended.transpose(1, 2).flatten(2))

    couplings = followed(Biased(), torch.randn(3, 5, 4))
    assert couplings.of("bias", 0).tolist() == couplings.of("one.weight", 0)[::4].tolist()
    assert groups(couplings, "bias") == one_by_one(3)


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d, nn.FeatureAlphaDropout, nn.AlphaDropout])
def test_dropout_ties_no_channels(dropout: type[nn.Module]) -> None:
    couplings = record(between(dropout(0.5)), lambda one: one(torch.randn(IMAGE)), modes=(True,))
    assert groups(couplings, "0.weight", 0) == one_by_one(8)


def test_a_weight_that_a_hook_computes_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1), torch.nn.utils.spectral_norm(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 3, 1))
    graph = ChannelGraph(model, Example.from_dummy(torch.randn(IMAGE)))
    assert '"1", whose weight is computed by spectral_norm' in graph.whole_layers["0"]
