"""int8 of networks of tokens: any length, every way of calling, tables, attention, layers that need care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress import create_compressor, load
from raycompress.bundle import bundle
from raycompress.bundle.calling import without_fast_path
from raycompress.bundle.example import Example
from raycompress.bundle.manifest import listed
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.saving import free_axes
from raycompress.compressors.saving.traceable_attention import traceable_attention
from raycompress.errors import BundleError, CompressionError, ExperimentError
from tests.support.models import decoders

pytest.importorskip("onnxruntime")
WIDTH, WORDS = 32, 500


class Decoder(nn.Module):
    """Embeddings and torch's own attention; the mask and the kinds may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(WORDS, WIDTH), nn.Embedding(2, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)

    def forward(self, ids: Tensor, mask: Tensor | None = None, kinds: Tensor | None = None) -> Tensor:
        kinds = torch.zeros_like(ids) if kinds is None else kinds
        padding = None if mask is None else mask == 0
        answer: Tensor = self.layers(self.words(ids) + self.kinds(kinds), src_key_padding_mask=padding)
        return answer


class Tokens(nn.Module):
    """Calls a module of a module, so that the scope between them is in no name of the ONNX file."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"decoder": Decoder()})
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.model["decoder"].words.weight

    def forward(self, ids: Tensor, mask: Tensor | None = None, kinds: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.model["decoder"](ids, mask, kinds)
        return {"hidden": hidden, "scores": self.head(hidden)}


def tokens() -> Tokens:
    torch.manual_seed(0)
    return Tokens().eval()


def ids(batch: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(0, WORDS, (batch, length), generator=torch.Generator().manual_seed(seed))


def made(name: str, folder: Path, entries: list[dict[str, Any]] | None = None, **arguments: Any) -> tuple[Path, Tokens]:
    model = tokens()
    config = {"compressor": name, "config_list": entries or [{"op_types": ["default"]}], "arguments": arguments}
    data = [((ids(4, length, length),), 0) for length in (6, 12)]
    compressor = create_compressor(model, config, dummy_input=ids(1, 12), calibration_data=data)
    compressor.compress()
    compressor.export_model("m.pth", folder_name=str(folder), bundle_path=str(folder / "bundle"))
    loaded = load(folder / "bundle", Tokens())
    assert relative_difference(Example((ids(2, 9),), {}).outputs(model), Example((ids(2, 9),), {}).outputs(loaded)) == 0
    return folder / "bundle", loaded


@pytest.mark.parametrize("name", ["ptq_dynamic", "ptq_static"])
def test_any_length_and_every_way_of_calling(name: str, tmp_path: Path) -> None:
    folder, loaded = made(name, tmp_path)
    dense, given = tokens(), ids(3, 9)
    mask = torch.ones_like(given)
    mask[0, 5:] = 0
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((given,), {}),
        ((given, None), {"kinds": None}),
        ((), {"ids": given[:1, :2]}),
        ((given, mask), {}),
        ((given,), {"mask": mask.bool()}),
        ((given,), {"kinds": given % 2}),
    ]
    for args, kwargs in calls:
        with without_fast_path(), torch.no_grad():
            expected, got = dense(*args, **kwargs), loaded(*args, **kwargs)
        assert list(got) == ["hidden", "scores"]
        assert relative_difference(list(expected.values()), list(got.values())) < 0.06
    manifest = bundle.read(folder)
    assert manifest.after.size_bytes < 0.5 * manifest.before.size_bytes  # the table alone is that much in float
    assert not any("float" in note.partition(";")[2] or "stays float" in note for note in manifest.notes)
    assert any("dimension 1 of input.0" in note for note in manifest.notes)


def test_what_a_sample_gives_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    _, loaded = made("ptq_dynamic", tmp_path)
    given = ids(3, 9)
    with torch.no_grad():
        torch.testing.assert_close(loaded(given)["hidden"][:1], loaded(given[:1])["hidden"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("reduce_range", [True, False])
def test_tables_are_left_out_where_the_config_says_so(tmp_path: Path, reduce_range: bool) -> None:
    """The output layer shares the table, and reads its numbers, whatever bits it asks for."""
    entries = [{"op_types": ["default"]}, {"op_types": ["Embedding"], "exclude": True}]
    (tmp_path / "all").mkdir()
    whole = bundle.read(made("ptq_dynamic", tmp_path / "all", reduce_range=reduce_range)[0]).after.size_bytes
    rest = bundle.read(made("ptq_dynamic", tmp_path, entries, reduce_range=reduce_range)[0]).after.size_bytes
    assert rest - whole > 3 * WORDS * WIDTH


class Outlier(nn.Module):
    """The second layer meets one large input among small ones, which need a range of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        large = torch.zeros_like(x)
        large[:, 0] = 300.0
        hidden = self.first(x)
        answer: Tensor = self.second(torch.stack([hidden, hidden + large], dim=1))[:, 0]
        return answer


