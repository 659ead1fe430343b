"""Figures of the report, as Plotly's JSON data.

Colours are names of variables of ``page.css``, which ``page.js`` replaces by what they are in the light or in the dark.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycompress.model.measures import in_first_target, label
from raycompress.results import pareto
from raycompress.results.report.formatting import LOOKS, Look, duration, number, short
from raycompress.results.report.lanes import Span
from raycompress.states import TrialState

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord
    from raycompress.results.trial import TrialRecord

IN_PARALLEL = 9
IN_IMPORTANCE = 30
_AT_LEAST = 6
_WITH_EDGES = 200
"""Among more trials than these the edges of the bars would look like gaps."""

_SCALE = [[0.0, "--low"], [0.5, "--middle"], [1.0, "--high"]]


@dataclass(frozen=True)
class Figure:
    """A picture: Plotly's traces and layout, its height, and what it shows for those who cannot see it."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int
    label: str


def text(value: object) -> str:
    """Return `words` as Plotly's labels need them: they take a few tags and entities."""
    return html.escape(str(value), quote=False)


def against(record: SearchRecord, name: str, objective: str) -> Figure:
    """Return the score against one measure of the saved models, with the front of the two."""
    found = [trial for trial in _scored(record) if name in (trial.after or {})]
    front = pareto.front(found, record.header["goal"], [name])
    ordered = sorted(front, key=lambda trial: (trial.after or {})[name])
    line = {"color": "--front", "width": 1.5, "shape": "hv"}  # what a size buys holds up to the next size
    data = [
        _points(found, name, "trials", {"symbol": "circle", "size": 8, "color": "--finished", "opacity": 0.55}),
        {
            **_points(ordered, name, "Pareto front", {"symbol": "diamond", "size": 10, "color": "--front"}),
            "mode": "lines+markers",
            "line": line,
        },
    ]
    best, dense = record.best, record.baseline
    if best is not None and name in (best.after or {}):
        mark = {"symbol": "star", "size": 17, "color": "--best", "line": {"width": 1, "color": "--surface"}}
        data.append(_points([best], name, "best", mark))
    if dense is not None and dense.score is not None:
        size = (dense.after or dense.before or next((trial.before for trial in found if trial.before), {})).get(name)
        mark = {"symbol": "square-open", "size": 12, "color": "--dense", "line": {"width": 2.5}}
        data.append({**_points([dense], name, "dense model", mark), "x": [size]})
    called = label(in_first_target(name, found[0].after or {}) if found else name)
    layout = {
        "xaxis": {"title": {"text": text(called), "standoff": 8}, "exponentformat": "SI"},
        "yaxis": {"title": {"text": text(short(objective, 40)), "standoff": 8}, "automargin": True},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "margin": {"t": 44, "r": 16, "l": 64, "b": 52},
    }
    return Figure(data, layout, 380, f"{objective} against {called}")


def before_and_after_training(pairs: Sequence[tuple[int, float, float]], objective: str) -> Figure:
    """Return the score of each trial before it trained against the one after; `pairs` are trial and both."""
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "trials",
            "x": [before for _, before, _ in pairs],
            "y": [after for _, _, after in pairs],
            "text": [f"trial {trial}" for trial, _, _ in pairs],
            "hovertemplate": "%{text}<br>before %{x:.5g}<br>after %{y:.5g}<extra></extra>",
            "marker": {"symbol": "circle", "size": 8, "color": "--finished", "opacity": 0.7},
        }
    ]
    layout = {
        "xaxis": {"title": {"text": "before training, rung 0", "standoff": 8}},
        "yaxis": {"title": {"text": text(short(objective, 40)), "standoff": 8}, "automargin": True},
        "hovermode": "closest",
        "margin": {"t": 16, "r": 16, "l": 64, "b": 52},
    }
    return Figure(data, layout, 340, f"{objective} before and after training")


def _points(trials: Sequence[TrialRecord], name: str, label: str, marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": [(trial.after or {}).get(name) for trial in trials],
        "y": [trial.score for trial in trials],
        "text": ["dense model" if trial.baseline else f"trial {trial.number}" for trial in trials],
        "hovertemplate": "%{text}<br>%{x:,} → %{y:.5g}<extra></extra>",
        "marker": marker,
    }


