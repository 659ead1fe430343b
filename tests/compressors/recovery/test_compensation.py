"""Compensation: layers that read removed channels are refitted, which brings outputs nearer, and proofs still hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import raycompress as rc
from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.bundle.structures import tensors_in
from raycompress.compressors.analysis.inputs import BATCH, inputs_of
from raycompress.compressors.compensation.compensate import Compensation, compensate
from raycompress.compressors.compensation.equations import NormalEquations, refitted
from raycompress.compressors.compensation.in_pruner import UNASKED, affordable
from raycompress.compressors.compensation.judge import standard_error
from raycompress.compressors.compensation.readers import input_rows, is_plain, matrix, output_rows, write
from raycompress.compressors.measure.difference import relative_difference
from raycompress.errors import CompressionError
from raycompress.script.config import SLICE_KEY
from tests.support.models.decoders import Gpt, Llama, Mixture, ids
from tests.support.models.networks import DUMMY, Cnn, digits, trained

OUTPUTS = {"cnn": "fc2", "resnet": "fc", "mobilenet": "fc", "vit": "head", "torch_vit": "head"}
LAYERS = {
    "strided groups": (nn.Conv2d(4, 6, 3, 2, 1, groups=2), (3, 4, 9, 7)),
    "dilated, reflected": (nn.Conv2d(4, 6, (3, 1), 1, (2, 0), dilation=2, padding_mode="reflect"), (3, 4, 9, 7)),
    "one dimension, same": (nn.Conv1d(4, 6, 3, padding="same"), (3, 4, 9)),
    "three dimensions": (nn.Conv3d(2, 4, 2), (2, 2, 4, 5, 6)),
    "linear on tokens": (nn.Linear(5, 3), (2, 4, 5)),
}


def seen() -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return a loader to calibrate with, and inputs that are not in it."""
    images, labels = digits()
    return list(zip(images[:384].split(64), labels[:384].split(64), strict=True)), images[1000:1200]


def first(output: Any) -> Tensor:
    return tensors_in(output)[0]


