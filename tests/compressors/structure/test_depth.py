"""Residual blocks: which ones a network has, and networks without some of them: as masked, sliced, saved, loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc
from raycompress import catalog
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.depth.depth import Depth, Dropping, by_influence
from raycompress.compressors.depth.dropped_block import DroppedBlock, drop_blocks
from raycompress.compressors.depth.finding import residual_blocks
from raycompress.compressors.depth.inspecting import inspect_blocks
from raycompress.compressors.depth.proof import masked, prove
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.structure.costing import cost_model
from raycompress.compressors.structure.inspection import inspect
from raycompress.errors import BundleError, CompressionError, ExperimentError, SpeedupError
from raycompress.forecast.forecast import Forecast
from raycompress.script.config import DEPTH_KEY

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Basic(nn.Module):
    """A block of a ResNet: the activation stands behind the addition."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.down = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    """Two stages; the first block of the second has a convolution on its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stage1, self.stage2 = nn.Sequential(Basic(8, 8), Basic(8, 8)), nn.Sequential(Basic(8, 12), Basic(12, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(F.relu(self.stem(x)))).mean((2, 3)))


BLOCKS = ["stage1.0", "stage1.1", "stage2.1"]


class Modules(nn.Module):
    """Modules that keep the shape, of which some are residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.gate, self.branch = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.shared = nn.Linear(6, 6)

    def block(self, form: str, x: Tensor) -> Any:
        if form == "scaled":
            return x * self.gate(x)
        if form == "moved":
            return x.roll(1, -1) + self.branch(x)
        if form == "moved back":
            return x.transpose(0, 1).add(self.branch(x).transpose(0, 1)).transpose(0, 1)
        if form == "joined":
            return torch.cat([x[..., :3], self.branch(x)[..., 3:]], -1)
        if form == "plain":
            return self.plain(x)
        if form == "constant":
            return x + self.plain.bias
        if form == "normed":
            return F.layer_norm(x + self.branch(x), (6,)), None
        return x + self.branch(x)


class Formed(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.modules_of = form, Modules()

    def forward(self, hidden: Tensor) -> Any:
        return self.modules_of.block(self.form, hidden)


class Around(nn.Module):
    """One such module, called by the name of its argument, so many times."""

    def __init__(self, form: str, times: int = 1) -> None:
        super().__init__()
        self.one, self.times = Formed(form), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            found = self.one(hidden=x)
            x = found[0] if isinstance(found, tuple) else found
        return x * 2


@pytest.mark.parametrize(
    ("form", "times", "is_block"),
    [
        *((form, 1, False) for form in ("scaled", "moved", "joined", "plain", "constant")),
        *((form, 1, True) for form in ("residual", "normed", "moved back")),
        ("residual", 2, False),
    ],
)
def test_a_block_is_what_adds_something_to_its_own_input(form: str, times: int, is_block: bool) -> None:
    model, x = Around(form, times), Example.for_model(torch.randn(6, 6), nn.Identity())
    found = [(block.name, block.type) for block in residual_blocks(model, x)]
    assert found == ([("one", "Formed")] if is_block else [])
    if is_block:
        returns = residual_blocks(model, x)[0].returns
        assert prove(model, {"one": returns}, x) == 0
        drop_blocks(model, {"one": returns})
        assert torch.equal(model(x.args[0]), x.args[0] * 2)


def test_stages_are_no_blocks_and_parts_of_layers_neither() -> None:
    example = Example.for_model(IMAGES, ResNet())
    assert [block.name for block in residual_blocks(ResNet(), example)] == BLOCKS
    for norm_first in (False, True):
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)
        model = nn.Sequential(nn.Linear(4, 16), nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
        found = residual_blocks(model, Example.for_model(torch.randn(2, 5, 4), model))
        assert [block.name for block in found] == [f"1.layers.{index}" for index in range(3)]


def pruner_of(model: nn.Module, depth: Any, sparsity: float = 0.5, **given: Any) -> Any:
    entries = [{"sparsity": sparsity, "op_types": ["default"]}]
    config = {"compressor": "group_l1", "config_list": entries, DEPTH_KEY: depth, "arguments": {"round_to": 1}}
    return rc.create_compressor(model, config, **given)


@pytest.mark.parametrize("has_input", [True, False])
def test_a_network_without_blocks_is_the_masked_one_and_loads_into_its_class(has_input: bool, tmp_path: Path) -> None:
    model, fresh = ResNet(), ResNet()
    dense = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    compressor = pruner_of(model, {"drop": ["stage1.0", "stage2.1"]}, **({"dummy_input": IMAGES} if has_input else {}))
    model = compressor.compress()
    before = model(IMAGES).detach()
    model.train()
    model(IMAGES).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    after = compressor.apply_speedup().eval()

    assert isinstance(after.stage1[0], DroppedBlock) and isinstance(after.stage2[1], DroppedBlock)
    assert not any(name.startswith(("stage1.0", "stage2.1")) for name in after.state_dict())
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in after.parameters()}
    compressor.export_model("m.pth", "masks.pth", str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    masks = torch.load(tmp_path / "masks.pth", weights_only=True)
    assert not masks["stage1.0.conv1.weight"].any() and masks["stage1.1.conv1.weight"].any()
    removed = bundle.read(tmp_path / "bundle").removed
    assert removed["stage1.0.conv2"] == (8, 8) and removed["stage1.1.conv1"] == (4, 8)
    loaded = rc.load(tmp_path / "bundle", fresh)
    assert torch.equal(loaded.eval()(IMAGES), after(IMAGES)) and before.shape == after(IMAGES).shape
    assert not torch.equal(dense.eval()(IMAGES), after(IMAGES))
    with pytest.raises(BundleError, match=r'"stage1\.0" is Sequential in the model and Basic in the plan'):
        other = ResNet()
        other.stage1[0] = nn.Sequential(*other.stage1[0].children())
        rc.load(tmp_path / "bundle", other)


def test_as_masked_the_weights_of_a_block_count_for_nothing() -> None:
    model, example = ResNet().eval(), Example.for_model(IMAGES, ResNet())
    one = masked(model, {"stage1.1": 0})
    with torch.no_grad():
        for parameter in one.stage1[1].parameters():  # type: ignore[index, union-attr]
            parameter.normal_()
    small = copy.deepcopy(model)
    Dropping.of(small, {"stage1.1": 0}).apply(small)
    assert relative_difference(example.outputs(one), example.outputs(small)) == 0
    assert relative_difference(example.outputs(model), example.outputs(small)) > 1e-3


def test_what_a_dropped_network_costs_is_known_to_the_unit() -> None:
    model, example = ResNet(), Example.for_model(IMAGES, ResNet())
    costs = cost_model(model, example, BLOCKS)
    entry = catalog.find("group_l1", "torch")
    assert entry is not None
    forecast = Forecast(inspect(model, example), type(costs).from_json(costs.to_json()), entry.given({"round_to": 1}))
    for drop in ([], ["stage1.0"], ["stage1.1", "stage2.1"], BLOCKS):
        small = copy.deepcopy(model)
        entries = [{"sparsity": 0.5, "op_types": ["default"]}]
        compressor = pruner_of(small, {"drop": drop}, dummy_input=IMAGES)
        compressor.compress()
        compressor.apply_speedup()
        found = forecast.sizes({"config_list": entries, "arguments": {"round_to": 1}, "depth": {"drop": drop}})
        assert found == {name: float(value) for name, value in measure.sizes(small, example).to_json().items()}


def test_of_a_number_those_go_that_change_least() -> None:
    model, example = ResNet().eval(), Example.for_model(IMAGES, ResNet())
    with torch.no_grad():
        for index, scale in ((0, 3.0), (1, 0.01)):
            model.stage1[index].bn2.weight.fill_(scale)
        model.stage2[1].bn2.weight.fill_(0.5)
    assert by_influence(model, BLOCKS, [example]) == ["stage1.1", "stage2.1", "stage1.0"]
    compressor = pruner_of(model, {"drop": 2}, 0.0, dummy_input=IMAGES, calibration=[IMAGES])
    compressor.compress()
    assert [name for name, one in model.named_modules() if isinstance(one, DroppedBlock)] == ["stage1.1", "stage2.1"]


def test_without_layers_to_prune_blocks_alone_go(tmp_path: Path) -> None:
    model, fresh = ResNet(), ResNet()
    config = {"compressor": "group_l1", "config_list": [], DEPTH_KEY: {"drop": ["stage1.1"]}}
    compressor = rc.create_compressor(model, config, dummy_input=IMAGES)
    compressor.compress()
    small = compressor.apply_speedup().eval()
    compressor.export_model("m.pth", None, str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    assert torch.equal(rc.load(tmp_path / "bundle", fresh).eval()(IMAGES), small(IMAGES))
    assert small.stem.out_channels == 8 and isinstance(small.stage1[1], DroppedBlock)


def test_compress_drops_blocks_too(tmp_path: Path) -> None:
    result = rc.compress(ResNet(), IMAGES, sparsity=0.0, depth={"drop": ["stage1.1"]}, folder=tmp_path / "bundle")
    assert result.relative_difference == 0 and result.removed["stage1.1.conv1"] == (8, 8)
    assert result.after["params"] < result.before["params"] and isinstance(result.model.stage1[1], DroppedBlock)


def test_distillation_leaves_out_what_the_student_has_not() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3))
    x = torch.randn(2, 4, 8)
    compressor = pruner_of(model, {"drop": ["0.layers.0"]}, dummy_input=x, teacher=True)
    small = compressor.compress()
    inner = {"attention": True, "features": ["0.layers.0.linear1", "0.layers.1.linear1"]}
    loss = rc.distill(small, compressor.teacher, x, weight=1.0, **inner)
    assert loss.isfinite() and loss > 0
    assert rc.distill(small, compressor.teacher, x, weight=1.0, attention="0.layers.0.*").isfinite()


def test_an_encoder_of_torch_without_its_first_layer_runs_with_padding_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 3).eval(), torch.randn(2, 4, 8)
    drop_blocks(model, {"layers.0": 0})
    with torch.no_grad():
        padded = model(x, src_key_padding_mask=torch.tensor([[False] * 4, [False, False, True, True]]))
    assert torch.allclose(padded[0], model(x)[0], atol=1e-5)


class Asking(nn.Module):
    """Reads of its blocks what kind they are, and of the second one a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Formed("residual") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            assert block.form == "residual"
            x = block(x)
        return x * self.blocks[1].modules_of.plain.weight.sum()


