"""Quantizers of torch models: NNI's, and those that work after the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycompress.catalog.entry import Argument, CompressorEntry

PARTS: Mapping[str, tuple[str, ...]] = {
    "naive": ("weight",),
    "dorefa": ("weight",),
    "bnn": ("weight", "output"),
    "qat": ("weight", "input", "output"),
    "lsq": ("weight", "input", "output"),
    "observer": ("weight", "input", "output"),
}
"""What each compressor can quantize."""
BITS: Mapping[str, tuple[int, int]] = {
    "naive": (8, 8),
    "observer": (8, 8),
    "bnn": (1, 1),
    "dorefa": (1, 16),
    "qat": (2, 16),
    "lsq": (2, 16),
}
"""Fewest and most bits of each compressor; above 16 float32 itself is the coarser grid."""

IN_ONNX = ("ptq_static", "ptq_dynamic")
"""The compressors of trained models whose file is ONNX."""
OF_LAYERS: Mapping[str, tuple[int, ...]] = dict.fromkeys((*IN_ONNX, "int8_weight_only"), (4, 8, 16, 32))
"""What ``quant_bits`` of a layer may be where a trained model is quantized: above 8 it stays float.

Of 8 bits are a layer's weights, and with those `IN_ONNX` its inputs; of 4 its weights alone.
"""
STAYS_FLOAT: Mapping[str, Any] = {"op_types": ["default"], "quant_bits": 32}
"""An entry for one of `OF_LAYERS` that leaves every layer as it is."""
SENSITIVITY, SEARCHED = "sensitivity", (32, 8, 4)
"""What ``quant_bits`` may be in guided search, and the bits that it then chooses among for each layer."""


def value_such_as(key: str, compressor: str) -> Any:
    """Return a value for a key of an entry that a compressor needs."""
    if key == "quant_types":
        return [PARTS.get(compressor, ("weight",))[0]]
    if key == "quant_bits":
        return min(8, BITS.get(compressor, (1, 8))[1])
    return 0.5 if "sparsity" in key else 3


ACTIVATIONS = (
    *("ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Sigmoid", "LogSigmoid", "Tanh"),
    *("Hardtanh", "Hardswish", "Hardsigmoid", "Softplus", "Softsign", "Softmax", "LogSoftmax"),
)
"""Layers without a weight, in whose place a model may well call a function."""
_NNI = "raycompress.compressors.quantization.nni:NniQuantization"
_WHILE = "while the script trains after compress(); the int8 file at export, or in apply_speedup()"
_OPTIMIZER = Argument("optimizer", None, "the optimizer that trains the model", from_script=True)
_LEARNS = Argument(
    "optimizer",
    None,
    "the optimizer that trains the model and the step sizes",
    from_script=True,
    required=True,
)
_DATA = Argument(
    "calibration_data",
    None,
    "inputs (tensor, DataLoader, batches) to calibrate the int8 model with; by default the first 256 the model meets",
    from_script=True,
)
_STATIC_DATA = Argument(
    "calibration_data",
    None,
    "inputs (tensor, DataLoader, batches) to calibrate with; by default what the model met before compress()",
    from_script=True,
)
_PER_CHANNEL = Argument("per_channel", True, "a scale for each output channel of a weight, not one for all")
_REDUCE_RANGE = Argument(
    "reduce_range",
    "auto",
    "weights in 7 bits, for processors whose int8 product saturates; auto: on x86 without VNNI",
)
_SPARE = Argument(
    "spare_sensitive",
    True,
    "layers that one range for all inputs costs too much, as the calibration data shows, get none: linear ones one for "
    "each row (from 2.5 % of their output on), convolutions stay float (from 10 % on); a note names them",
)
_OF_TRANSFORMERS = ("MultiheadAttention", "Conv1D", "Embedding", "Experts")
"""Further layers of which the ONNX file has weights: torch's attention, the linear layer of GPT-2, tables, mixtures."""
_RECURRENT = ("LSTM", "GRU", "RNN")
_EVERYTHING: tuple[Mapping[str, Any], ...] = ({"op_types": ["default"]},)


def is_of_activations(entry: Mapping[str, Any]) -> bool:
    """Tell whether an entry names types of activations alone: a model that calls functions instead has none of them."""
    types = entry.get("op_types") or ("",)
    return "op_names" not in entry and all(kind in ACTIVATIONS for kind in types)