def pruned(model: nn.Module, name: str, *, loader: Any = None, when: str | None = None, **more: Any) -> Any:
    entries = [{"sparsity": 0.5, "op_types": ["default"]}, {"op_names": [OUTPUTS[name]], "exclude": True}]
    config = {"compressor": "group_l1", "config_list": entries, "arguments": {"round_to": 1, **more}}
    config |= {} if when is None else {SLICE_KEY: when}
    given = {} if loader is None else {"calibration": loader}
    compressor = create_compressor(model, config, dummy_input=DUMMY, **given)
    compressor.compress()
    return compressor


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_the_matrix_are_what_the_layer_computes(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        places, expected = output_rows(layer, layer(x), None, 50, 0)
    found = torch.einsum("ngi,gio->ngo", input_rows(layer, x, places, 1.0), matrix(layer, layer.bias.detach()))
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
    weight = layer.weight.detach().clone()
    assert torch.equal(write(layer, matrix(layer, layer.bias.detach())), layer.bias) and torch.equal(
        weight, layer.weight
    )


def test_a_fit_is_kept_where_held_out_rows_have_less_error() -> None:
    generator = torch.Generator().manual_seed(0)
    x, truth = torch.randn(200, 1, 6, generator=generator), torch.randn(1, 6, 2, generator=generator)
    y = torch.einsum("ngi,gio->ngo", x, truth)
    fit, held_out, others = NormalEquations(), NormalEquations(), NormalEquations()
    fit.add(x[:150], y[:150])
    held_out.add(x[150:], y[150:])
    others.add(x[150:], -y[150:])
    found = refitted(fit, held_out, torch.zeros_like(truth))
    assert found is not None
    assert (found - truth).norm() < 0.01 * truth.norm()
    assert refitted(fit, others, torch.zeros_like(truth)) is None, "held-out rows of another rule judge it"


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_on_other_inputs_come_nearer_and_the_sliced_model_is_the_masked_one(name: str) -> None:
    dense = trained(name, 60).eval()
    loader, others = seen()
    expected = dense(others)
    without, model = copy.deepcopy(dense), copy.deepcopy(dense)
    pruned(without, name)
    compressor = pruned(model, name, loader=loader)
    masked = model(others)
    differences = [relative_difference([expected], [one]) for one in (without(others), masked)]
    assert differences[1] < 0.8 * differences[0], differences
    small = compressor.apply_speedup()
    assert relative_difference([masked], [small(others)]) < 1e-5


@pytest.mark.parametrize("kind", [Gpt, Llama])
def test_decoders_come_nearer(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    dense = kind().eval()
    config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_types": ["default"]}]}
    loader = [{"tokens": ids(32, 16, seed)} for seed in range(2, 6)]
    others, outputs = ids(16, 16, 9), []
    for asked in (False, True):
        model = copy.deepcopy(dense)
        arguments = {"round_to": 1, "compensate": asked}
        compressor = create_compressor(model, {**config, "arguments": arguments}, dummy_input=ids(), calibration=loader)
        compressor.compress()
        outputs.append(first(model(others)))
    assert relative_difference([outputs[1]], [first(compressor.apply_speedup()(others))]) < 1e-5
    differences = [relative_difference([first(dense(others))], [one]) for one in outputs]
    assert differences[1] < 0.95 * differences[0], differences


def test_a_large_model_gets_fewer_inputs_whatever_the_loader_has_in_a_batch() -> None:
    singles = [Example((torch.zeros(1, 3),), {}) for _ in range(200)]
    assert len(affordable(singles, flops=10**6)) == 200
    assert len(affordable(singles, flops=10**12)) == BATCH
    halves = [Example((torch.zeros(48, 3),), {}) for _ in range(10)]
    assert sum(batch.batch for batch in affordable(halves, flops=10**12)) == 96, (
        "the batch that makes it enough is whole"
    )


def test_what_takes_long_is_done_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UNASKED, "cpu", 1)
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    for asked, note in ((None, '"compensate": true does it'), (True, "on 64 inputs")):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        assert note in halved(model, "0", x[:1], calibration=[x], compensate=asked)._compensation


def test_slicing_before_cuts_the_refitted_model() -> None:
    loader, others = seen()
    masked, small = trained("resnet").eval(), trained("resnet").eval()
    pruned(masked, "resnet", loader=loader)
    pruned(small, "resnet", loader=loader, when="before")
    assert small.conv1.out_channels == 8
    assert relative_difference([masked(others)], [small(others)]) < 1e-5


def test_without_a_loader_or_when_declined_weights_stay(capsys: pytest.CaptureFixture[str]) -> None:
    loader, _ = seen()
    dense = trained("cnn").eval()
    models = [copy.deepcopy(dense) for _ in range(2)]
    pruned(models[0], "cnn")
    pruned(models[1], "cnn", loader=loader, compensate=False)
    for model in models:
        kept = model.conv2.weight != 0
        assert kept.any() and torch.equal(model.conv2.weight[kept], dense.conv2.weight[kept])
    assert "compensation" not in capsys.readouterr().err


def test_a_bundle_says_so_and_reloads(tmp_path: Path) -> None:
    loader, others = seen()
    found = rc.compress(
        trained("cnn").eval(), DUMMY, "group_l1", 0.5, round_to=1, calibration=loader, folder=tmp_path / "bundle"
    )
    assert any("layers are refitted" in note for note in found.notes), found.notes
    again = rc.load(found.bundle, Cnn())
    assert relative_difference([found.model(others)], [again.eval()(others)]) < 1e-5


def test_what_cannot_be_refitted_is_named() -> None:
    loader, _ = seen()
    model = trained("vit").eval()
    model.blocks[1].fc2.weight = model.blocks[0].fc2.weight
    compressor = pruned(model, "vit", loader=loader)
    assert "blocks.0.fc2" in compressor._compensation and "another layer's too" in compressor._compensation
    heads = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.Linear(8, 8)).eval()
    heads[3].bias = heads[2].bias
    x = torch.randn(64, 8)
    assert "not 2: its bias is another layer's too" in halved(heads, "0", x[:1], calibration=[x])._compensation
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(16, 8))
    computed = halved(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), normed).eval(), "0", x[:1], calibration=[x])
    assert "not 2: its weight is computed from others" in computed._compensation
    torch.manual_seed(0)
    entries = [{"sparsity": 0.5, "op_names": ["experts"]}]
    mixture = create_compressor(
        Mixture().eval(),
        {"compressor": "group_l1", "config_list": entries, "arguments": {"round_to": 1}},
        dummy_input=ids(),
        calibration=[{"tokens": ids(32, 16)}],
    )
    mixture.compress()
    assert "nothing is refitted" in mixture._compensation and "not experts" in mixture._compensation


def halved(model: nn.Module, layer: str, x: Tensor, **given: Any) -> Any:
    config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_names": [layer]}]}
    compressor = create_compressor(model, {**config, "arguments": {}}, dummy_input=x, round_to=1, **given)
    compressor.compress()
    return compressor


def test_sums_are_exact_inside_an_autocast_block() -> None:
    x = torch.randn(64, 1, 5, generator=torch.Generator().manual_seed(0))
    plain, inside = NormalEquations(), NormalEquations()
    plain.add(x, x)
    with torch.autocast("cpu", torch.bfloat16):
        inside.add(x, x)
    assert torch.equal(plain.gram, inside.gram)


def test_statistics_that_alone_are_recomputed_are_not_called_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 1), nn.BatchNorm2d(4, momentum=None))
    x = torch.randn(64, 3, 8, 8)
    model[0].bias.data += 3  # what goes is a shift of the mean above all
    model(x)
    before = model[3].running_mean.clone()
    compressor = halved(model.eval(), "0", x[:1], calibration=[x])
    assert not torch.equal(before, model[3].running_mean)
    assert "BatchNorm's statistics alone are recomputed" in compressor._compensation, compressor._compensation