def test_static_spares_a_layer_that_calibration_shows_sensitive(tmp_path: Path) -> None:
    differences, notes = {}, {}
    for spare in (True, False):
        torch.manual_seed(0)
        model, data = Outlier().eval(), torch.randn(32, 8)
        with torch.no_grad():
            expected = model(data)
        config = {"compressor": "ptq_static", "config_list": [{"op_types": ["Linear"]}]}
        compressor = create_compressor(model, config, calibration_data=data, spare_sensitive=spare)
        compressor.compress()
        compressor.export_model("m.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "b"))
        differences[spare] = relative_difference([expected], [model(data)])
        notes[spare] = " ".join(bundle.read(tmp_path / "b").notes)
    assert differences[True] < 0.03 < 0.3 < differences[False]
    assert "int8 with a range for each row" in notes[True]
    assert "second" in notes[True]
    assert "range for each row" not in notes[False]


def test_values_for_missing_inputs_are_checked_when_a_bundle_is_loaded(tmp_path: Path) -> None:
    folder, _ = made("ptq_dynamic", tmp_path)
    recipe = json.loads((folder / bundle.QUANTIZATION).read_text())
    assert recipe == {"form": "int8", "neutral": {"mask": 1, "kinds": 0}}
    (folder / bundle.QUANTIZATION).write_text(json.dumps({"form": "int8", "neutral": {"mask": "1"}}))
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    manifest["files"].update(listed(folder, [folder / bundle.QUANTIZATION]))
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="neutral maps parameters to whole numbers"):
        load(folder, Tokens())


def test_a_range_that_is_none_is_refused() -> None:
    config = {"compressor": "ptq_dynamic", "config_list": [{"op_types": ["Linear"]}], "arguments": {"reduce_range": 7}}
    compressor = create_compressor(nn.Sequential(nn.Linear(4, 4)), config, dummy_input=torch.randn(1, 4))
    with pytest.raises(ExperimentError, match='reduce_range is true, false or "auto", not 7'):
        compressor.compress()


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,vi->bv", x, self.table.weight)


def test_a_layer_of_which_nothing_becomes_int8_is_an_error() -> None:
    config = {"compressor": "ptq_dynamic", "config_list": [{"op_types": ["default"]}]}
    compressor = create_compressor(Einsum(), config, dummy_input=torch.randn(1, 4))
    with pytest.raises(CompressionError, match="nothing of table becomes int8: in the ONNX graph"):
        compressor.compress()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["padding", "boolean", "added", "each"])