def test_a_block_that_the_network_needs_otherwise_is_told() -> None:
    model = Asking()
    example = Example.for_model(torch.randn(2, 6), model)
    first, second = inspect_blocks(model, example)
    assert not first.why_not and 'without "blocks.1" the model cannot run' in second.why_not
    with pytest.raises(SpeedupError, match=r'without "blocks\.1" the model cannot run'):
        pruner_of(model, {"drop": ["blocks.1"]}, dummy_input=torch.randn(2, 6)).compress()
    assert not any(isinstance(one, DroppedBlock) for one in model.modules())


@pytest.mark.parametrize(
    ("depth", "error", "what"),
    [
        ({"drop": ["stage1"]}, CompressionError, '"stage1" is no residual block of ResNet'),
        ({"drop": ["stage2.0"]}, CompressionError, '"stage2.0" is no residual block'),
        ({"drop": 4}, CompressionError, "4 blocks are to go, and ResNet has 3 that can"),
        ({"blocks": "auto"}, ExperimentError, "the depth must say which blocks go, or how many"),
        ({"drop": "stage1.1"}, ExperimentError, "the depth must say which blocks go, or how many"),
    ],
)
def test_what_cannot_be_dropped_is_told(depth: Any, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        pruner_of(ResNet(), depth, dummy_input=IMAGES).compress()
    assert Depth.of(None) is None


def cached(model: Any, ids: Tensor) -> Tensor:
    """Return the logits of tokens that come one by one, behind the first four."""
    out = model(ids[:, :4], use_cache=True)
    found = [out.logits]
    for place in range(4, ids.shape[1]):
        out = model(ids[:, place : place + 1], past_key_values=out.past_key_values, use_cache=True)
        found.append(out.logits)
    return torch.cat(found, 1)


def _decoder(kind: str, **more: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    more |= {"vocab_size": 50, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.3}
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes, **more)).eval()


