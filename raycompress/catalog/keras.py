"""Compressors of Keras models: a mask of our own, and the methods of the TensorFlow Model Optimization Toolkit."""

from __future__ import annotations

from raycompress.catalog.entry import Argument, CompressorEntry

_CALIBRATION = Argument(
    "calibration_data",
    None,
    "inputs to choose the ranges of the int8 TFLite model by; without it, those that the model is called with",
    from_script=True,
)
_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")
_WEIGHTED = (
    *("Dense", "EinsumDense", "Embedding", *_CONVOLUTIONS, "DepthwiseConv1D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "LSTMCell", "GRUCell", "SimpleRNNCell"),
)
_TFMOT = "raycompress.compressors.keras.tfmot"

ENTRIES = (
    CompressorEntry(
        "level",
        "tensorflow",
        "pruning",
        "raycompress.compressors.keras.level:KerasLevel",
        "Sets the single weights of smallest magnitude to zero; every class of Keras model, of Keras 3 or tf_keras.",
        (_CALIBRATION,),
        _WEIGHTED,
        False,
        "Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015",
        compressor="raycompress.compressors.keras.level:KerasLevel",
    ),
    CompressorEntry(
        "magnitude",
        "tensorflow",
        "pruning",
        f"{_TFMOT}:Magnitude",
        "Sets the single weights of smallest magnitude to zero, chosen anew while the script trains; tf_keras only.",
        (
            Argument("begin_step", 0, "batch from which on weights are removed"),
            Argument("end_step", 0, "batch by which the sparsity has risen to what is asked; 0: at once"),
            Argument("frequency", 1, "the weights to remove are chosen anew after so many batches"),
            _CALIBRATION,
        ),
        ("Dense", *_CONVOLUTIONS),
        False,
        "Zhu and Gupta, To prune, or not to prune, ICLR Workshop 2018",
        compressor=f"{_TFMOT}:Magnitude",
        acts="while the script trains",
        instead="level",
    ),
    # what its name promises is a code book: each weight becomes an index of a few bits
    CompressorEntry(
        "cluster",
        "tensorflow",
        "quantization",
        f"{_TFMOT}:Cluster",
        "Lets the weights of a layer share a few values, so that the file compresses well; tf_keras only.",
        (Argument("number_of_clusters", 16, "how many values the weights of a layer share"), _CALIBRATION),
        ("Dense", "Conv1D", "Conv2D", "Conv3D", "SeparableConv1D", "SeparableConv2D"),
        False,
        "Han et al., Deep Compression, ICLR 2016",
        compressor=f"{_TFMOT}:Cluster",
        keys=(),
        needs=(),
        without_entries=({"op_types": ["default"]},),
        acts="while the script trains",
    ),
    CompressorEntry(
        "qat",
        "tensorflow",
        "quantization",
        f"{_TFMOT}:Qat",
        "Trains with the rounding of 8 bits, and saves an int8 TFLite model; tf_keras only.",
        (_CALIBRATION,),
        ("Dense", "Conv2D", "DepthwiseConv2D"),
        False,
        "Jacob et al., Quantization and Training of Neural Networks for Efficient Inference, CVPR 2018",
        compressor=f"{_TFMOT}:Qat",
        keys=("quant_bits",),
        needs=(),
        without_entries=({"op_types": ["default"]},),
        acts="while the script trains",
    ),
)