def of_importance(shares: Mapping[str, float], chance: float) -> list[str]:
    """Return the dimensions that are drawn: those above `chance`, and some below it to compare them with."""
    above = sum(share > chance for share in shares.values())
    return list(shares)[: min(max(above, _AT_LEAST), IN_IMPORTANCE)]


def bars_of_importance(shares: Mapping[str, float], chance: float) -> Figure:
    """Return a bar a dimension, the most important on top, and a line at the level of `chance`."""
    ordered = [(name, shares[name]) for name in of_importance(shares, chance)]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [share for _, share in ordered],
        "text": [f"{share:.2f}" for _, share in ordered],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": "--finished"},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    line = {"color": "--text", "width": 1.5, "dash": "dot"}
    layout = {
        "xaxis": {"title": {"text": "share of importance", "standoff": 8}, "rangemode": "tozero"},
        "shapes": [{"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": chance, "x1": chance, "line": line}],
    }
    return _rows([name for name, _ in ordered], [bars], layout, "importance of each dimension")


def bars_of_layers(removed: Mapping[str, tuple[int, int]]) -> Figure:
    """Return a bar a layer: the share of its output channels that the best model has lost."""
    sparsity = [gone / of if of else 0.0 for gone, of in removed.values()]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": sparsity,
        "text": [f"{gone} of {of}" for gone, of in removed.values()],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": "--best"},
        "hovertemplate": "%{y}: %{x:.1%} (%{text})<extra></extra>",
    }
    layout = {
        "xaxis": {
            "title": {"text": "share of output channels removed", "standoff": 8},
            "range": [0, 1],
            "tickformat": ".0%",
        },
        "margin": {"t": 8, "r": 90, "b": 48, "l": 8},
    }
    return _rows(list(removed), [bars], layout, "sparsity of each layer of the best model")


def _rows(names: Sequence[str], data: list[dict[str, Any]], layout: dict[str, Any], label: str) -> Figure:
    """Return horizontal bars in as many rows as there are `names`, from the top."""
    places = list(range(len(names)))
    axis = {
        "tickvals": places,
        "ticktext": [text(short(name)) for name in names],
        "range": [len(names) - 0.4, -0.6],
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
    }
    rows = [{**trace, "y": places, "hovertext": [text(name) for name in names]} for trace in data]
    for trace in rows:
        trace["hovertemplate"] = trace["hovertemplate"].replace("%{y}", "%{hovertext}")
    layout = {"margin": {"t": 8, "r": 48, "b": 48, "l": 8}, "showlegend": False, **layout, "yaxis": axis}
    return Figure(rows, layout, 80 + 22 * max(len(names), 2), label)


def parallel(record: SearchRecord, dimensions: Sequence[str], objective: str) -> Figure:
    """Return one line a finished trial through its values of `dimensions` and its score."""
    trials = _scored(record)
    axes = [_axis(name, [trial.sample.get(name) for trial in trials]) for name in dimensions]
    scores = [trial.score for trial in trials]
    score = {"label": text(short(objective, 22)), "values": scores}
    line = {
        "color": scores,
        "colorscale": _SCALE,
        "reversescale": record.header["goal"] == "min",
        "showscale": True,
        "colorbar": {"title": {"text": text(short(objective, 16))}, "thickness": 12, "outlinewidth": 0},
    }
    trace = {
        "type": "parcoords",
        "dimensions": [*axes, score],
        "line": line,
        "labelangle": -20,
        "labelside": "top",
        "unselected": {"line": {"color": "--faint", "opacity": 0.25}},
    }
    return Figure([trace], {"margin": {"t": 96, "r": 24, "b": 28, "l": 72}}, 440, "proposals and scores of all trials")


def _axis(name: str, values: Sequence[Any]) -> dict[str, Any]:
    label = text(short(name, 22))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {"label": label, "values": list(values)}
    texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
    choices = sorted(set(texts))
    places = {word: place for place, word in enumerate(choices)}
    return {
        "label": label,
        "values": [places[word] for word in texts],
        "tickvals": list(places.values()),
        "ticktext": [text(short(word.strip('"'), 16)) for word in choices],
        "range": [-0.1, max(len(choices) - 1, 1) + 0.1],
    }


