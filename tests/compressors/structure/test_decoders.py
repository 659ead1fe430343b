"""Decoders as people have them: layers whose weight is inputs by outputs, grouped keys, generation with a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress import catalog, create_compressor, load
from raycompress.bundle.example import Example
from raycompress.catalog import CompressorEntry
from raycompress.compressors.measure.sizes import flops
from raycompress.compressors.structure.costing import cost_model
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.inspection import inspect
from raycompress.config.matching import matches
from raycompress.errors import CompressionError, ExperimentError
from tests.support.models.decoders import WIDTH, WORDS, Gpt, Latent, Llama, Mixture, ids

DEFAULT = [{"sparsity": 0.5, "op_types": ["default"]}]


def find(name: str) -> CompressorEntry:
    found = catalog.find(name, "torch")
    assert found is not None
    return found


def seeded(kind: type[nn.Module]) -> Any:
    torch.manual_seed(0)
    return kind().eval()


def compressed(model: nn.Module, config_list: list[dict[str, Any]], name: str = "group_l1", **arguments: Any) -> Any:
    config = {"compressor": name, "config_list": config_list, "arguments": {"round_to": 1, **arguments}}
    compressor = create_compressor(model, config, dummy_input=ids())
    compressor.compress()
    return compressor


@torch.no_grad()
def answer(model: nn.Module, tokens: Tensor | None = None) -> Tensor:
    found: Tensor = model.eval()(ids() if tokens is None else tokens)
    return found


@pytest.mark.parametrize("config_list", [DEFAULT, [{"sparsity": 0.5, "op_names": ["blocks.0.c_fc", "blocks.1.c_fc"]}]])
def test_the_linear_layers_of_gpt2_are_sliced_and_reload(config_list: list[dict[str, Any]], tmp_path: Path) -> None:
    model = seeded(Gpt)
    compressor = compressed(model, config_list)
    masked = answer(model)
    compressor.apply_speedup()
    torch.testing.assert_close(answer(model), masked, rtol=0, atol=1e-5)
    block = model.blocks[0]
    assert block.c_fc.weight.shape == (model.wte.embedding_dim, 2 * WIDTH)
    assert (block.c_fc.nx, block.c_fc.nf, block.c_out.nx) == (model.wte.embedding_dim, 2 * WIDTH, 2 * WIDTH)
    if config_list is DEFAULT:  # half of the heads, and of the columns that all blocks read and write
        assert block.c_attn.weight.shape == (WIDTH // 2, 3 * WIDTH // 2)
        assert model.lm_head.weight.shape == (WORDS, WIDTH // 2)
    model.train()(ids()).square().mean().backward()
    compressor.export_model("m.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "b"))
    assert torch.equal(answer(load(tmp_path / "b", Gpt())), answer(model))


@pytest.mark.parametrize("name", ["group_l2", "group_fpgm", "group_lamp", "random"])
def test_every_measure_reads_their_weights(name: str) -> None:
    model = seeded(Gpt)
    compressed(model, [{"sparsity": 0.25, "op_names": ["blocks.1.c_fc"]}], name).apply_speedup()
    assert model.blocks[1].c_fc.weight.shape == (WIDTH, 3 * WIDTH)


def test_what_goes_by_l1_is_what_weighs_least() -> None:
    model = seeded(Gpt)
    with torch.no_grad():
        model.blocks[0].c_fc.weight[:, ::4] *= 1e-3
        model.blocks[0].c_out.weight[::4] *= 1e-3
    before = model.blocks[0].c_fc.bias.detach().clone()
    compressed(model, [{"sparsity": 0.25, "op_names": ["blocks.0.c_fc"]}]).apply_speedup()
    kept = torch.ones(4 * WIDTH, dtype=torch.bool)
    kept[::4] = False
    assert torch.equal(model.blocks[0].c_fc.bias, before[kept])


def test_gradients_of_their_weights_are_gathered() -> None:
    model = seeded(Gpt)
    compressor = compressed(model, [{"sparsity": 0.5, "op_types": ["default"]}], "group_taylor", statistics_batch_num=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for seed in range(2):
        optimizer.zero_grad()
        model.train()(ids(seed=seed)).square().mean().backward()
        optimizer.step()
    assert compressor.apply_speedup().blocks[0].c_fc.nf == 2 * WIDTH


def test_their_sizes_are_known_before_a_trial() -> None:
    model = seeded(Gpt)
    example = Example.from_dummy(ids())
    info = inspect(model, example)
    layer = info.layer("blocks.0.c_attn")
    assert layer is not None
    assert (layer.type, layer.channels) == ("Conv1D", 3 * WIDTH)
    assert "blocks.0.c_fc" not in info.whole_layers
    costs = cost_model(model, example)
    group = next(place for place, group in enumerate(costs.groups) if group.layers == ("blocks.0.c_fc",))
    removed = [0] * len(costs.groups)
    removed[group] = 10
    assert costs.sizes(removed)["params"] == costs.sizes([0] * len(removed))["params"] - 10 * (2 * WIDTH + 1)


class LowRank(nn.Linear):
    """A linear layer with a low-rank addition, as LoRA has it."""

    def __init__(self, inputs: int, outputs: int, rank: int = 4) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.first, self.second, self.head = LowRank(WIDTH, 40), LowRank(40, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        answer: Tensor = self.head(self.second(torch.relu(self.first(self.words(tokens)))))
        return answer


def test_default_stands_for_classes_derived_from_torchs_too(tmp_path: Path) -> None:
    model = seeded(Adapted)
    compressor = compressed(model, DEFAULT)
    masked = answer(model)
    compressor.apply_speedup()
    torch.testing.assert_close(answer(model), masked, rtol=0, atol=1e-5)
    assert (model.first.out_features, model.first.up.out_features, model.second.in_features) == (20, 20, 20)
    compressor.export_model("m.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "b"))
    assert torch.equal(answer(load(tmp_path / "b", Adapted())), answer(model))


def test_a_search_s_checks_know_derived_classes() -> None:
    layer = inspect(seeded(Adapted), Example.from_dummy(ids())).layer("first")
    assert layer is not None
    assert (layer.type, layer.base) == ("LowRank", "Linear")
    assert matches({"op_types": ["default"]}, layer, find("group_l1"))
    assert not matches({"op_types": ["Linear"]}, layer, find("group_l1"))
    assert not matches({"op_types": ["default"]}, layer, find("amc"))  # NNI's: it knows classes by their names


def test_a_derived_class_is_named_by_its_layer_and_not_by_the_other_s_type() -> None:
    model = seeded(Adapted)
    compressed(model, [{"sparsity": 0.5, "op_names": ["first", "first.up"]}]).apply_speedup()
    assert model.first.out_features == 20
    with pytest.raises(CompressionError, match='"first"'):  # the additions alone: their sums are not theirs to prune
        compressed(seeded(Adapted), [{"sparsity": 0.5, "op_types": ["Linear"]}])


def test_whole_groups_of_heads_go_and_rotated_dimensions_stay() -> None:
    model = seeded(Llama)
    compressor = compressed(model, DEFAULT)
    masked, written = answer(model), model.generate(ids(), 20)
    compressor.apply_speedup()
    for block in model.blocks:
        attention = block.attention
        assert attention.head_dim == 6
        assert attention.q_proj.out_features == attention.o_proj.in_features == 4 * 6
        assert attention.k_proj.out_features == attention.v_proj.out_features == 2 * 6
        assert attention.q_norm.weight.shape == (6,)
        assert block.gate_proj.out_features == 24
    assert model.frequencies.shape == (3,)
    torch.testing.assert_close(answer(model), masked, rtol=0, atol=1e-5)
    assert torch.equal(model.generate(ids(), 20), written)
    assert len(written[0].unique()) > 3


def test_heads_that_share_keys_are_one_block() -> None:
    graph = ChannelGraph(seeded(Llama), Example.from_dummy(ids()))
    queries, keys = (graph.components(f"blocks.0.attention.{name}_proj") for name in "qk")
    for group in range(4):
        of_group = {*queries[12 * group : 12 * (group + 1)].tolist()}
        assert of_group == {*keys[6 * group : 6 * (group + 1)].tolist()}
        assert len(of_group) == 1


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("name", ["group_l1", "group_taylor"])
def test_all_experts_lose_the_same_channels(is_transposed: bool, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mixture(is_transposed=is_transposed).eval()
    up = model.experts.gate_up_proj
    with torch.no_grad():  # of the gates and of the values, in all experts: these are worth the least
        up[(slice(None), slice(None), slice(0, 48, 2)) if is_transposed else (slice(None), slice(0, 48, 2))] *= 1e-3
    before = up.detach()[0].movedim(int(is_transposed), 0)[1::2]
    more = {"statistics_batch_num": 1} if name == "group_taylor" else {}
    compressor = compressed(model, [{"sparsity": 0.5, "op_names": ["experts"]}], name, **more)
    if more:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        model.train()(ids()).square().mean().backward()
        optimizer.step()
    masked = answer(model)
    compressor.apply_speedup()
    torch.testing.assert_close(answer(model), masked, rtol=0, atol=1e-5)
    up, down = model.experts.gate_up_proj, model.experts.down_proj
    dims = (1, 2) if is_transposed else (2, 1)
    assert (up.size(dims[1]), down.size(dims[0])) == (24, 12)
    assert torch.equal(up.detach()[0].movedim(int(is_transposed), 0), before)
    compressor.export_model("m.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "b"))
    fresh = Mixture(is_transposed=is_transposed)
    assert torch.equal(answer(load(tmp_path / "b", fresh)), answer(model))


def test_experts_are_known_before_a_trial_and_taken_by_default() -> None:
    model = seeded(Mixture)
    layer = inspect(model, Example.from_dummy(ids())).layer("experts")
    assert layer is not None
    assert (layer.type, layer.base, layer.channels) == ("Experts", "Experts", 48)
    for types in (["default"], ["Experts"]):
        assert matches({"op_types": types}, layer, find("group_l1"))
        again = seeded(Mixture)
        compressed(again, [{"sparsity": 0.5, "op_types": types}]).apply_speedup()
        assert again.experts.gate_up_proj.shape == (4, 24, WIDTH)
    with pytest.raises(ExperimentError, match="has no weight to prune"):
        config = {"compressor": "level", "config_list": [{"sparsity": 0.5, "op_names": ["experts"]}]}
        create_compressor(seeded(Mixture), config)


def test_heads_of_a_latent_attention_go() -> None:
    model = seeded(Latent)
    compressor = compressed(model, [{"sparsity": 0.5, "op_names": [f"attention.{name}" for name in ("query", "up")]}])
    masked = answer(model)
    compressor.apply_speedup()
    torch.testing.assert_close(answer(model), masked, rtol=0, atol=1e-5)
    attention = model.attention
    assert attention.query.out_features == 2 * (6 + 4)
    assert (attention.up.out_features, attention.out.in_features) == (2 * 2 * 6, 2 * 6)
    assert (attention.own, attention.turned, attention.latent) == (6, 4, 10)


class Sorted(nn.Module):
    """Experts as transformers computes them by default: tokens sorted by expert, one grouped product."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.experts = Grouped()
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        answer: Tensor = self.head(x + self.experts(x.flatten(0, 1)).view(x.shape))
        return answer


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_experts = 2
        self.up, self.down = nn.Parameter(torch.randn(2, 48, WIDTH)), nn.Parameter(torch.randn(2, WIDTH, 48))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([len(x) // 2, len(x)], dtype=torch.int32)
        hidden = torch.relu(torch._grouped_mm(x, self.up.transpose(1, 2), offs=ends))
        return torch._grouped_mm(hidden, self.down.transpose(1, 2), offs=ends)


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this torch has no grouped products")
def test_grouped_products_are_counted_and_foretold() -> None:
    model, example = seeded(Sorted), Example.from_dummy(ids(1, 8))
    whole = flops(model, example)
    assert whole["experts"] == 8 * 2 * 48 * WIDTH
    costs = cost_model(model, example)
    group = next(place for place, group in enumerate(costs.groups) if group.layers == ("experts",))
    removed = [0] * len(costs.groups)
    removed[group] = 24
    assert costs.sizes(removed)["flops"] == whole[""] - 8 * 2 * 24 * WIDTH
    config = {"compressor": "group_l1", "config_list": DEFAULT}
    create_compressor(model, config, dummy_input=ids(1, 8)).compress()