def _nni(
    name: str,
    summary: str,
    paper: str,
    arguments: tuple[Argument, ...],
    more: tuple[str, ...] = (),
    acts: str = _WHILE,
    without_entries: tuple[Mapping[str, Any], ...] = (),
) -> CompressorEntry:
    return CompressorEntry(
        name,
        "torch",
        "quantization",
        _NNI,
        summary,
        (*arguments, _DATA),
        (),
        False,
        paper,
        compressor="raycompress.compressors.quantization.fake_quantizer:FakeQuantizer",
        keys=("quant_types", "quant_bits", *more),
        needs=("quant_types", "quant_bits"),
        acts=acts,
        instead="ptq_static",
        without_entries=without_entries,
    )


ENTRIES: tuple[CompressorEntry, ...] = (
    _nni(
        "naive",
        "Rounds weights to 8 bits, one scale a layer.",
        "NNI's own",
        (_OPTIMIZER,),
        acts="in compress(); the script may train on",
        without_entries=({"quant_types": ["weight"], "quant_bits": 8, "op_types": ["default"]},),
    ),
    _nni(
        "qat",
        "Trains with weights and activations rounded to a grid of 2 to 16 bits; dummy_input= folds BatchNorm first.",
        "Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, "
        "CVPR 2018",
        (_OPTIMIZER,),
        ("quant_start_step", "quant_scheme", "quant_dtype"),
    ),
    _nni(
        "dorefa",
        "Trains with weights of 1 to 16 bits, squeezed into -1 to 1.",
        "Zhou et al., DoReFa-Net: Training Low Bitwidth CNNs with Low Bitwidth Gradients, 2016",
        (_OPTIMIZER,),
    ),
    _nni(
        "bnn",
        "Trains with weights and outputs of -1 and 1; leave the first and the last layer out.",
        "Courbariaux et al., Binarized Neural Networks, NeurIPS 2016",
        (_OPTIMIZER,),
    ),
    _nni(
        "lsq",
        "Trains with values of 2 to 16 bits and learns the step sizes; dummy_input= folds BatchNorm first.",
        "Esser et al., Learned Step Size Quantization, ICLR 2020",
        (_LEARNS,),
    ),
    _nni(
        "observer",
        "Rounds to 8 bits by the ranges that it sees between create_compressor and compress(), with no training.",
        "NNI's own, after PyTorch's observers",
        (_OPTIMIZER,),
        acts="in compress()",
    ),
    CompressorEntry(
        "ptq_static",
        "torch",
        "quantization",
        "raycompress.compressors.quantization.int8:static",
        "Turns a trained model into int8, weights and activations, with no training; onnxruntime computes it.",
        (
            _STATIC_DATA,
            _PER_CHANNEL,
            _REDUCE_RANGE,
            Argument("calibration", "minmax", "ranges of activations: minmax, entropy or percentile"),
            _SPARE,
        ),
        (
            *("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Linear"),
            *_RECURRENT,
            *_OF_TRANSFORMERS,
        ),
        False,
        "onnxruntime's static quantization (QDQ); Jacob et al., CVPR 2018",
        compressor="raycompress.compressors.quantization.post_training:OnnxQuantizer",
        keys=("quant_bits",),
        needs=(),
        takes_subclasses=True,
        without_entries=_EVERYTHING,
    ),
    CompressorEntry(
        "ptq_dynamic",
        "torch",
        "quantization",
        "raycompress.compressors.quantization.int8:dynamic",
        "Turns a trained model's linear, recurrent and embedding layers into int8, with no data, for onnxruntime.",
        (
            Argument("calibration_data", None, "inputs; one of them shows the model's form", from_script=True),
            _PER_CHANNEL,
            _REDUCE_RANGE,
        ),
        ("Linear", *_RECURRENT, *_OF_TRANSFORMERS),
        False,
        "a scale for each row of activations, after Yao et al., ZeroQuant, NeurIPS 2022; LSTMs by onnxruntime",
        compressor="raycompress.compressors.quantization.post_training:OnnxQuantizer",
        keys=("quant_bits",),
        needs=(),
        takes_subclasses=True,
        without_entries=_EVERYTHING,
        instead="ptq_static",
    ),
    CompressorEntry(
        "int8_weight_only",
        "torch",
        "quantization",
        "raycompress.compressors.quantization.weight_only:quantize",
        "Stores weights of linear layers and embeddings as int8, or in 4 bits; the arithmetic stays float.",
        (Argument("calibration_data", None, "inputs to compare the outputs on", from_script=True),),
        ("Linear", "Conv1D", "Embedding", "Experts"),
        False,
        "torchao's Int8WeightOnlyConfig",
        compressor="raycompress.compressors.quantization.weight_only:WeightOnlyQuantizer",
        keys=("quant_bits",),
        needs=(),
        takes_subclasses=True,
        stores_weights=True,
        without_entries=_EVERYTHING,
        instead="ptq_static",
    ),
)