def test_a_loader_that_shuffles_changes_no_number_that_the_training_draws() -> None:
    loader, _ = seen()
    images = torch.utils.data.TensorDataset(torch.cat([one for one, _ in loader]))
    drawn = []
    for given in (None, torch.utils.data.DataLoader(images, 64, shuffle=True)):
        model = trained("cnn").eval()
        torch.manual_seed(1)
        pruned(model, "cnn", loader=given)
        drawn.append(torch.rand(1))
    assert torch.equal(*drawn)


def test_items_that_are_no_batches_are_named_and_nothing_fails() -> None:
    torch.manual_seed(0)
    model, rows = nn.Sequential(nn.Linear(100, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(40, 100)
    compressor = halved(model, "0", rows[:1], calibration=rows)
    assert "does not run on a part of an item" in compressor._compensation


def test_no_more_of_a_loader_is_read_than_is_enough() -> None:
    read: list[int] = []

    def batches() -> Any:
        for place in range(100):
            read.append(place)
            yield torch.zeros(16, 3)

    assert sum(one.batch for one in inputs_of(nn.Linear(3, 1), batches(), list, samples=40)) == 48
    assert read == [0, 1, 2]


def test_of_a_model_that_trained_masked_the_masked_one_is_the_aim() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval()
    x = torch.randn(32, 3, 8, 8)
    slicing = halved(model, "0", x[:1])._slicing
    batches = [Example((x,), {})]
    assert compensate(copy.deepcopy(model), slicing, batches, earlier=slicing).without < 1e-5
    assert compensate(copy.deepcopy(model), slicing, batches).without > 0.01, "the norm is over all channels there"


def test_what_is_no_loader_is_an_error_of_ours() -> None:
    with pytest.raises(CompressionError, match="calibration= is a function, which cannot be iterated over"):
        inputs_of(nn.Linear(3, 1), lambda: [torch.zeros(16, 3)], list)


def test_a_loader_with_persistent_workers_is_read_apart_from_the_loop_that_the_script_is_in() -> None:
    rows = torch.utils.data.TensorDataset(torch.arange(12.0)[:, None])
    loader = torch.utils.data.DataLoader(rows, 3, num_workers=1, persistent_workers=True)
    loop = iter(loader)
    seen_by_script = [next(loop)[0]]
    assert len(inputs_of(nn.Linear(1, 1), loader, list)) == 4
    seen_by_script += [batch[0] for batch in loop]
    assert torch.equal(torch.cat(seen_by_script), torch.arange(12.0)[:, None])


class Written(nn.Linear):
    """Computes what torch's linear layer does, in its own words."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Doubled(nn.Linear):
    """Computes something else from its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ (2 * self.weight.T) + self.bias


def test_a_layer_of_its_own_forward_is_refitted_where_it_computes_what_torchs_does() -> None:
    torch.manual_seed(0)
    x = torch.randn(128, 8) @ torch.randn(8, 8)
    plain = halved(nn.Sequential(nn.Linear(8, 8), Written(8, 3)), "0", x[:1], calibration=x.split(16))
    assert "1 layers are refitted" in plain._compensation, plain._compensation
    other = halved(nn.Sequential(nn.Linear(8, 8), Doubled(8, 3)), "0", x[:1], calibration=x.split(16))
    assert "not 1: its forward() is its own" in other._compensation


class Same(nn.Conv2d):
    """Pads at the end first, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


def test_a_convolution_that_pads_as_tensorflow_does_is_seen_to_be_plain() -> None:
    layer, x = Same(3, 4, 3, stride=2), torch.randn(2, 3, 8, 8)
    assert is_plain(layer, x, layer(x).detach())
    assert not is_plain(layer, x, 1.1 * layer(x).detach())


class Boxes(nn.Module):
    """Takes a list of images, and finds as many boxes in each as there are places of a high score."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = self.head(self.body(torch.stack(images)).relu()).flatten(2)
        return [{"boxes": one[1:, one[0] > one[0].mean()].T} for one in found]


def test_a_detector_is_judged_by_its_heads() -> None:
    torch.manual_seed(0)
    images = [list(torch.randn(8, 3, 8, 8)) for _ in range(4)]
    compressor = halved(Boxes().eval(), "body", (images[0][:2],), calibration=[((one,), 0) for one in images])
    assert "1 layers are refitted on 32 inputs" in compressor._compensation, compressor._compensation
    compressor.apply_speedup()


def test_a_gain_that_may_be_chance_is_none() -> None:
    assert standard_error([1.0, 1.0, 1.0, 1.0], [0.5, 1.4, 0.5, 1.4]) == pytest.approx(0.2598, abs=1e-4)
    found = Compensation(without=1.0, by=0.95, error=0.26)
    assert not found.is_kept and "may be chance" in str(found)
    assert Compensation(without=1.0, by=0.7, error=0.26).is_kept