def test_attention_that_is_traced_is_torchs(kind: str, batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    x = torch.randn(3, 5, 8) if batch_first else torch.randn(5, 3, 8)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    masks: dict[str, dict[str, Tensor]] = {
        "padding": {"key_padding_mask": padding},
        "boolean": {"attn_mask": later},
        "added": {"attn_mask": torch.randn(5, 5)},
        "each": {"attn_mask": torch.randn(6, 5, 5)},
    }
    for more in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        expected = layer(x, x, x, **masks[kind], **more)
        with traceable_attention(layer):
            got = layer(x, x, x, **masks[kind], **more)
        torch.testing.assert_close(got, expected)
    assert "forward" not in vars(layer)


def test_axes_that_are_free() -> None:
    model, given = tokens(), ids(2, 12)
    assert free_axes.find(model, Example((given, torch.ones_like(given)), {})).sizes == {
        (0, 1): (12, 6),
        (1, 1): (12, 6),
    }
    images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    found = free_axes.find(images, Example((torch.randn(1, 1, 10, 14),), {}))
    assert found.sizes == {(0, 2): (10, 5), (0, 3): (14, 7)}
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert not free_axes.find(fixed, Example((torch.randn(1, 1, 8, 8),), {})).sizes


def test_weights_alone_with_a_table_that_the_output_layer_shares(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    folder, loaded = made("int8_weight_only", tmp_path)
    with without_fast_path():
        given = Example((ids(2, 9),), {})
        assert relative_difference(given.outputs(tokens()), given.outputs(loaded)) < 0.02
    assert loaded.head.weight is loaded.model["decoder"].words.weight
    manifest = bundle.read(folder)
    assert manifest.after.size_bytes < 0.5 * manifest.before.size_bytes


class Multiplied(nn.Module):
    """Reads the weight of a layer beside calling it, and multiplies by it, as Mamba does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second.weight @ self.first(x).transpose(-1, -2) + self.second.bias[:, None]
        answer: Tensor = self.head(hidden.transpose(-1, -2)) - self.head.weight.norm(dim=1)
        return answer


class Named(nn.Module):
    """Passes a weight by its name, as timm's Swin V2 and BEiT do, with a bias and without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(WIDTH, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.linear(x, weight=self.first.weight, bias=torch.zeros(64))
        return nn.functional.linear(hidden, weight=self.head.weight)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("kind", "share", "dummy"),
    [
        (Named, 0.4, torch.randn(2, 3, WIDTH)),
        (decoders.Gpt, 0.35, decoders.ids()),
        (decoders.Mixture, 0.35, decoders.ids()),
        (Multiplied, 0.4, torch.randn(2, 3, WIDTH)),
    ],
)
def test_weights_alone_wherever_forward_reads_them(
    kind: type[nn.Module], share: float, dummy: Tensor, bits: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    expected = Example((dummy,), {}).outputs(model)
    config = {"compressor": "int8_weight_only", "config_list": [{"op_types": ["default"], "quant_bits": bits}]}
    compressor = create_compressor(model, config, dummy_input=dummy)
    compressor.compress()
    got = Example((dummy,), {}).outputs(model)
    assert 0 < relative_difference(expected, got) < (0.02 if bits == 8 else 0.25)
    compressor.export_model("m.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "b"))
    sizes = bundle.read(tmp_path / "b")
    assert sizes.after.size_bytes < (share if bits == 8 else 0.7 * share) * sizes.before.size_bytes
    again = Example((dummy,), {}).outputs(load(tmp_path / "b", kind()))
    assert relative_difference(got, again) == 0


@pytest.mark.parametrize(("is_transposed", "bits"), [(False, 8), (True, 8), (True, 4)])
def test_experts_are_stored_as_integers_in_the_onnx_file(is_transposed: bool, bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, given = decoders.Mixture(is_transposed=is_transposed).eval(), decoders.ids()
    expected = Example((given,), {}).outputs(model)
    config = {"compressor": "ptq_dynamic", "config_list": [{"op_types": ["default"], "quant_bits": bits}]}
    compressor = create_compressor(model, config, dummy_input=given)
    compressor.compress()
    assert 0 < relative_difference(expected, Example((given,), {}).outputs(model)) < (0.05 if bits == 8 else 0.3)
    compressor.export_model("m.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "b"))
    manifest = bundle.read(tmp_path / "b")
    assert manifest.after.size_bytes < 0.4 * manifest.before.size_bytes
    assert not any("stays float" in note for note in manifest.notes)
