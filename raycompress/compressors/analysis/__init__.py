"""Analysis of a trained model before compression: sensitivity and cost of its layers."""

from raycompress.compressors.analysis.agreement import Agreement
from raycompress.compressors.analysis.cost import model_cost
from raycompress.compressors.analysis.sensitivity import SPARSITIES, layer_sensitivity
from raycompress.compressors.analysis.targets import channel_dependency

__all__ = ["SPARSITIES", "Agreement", "channel_dependency", "layer_sensitivity", "model_cost"]
