"""Weights of 4 bits: what is in the file, that onnxruntime computes with it, and that a bundle gives it back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.compressors.quantization.int4.nodes import prepare
from raycompress.compressors.quantization.int4.rounding import packed, rounded, unpacked
from raycompress.compressors.quantization.onnx_graph import Graph
from raycompress.model.stored import block_of, stored_bytes


class Layer(nn.Module):
    """One layer, called by itself."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.make, self.layer = make, make()

    def forward(self, x: Tensor) -> Any:
        answer = self.layer(x)
        return answer[0] if isinstance(answer, tuple) else answer


class Words(nn.Module):
    """An embedding whose weight the output layer shares, and every kind of layer between them."""

    def __init__(self, is_tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.conv = nn.Embedding(50, 64), nn.Conv1d(64, 24, 3)
        self.lstm, self.inner = nn.LSTM(24, 20, batch_first=True), nn.Linear(20, 64)
        self.out = nn.Linear(64, 50, bias=False)
        if is_tied:
            self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(self.table(x).transpose(1, 2)).relu().transpose(1, 2)
        answer: Tensor = self.out(self.inner(self.lstm(hidden)[0].mean(1)).relu())
        return answer


TOKENS = torch.randint(0, 50, (8, 9), generator=torch.Generator().manual_seed(0))


def saved(folder: Path, model: nn.Module, compressor: str, bits: dict[str, int], inputs: Tensor) -> tuple[Any, Tensor]:
    """Compress and save; returns the graph of the file and the outputs of the compressed model."""
    entries = [{"op_names": [name], "quant_bits": number} for name, number in bits.items()]
    config = {"compressor": compressor, "config_list": entries}
    made = rc.create_compressor(model.eval(), config, calibration_data=inputs)
    made.compress()
    made.export_model("m.pth", folder_name=str(folder), bundle_path=str(folder / "bundle"))
    with torch.no_grad():
        return onnx.load(str(folder / "bundle" / bundle.INT8_ONNX)), made.model(inputs)


def constants(graph: Any) -> dict[str, Any]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def weight_of(model: Any, kind: str) -> np.ndarray:
    """Return in float what the integers in the file say that the weight of the node of a kind is."""
    values = constants(model)
    made = {name: node for node in model.graph.node for name in node.output}
    node = next(node for node in model.graph.node if node.op_type == kind)
    if kind == "Conv":  # INT4 -> Cast -> Mul by the scales
        product = made[node.input[1]]
        whole = values[made[product.input[0]].input[0]]
        assert str(whole.dtype) == "int4"
        return whole.astype(np.float32) * values[product.input[1]]
    table = kind == "GatherBlockQuantized"
    whole, scales = values[node.input[0 if table else 1]], values[node.input[2]]
    assert whole.dtype == np.uint8
    width = 2 * whole.shape[-1] * (1 if table else whole.shape[-2])
    block = block_of(width)
    numbers = unpacked(whole.reshape(len(whole), -1), width).astype(np.float32) - 8
    return (numbers.reshape(len(whole), -1, block) * scales[..., None]).reshape(len(whole), -1)


@pytest.mark.parametrize("inputs", [64, 50, 10, 3])
def test_a_product_is_that_of_the_integers_in_the_file(tmp_path: Path, inputs: int) -> None:
    model, x = Layer(lambda: nn.Linear(inputs, 7)), torch.randn(5, inputs)
    bias = model.layer.bias.detach().numpy().copy()
    written, found = saved(tmp_path, model, "ptq_static", {"layer": 4}, x)
    weight = weight_of(written, "MatMulNBits")[:, :inputs]
    np.testing.assert_allclose(found.numpy(), x.numpy() @ weight.T + bias, atol=1e-5)
    assert 0.0 < np.linalg.norm(weight - model.layer.weight.detach().numpy()) < 0.15 * np.linalg.norm(weight)


def test_a_convolution_is_that_of_the_integers_in_the_file(tmp_path: Path) -> None:
    model, x = Layer(lambda: nn.Conv2d(3, 16, 3)), torch.randn(2, 3, 9, 9)
    written, found = saved(tmp_path, model, "ptq_static", {"layer": 4}, x)
    weight = torch.as_tensor(weight_of(written, "Conv"))
    torch.testing.assert_close(found, nn.functional.conv2d(x, weight, model.layer.bias), atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [64, 50, 12])
def test_rows_of_a_table_are_those_of_the_integers_in_the_file(tmp_path: Path, width: int) -> None:
    model = Layer(lambda: nn.Embedding(50, width))
    written, found = saved(tmp_path, model, "ptq_dynamic", {"layer": 4}, TOKENS)
    blocks = constants(written)
    node = written.graph.node[0]
    whole, scales = blocks[node.input[0]], blocks[node.input[2]]
    scales = np.repeat(scales, block_of(width), axis=1)[:, :width]
    weight = (unpacked(whole, width).astype(np.float32) - 8) * scales
    np.testing.assert_allclose(found.numpy(), weight[TOKENS.numpy()], atol=1e-6)


KINDS: dict[str, tuple[Any, int, int, Tensor]] = {
    "Linear": (lambda: nn.Linear(100, 40), 40, 100, torch.randn(4, 100)),
    "Conv2d": (lambda: nn.Conv2d(12, 40, 3), 40, 108, torch.randn(4, 12, 5, 5)),
    "Embedding": (lambda: nn.Embedding(50, 33), 50, 33, TOKENS),
}


CASES = [("ptq_static", kind) for kind in KINDS] + [("ptq_dynamic", "Linear"), ("ptq_dynamic", "Embedding")]


@pytest.mark.parametrize("bits", [32, 8, 4])
@pytest.mark.parametrize(("compressor", "kind"), CASES)
def test_bytes_in_the_file(tmp_path: Path, compressor: str, kind: str, bits: int) -> None:
    make, outputs, inputs, x = KINDS[kind]
    written, _ = saved(tmp_path, Layer(make), compressor, {"layer": bits}, x)
    for tensor in written.graph.initializer:
        tensor.ClearField("name")
        tensor.ClearField("dims")
    stored = sum(tensor.ByteSize() for tensor in written.graph.initializer)
    expected = stored_bytes(compressor, kind, outputs, inputs, bits, bias=kind != "Embedding")
    # a type and a length each; scales and zero points of activations, the constants of the rows' ranges
    assert 0 <= stored - expected <= 8 * len(written.graph.initializer) + 20


@pytest.mark.parametrize("compressor", ["ptq_static", "ptq_dynamic"])
def test_bits_of_every_kind_in_one_file(tmp_path: Path, compressor: str) -> None:
    can = ["table", "lstm", "inner", "out", *(["conv"] if compressor == "ptq_static" else [])]
    sizes = {}
    for name, bits in {
        "four": dict.fromkeys(can, 4),
        "mixed": dict(zip(can, [4, 8, 4, 8, 8], strict=False)),
        "eight": dict.fromkeys(can, 8),
        "float": dict(zip(can, [4, 32, 32, 8, 4], strict=False)),
    }.items():
        written, answer = saved(tmp_path / name, Words(), compressor, bits, TOKENS)
        onnx.checker.check_model(written)
        with torch.no_grad():
            assert torch.equal(rc.load(tmp_path / name / "bundle", Words())(TOKENS), answer)
            exact = Words().eval()(TOKENS)
        assert float((answer - exact).norm() / exact.norm()) < 0.2
        sizes[name] = (tmp_path / name / "bundle" / bundle.INT8_ONNX).stat().st_size
    assert sizes["four"] < sizes["mixed"] < sizes["eight"] < sizes["float"]


def test_linear_layers_beside_an_lstm_of_8_bits_are_integers_too(tmp_path: Path) -> None:
    bits = {"lstm": 8, "inner": 8, "out": 4}
    written, _ = saved(tmp_path, Words(), "ptq_dynamic", bits, TOKENS)
    kinds = {node.op_type for node in written.graph.node}
    assert {"DynamicQuantizeLSTM", "MatMulInteger", "MatMulNBits"} <= kinds
    assert not {"LSTM", "MatMul", "Gemm"} & kinds


@pytest.mark.parametrize("table", [4, 8])
def test_a_weight_that_two_layers_share(tmp_path: Path, table: int) -> None:
    """Of 4 bits both, it is stored once; otherwise each layer has its own."""
    bits = {"table": table, "out": 4, "inner": 8}
    written, answer = saved(tmp_path, Words(is_tied=True), "ptq_static", bits, TOKENS)
    packed_bytes = [tensor for tensor in written.graph.initializer if tensor.data_type == onnx.TensorProto.UINT8]
    assert [np.prod(tensor.dims) for tensor in packed_bytes if len(tensor.dims) > 1] == [50 * 32]
    exact = Words(is_tied=True).eval()(TOKENS)
    assert float((answer - exact).detach().norm() / exact.detach().norm()) < 0.2


def test_a_graph_that_has_no_newer_operators_is_refused() -> None:
    helper = onnx.helper
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv"), helper.make_node("Unheard", ["y"], ["z"])]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4) for name in ("x", "z")]
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(nodes, "strange", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(rc.errors.CompressionError, match=r"with the operators of ONNX 21, .*Unheard"):
        prepare(Graph(model), {"conv"}, {"x": np.ones((1, 3, 5, 5), np.float32)})


@pytest.mark.parametrize("length", [32, 288])
def test_the_range_of_least_error_beats_the_largest_value(length: int) -> None:
    blocks = np.random.default_rng(0).standard_normal((200, length)).astype(np.float32)
    scale = np.abs(blocks).max(-1, keepdims=True) / 7
    plain = np.linalg.norm(blocks - np.round(blocks / scale) * scale)
    for coarse in (False, True):
        numbers, scales = rounded(blocks, coarse)
        assert numbers.dtype == np.int8 and numbers.min() >= -8 and numbers.max() <= 7
        assert np.linalg.norm(blocks - numbers * scales) < 0.92 * plain
    as_bfloat16 = torch.as_tensor(scales).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(as_bfloat16, scales)


def test_blocks_of_zeros_and_of_one_value_are_exact() -> None:
    blocks = np.array([[0.0, 0.0], [0.0, -3.0], [2.0, 2.0]], np.float32)
    numbers, scales = rounded(blocks)
    np.testing.assert_allclose(numbers * scales, blocks, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_two_numbers_in_a_byte_come_back(count: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 16, (3, count)).astype(np.uint8)
    assert packed(numbers).shape == (3, (count + 1) // 2)
    np.testing.assert_array_equal(unpacked(packed(numbers), count), numbers)


class Pairs(nn.Module):
    """An embedding, linear layers of widths that have blocks of 32 and that have not, and one of GPT-2's kind."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        torch.manual_seed(0)
        self.table, self.inner, self.other = nn.Embedding(50, 50), nn.Linear(50, 37), nn.Linear(37, 64)
        self.turned, self.out = Conv1D(48, 64), nn.Linear(48, 50)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.out(self.turned(self.other(self.inner(self.table(x)).relu())).relu())
        return answer


BITS = {"table": 4, "inner": 4, "other": 8, "turned": 4, "out": 32}


def weights_only(folder: Path, model: nn.Module, bits: dict[str, int]) -> tuple[dict[str, Tensor], Tensor]:
    """Save with ``int8_weight_only``; returns what the bundle stores and the outputs of the compressed model."""
    entries = [{"op_names": [name], "quant_bits": number} for name, number in bits.items()]
    config = {"compressor": "int8_weight_only", "config_list": entries}
    made = rc.create_compressor(model.eval(), config, dummy_input=TOKENS)
    made.compress()
    made.export_model("m.pth", folder_name=str(folder), bundle_path=str(folder / "bundle"))
    with torch.no_grad():
        return load_file(folder / "bundle" / bundle.WEIGHTS), made.model(TOKENS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bundle_has_half_a_byte_for_a_weight(tmp_path: Path, dtype: torch.dtype) -> None:
    stored, answer = weights_only(tmp_path, Pairs(dtype), BITS)
    rows = {"table": (50, 50), "inner": (37, 50), "other": (64, 37), "turned": (48, 64), "out": (50, 48)}
    for name, (outputs, inputs) in rows.items():
        own = [t.numel() * t.element_size() for key, t in stored.items() if key.startswith(f"{name}.weight")]
        kind = "Embedding" if name == "table" else "Linear"
        size = dtype.itemsize
        assert sum(own) == stored_bytes("int8_weight_only", kind, outputs, inputs, BITS[name], float_bytes=size)
    assert bundle.read(tmp_path / "bundle").after.size_bytes == sum(t.nbytes for t in stored.values())
    with torch.no_grad():
        assert torch.equal(rc.load(tmp_path / "bundle", Pairs(dtype))(TOKENS), answer)
        exact = Pairs(dtype).eval()(TOKENS)
    assert float((answer - exact).norm() / exact.norm()) < 0.2


def test_weights_of_four_bits_are_the_numbers_times_their_scales(tmp_path: Path) -> None:
    stored, answer = weights_only(tmp_path, Pairs(), {"table": 4, "inner": 4})
    model = Pairs().eval()
    for name in ("table", "inner"):
        weight = getattr(model, name).weight
        numbers = unpacked(stored[f"{name}.weight.packed"].numpy(), weight.numel()).astype(np.float32) - 8
        scales = stored[f"{name}.weight.scale"]
        assert scales.dtype == torch.bfloat16 and scales.shape == (len(weight), 2)
        whole = torch.as_tensor(numbers).reshape(len(weight), 2, 25) * scales.float()[..., None]
        with torch.no_grad():
            weight.copy_(whole.flatten(1))
    with torch.no_grad():
        torch.testing.assert_close(answer, model(TOKENS))


def test_a_shared_weight_of_four_bits_is_stored_once_and_stays_shared(tmp_path: Path) -> None:
    stored, answer = weights_only(tmp_path, Words(is_tied=True), {"table": 4, "out": 4})
    assert [name for name in stored if name.endswith("packed")] == ["table.weight.packed"]
    loaded = rc.load(tmp_path / "bundle", Words(is_tied=True))
    assert loaded.out.weight is loaded.table.weight
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS), answer)


def test_a_shared_weight_has_the_same_bits_everywhere(tmp_path: Path) -> None:
    with pytest.raises(rc.errors.ExperimentError, match="share a weight, of which one has 4 bits and the other 8"):
        weights_only(tmp_path, Words(is_tied=True), {"table": 4, "out": 8})


def test_a_bundle_of_an_earlier_version_says_nothing_of_bits(tmp_path: Path) -> None:
    _, answer = weights_only(tmp_path, Pairs(), {"inner": 8, "out": 8})
    recipe, manifest = tmp_path / "bundle" / bundle.QUANTIZATION, tmp_path / "bundle" / bundle.MANIFEST
    content, facts = json.loads(recipe.read_text()), json.loads(manifest.read_text())
    assert content.pop("bits") == {"inner": 8, "out": 8}
    recipe.write_text(json.dumps(content))
    digest = hashlib.sha256(recipe.read_bytes()).hexdigest()
    facts["files"][bundle.QUANTIZATION] = {"sha256": digest, "bytes": recipe.stat().st_size}
    manifest.write_text(json.dumps(facts))
    with torch.no_grad():
        assert torch.equal(rc.load(tmp_path / "bundle", Pairs())(TOKENS), answer)
