"""Plots of sensitivity curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from raycompress.errors import StorageError
from raycompress.extras import check_installed, load_extra
from raycompress.results.analysis.data import Curve, Sensitivity

LIBRARIES = ("matplotlib", "plotly")
_WHAT = "the picture of the curves"
_IN_LEGEND = 24


def check_libraries() -> None:
    """Raise MissingDependencyError, without importing anything, where a picture could not be drawn."""
    check_installed(LIBRARIES, "raycompress[report]", _WHAT)


def write_png(sensitivity: Sensitivity, path: str | Path) -> None:
    """Draw one line a layer, coloured by its depth in the model; needs matplotlib.

    Raises
    ------
    MissingDependencyError, StorageError
        matplotlib is not there; the file cannot be written.
    """
    colours = _library("matplotlib").colormaps["viridis"]
    figure = _library("matplotlib.figure").Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    curves = sensitivity.curves
    for place, curve in enumerate(curves):
        shares, values = _points(sensitivity, curve)
        colour = colours(_depth(place, len(curves)))
        axes.plot(shares, values, marker="o", markersize=3, linewidth=1.3, color=colour, label=_short(curve.name))
    axes.axhline(sensitivity.dense, linestyle="--", linewidth=1, color="0.5", label="dense")
    axes.set_xlabel("share removed from the layer")
    axes.set_ylabel(sensitivity.metric)
    axes.set_title("Each layer pruned alone, without training")
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.3)
    if len(curves) <= _IN_LEGEND:
        figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    else:
        scale = _library("matplotlib.cm").ScalarMappable(cmap=colours)
        bar = figure.colorbar(scale, ax=axes, ticks=[0, 1])
        bar.ax.set_yticklabels([f"first\n{_short(curves[0].name)}", f"last\n{_short(curves[-1].name)}"])
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_html(sensitivity: Sensitivity, path: str | Path) -> None:
    """Draw the same as one HTML file that needs no network, lines named on hover; needs plotly.

    Raises
    ------
    MissingDependencyError, StorageError
        plotly is not there; the file cannot be written.
    """
    go = _library("plotly.graph_objects")
    sample_colorscale = _library("plotly.colors").sample_colorscale
    curves = sensitivity.curves
    figure = go.Figure()
    for place, curve in enumerate(curves):
        shares, values = _points(sensitivity, curve)
        (colour,) = sample_colorscale("Viridis", [_depth(place, len(curves))])
        figure.add_scatter(
            x=shares,
            y=[None if math.isnan(value) else value for value in values],
            mode="lines+markers",
            name=curve.name,
            line={"color": colour},
            customdata=[f"{gone} of {curve.size}" for gone in (0, *curve.removed)],
            hovertemplate="%{customdata} removed: %{y:.4g}",
            hoverlabel={"namelength": -1},
        )
    figure.add_hline(y=sensitivity.dense, line={"dash": "dash", "color": "gray", "width": 1}, annotation_text="dense")
    figure.update_layout(
        title="Each layer pruned alone, without training",
        xaxis={"title": "share removed from the layer", "range": [0, 1]},
        yaxis={"title": sensitivity.metric},
        template="plotly_white",
        hovermode="closest",
    )
    try:
        Path(path).write_text(figure.to_html(include_plotlyjs=True, full_html=True), encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _points(sensitivity: Sensitivity, curve: Curve) -> tuple[list[float], list[float]]:
    """Return the shares that were in fact removed, from none on, and the metric at each."""
    return [0.0, *(gone / curve.size for gone in curve.removed)], [sensitivity.dense, *curve.values]


def _depth(place: int, count: int) -> float:
    return 0.95 * place / max(1, count - 1)


def _short(name: str, width: int = 32) -> str:
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"


def _library(name: str) -> Any:
    return load_extra(name, "report", _WHAT)


def _unwritable(path: str | Path, error: OSError) -> StorageError:
    return StorageError(f"the plot cannot be written: {error.strerror}", where=str(path))
