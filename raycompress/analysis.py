"""Analysis by hand: ``from raycompress import analysis``; see docs of each function.

::

    curves = analysis.layer_sensitivity(model, evaluate)
    curves.write_csv("sensitivity.csv")
    analysis.write_png(curves, "sensitivity.png")
    analysis.channel_dependency(model, images).write_csv("dependency.csv")
    analysis.model_cost(model, images).write_csv("layers.csv")
"""

from raycompress.compressors.analysis import Agreement, channel_dependency, layer_sensitivity, model_cost
from raycompress.results.analysis.plots import write_html, write_png

__all__ = ["Agreement", "channel_dependency", "layer_sensitivity", "model_cost", "write_html", "write_png"]