def timeline(spans: Sequence[Span]) -> Figure:
    """Return a bar a trial in the lane of its slot, and a sign where one failed."""
    lanes = sorted({span.lane for span in spans})
    unit, unit_name = _unit(max((span.end for span in spans), default=0.0))
    places = {lane: place for place, lane in enumerate(lanes)}
    data = []
    for state, look in LOOKS.items():
        chosen = [span for span in spans if span.trial.state is state]
        if not chosen:
            continue
        data.append(
            {
                **_bars(spans, chosen, unit, places),
                "name": f"{look.sign} {state} ({len(chosen)})",
                "marker": _filling(look, 1 if len(spans) <= _WITH_EDGES else 0),
            }
        )
        if state.is_failure:
            data.append(_signs(chosen, look.symbol, unit, places))
    layout = {
        "barmode": "overlay",
        "xaxis": {
            "title": {"text": f"{unit_name} since the first trial began", "standoff": 8},
            "rangemode": "tozero",
            "zeroline": False,
        },
        "yaxis": {
            "tickvals": list(places.values()),
            "ticktext": [f"slot {lane}" for lane in lanes],
            "range": [len(lanes) - 0.4, -0.6],
            "showgrid": False,
            "zeroline": False,
            "automargin": True,
        },
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "margin": {"t": 40, "r": 16, "b": 48, "l": 8},
    }
    return Figure(data, layout, 130 + 44 * max(len(lanes), 2), "when each trial ran, and in which slot")


def _bars(spans: Sequence[Span], chosen: Sequence[Span], unit: float, places: Mapping[int, int]) -> dict[str, Any]:
    """Return a bar for each of `chosen`, which are some of all `spans`."""
    return {
        "type": "bar",
        "orientation": "h",
        "base": [span.begin / unit for span in chosen],
        "x": [(span.end - span.begin) / unit for span in chosen],
        "y": [places[span.lane] for span in chosen],
        "width": 0.75,  # of its own accord Plotly makes bars wider where a state is not in neighbouring lanes
        "text": _inside(spans, chosen),
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "insidetextfont": {"color": "--surface", "weight": "bold"},
        "constraintext": "both",
        "customdata": [_hover_text(span) for span in chosen],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _filling(look: Look, edge: int) -> dict[str, Any]:
    """Return the colour and pattern of a state's bars; `edge` is the width of their outline."""
    return {
        "color": look.colour,
        "line": {"width": edge, "color": "--surface"},
        "pattern": {
            "shape": look.pattern,
            "size": 7,
            "solidity": 0.2,
            "fgcolor": "--surface",
            "bgcolor": look.colour,
        },
    }


def _signs(spans: Iterable[Span], symbol: str, unit: float, places: Mapping[int, int]) -> dict[str, Any]:
    """Return marks at the ends of trials: among a thousand a bar is too thin to see."""
    ends = list(spans)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [span.end / unit for span in ends],
        "y": [places[span.lane] + 0.44 for span in ends],
        "marker": {"symbol": symbol, "size": 8, "color": "--sign", "line": {"width": 1.5, "color": "--sign"}},
        "customdata": [_hover_text(span) for span in ends],
        "hovertemplate": "%{customdata}<extra></extra>",
        "showlegend": False,
        "cliponaxis": False,
    }


def _inside(spans: Sequence[Span], chosen: Iterable[Span]) -> list[str]:
    """Return the numbers of the trials, where there is room for them."""
    room = max((span.end for span in spans), default=0.0) / 60
    return [str(span.trial.number) if span.end - span.begin > room else "" for span in chosen]


def _hover_text(span: Span) -> str:
    trial = span.trial
    name = "dense model" if trial.baseline else f"trial {trial.number}"
    score = "" if trial.score is None else f"<br>score {number(trial.score)}"
    cause = f"<br>{text(short(trial.cause, 90))}" if trial.cause else ""
    return f"{name}: {trial.state}, {duration(trial.seconds)}{score}{cause}"


def _unit(seconds: float) -> tuple[float, str]:
    if seconds > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds > 180 else (1.0, "seconds")


def _scored(record: SearchRecord) -> list[TrialRecord]:
    return [trial for trial in record.searched if trial.state is TrialState.FINISHED and trial.score is not None]