MAKE: dict[str, Callable[[], Any]] = {
    "Llama": lambda: _decoder("Llama"),
    "Gemma2": lambda: _decoder("Gemma2", sliding_window=4),  # layers with windows, and without, in turn
}


@pytest.mark.night
@pytest.mark.parametrize(("kind", "drop"), [("Llama", (0,)), ("Llama", (0, 2)), ("Gemma2", (0, 3))])
@torch.no_grad()
def test_a_decoder_without_its_first_layers_still_fills_its_cache(kind: str, drop: tuple[int, ...]) -> None:
    model, ids = MAKE[kind](), torch.randint(0, 50, (1, 10), generator=torch.Generator().manual_seed(1))
    found = {block.name: block.returns for block in residual_blocks(model, Example.for_model(ids, model))}
    assert list(found) == [f"model.layers.{index}" for index in range(4)]
    drop_blocks(model, {f"model.layers.{index}": 0 for index in drop})
    assert relative_difference([model(ids, use_cache=False).logits], [cached(model, ids)]) < 1e-5
    answers = [model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=use) for use in (True, False)]
    assert torch.equal(*answers)


class Layer(nn.Module):
    """Holds its place in a cache, of which there may be two kinds."""

    def __init__(self, place: int, window: int | None) -> None:
        super().__init__()
        self.attention = Formed("residual")
        self.attention.place, self.attention.window = place, window
        self.depth = place / 2


def test_the_layers_that_stay_move_up_to_the_first_places_of_their_kind() -> None:
    def places(windows: list[int | None], drop: list[int]) -> list[int]:
        model = nn.Sequential(*(Layer(place, window) for place, window in enumerate(windows)))
        drop_blocks(model, {str(index): 0 for index in drop})
        return [layer.attention.place for layer in model if isinstance(layer, Layer)]  # type: ignore[misc]

    assert places([None] * 4, [0, 2]) == [0, 1]
    assert places([4, None, 4, None], [0, 3]) == [1, 0]
    assert places([4, None, 4, None], [0, 1, 2, 3]) == []
    with pytest.raises(CompressionError, match="no block of the first one's kind would be left"):
        places([4, None, 4, None], [0, 2])
