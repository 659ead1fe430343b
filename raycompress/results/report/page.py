"""The report as one HTML page: assembles the sections and writes it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from raycompress import disk
from raycompress.extras import load_extra
from raycompress.model.measures import label
from raycompress.results import pareto
from raycompress.results.report import comparison, figures, goals, reproduce, table
from raycompress.results.report.formatting import duration
from raycompress.results.report.importance import METHOD, Importance, importance
from raycompress.results.report.lanes import spans
from raycompress.states import TrialState

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord

# nothing is fetched, whatever a name in the data says; regl, which draws the parallel coordinates, makes its functions
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; worker-src blob:"
)
_CAUSES = 6


def write(record: SearchRecord, path: Path, *, reload: float = 0) -> None:
    """Write the report of `record` to `path`, in one step.

    Parameters
    ----------
    reload
        After how many seconds the page loads itself again; 0 for a page that stays.

    Raises
    ------
    MissingDependencyError
        plotly is not installed.
    StorageError
        `path` cannot be written.
    """
    disk.write_whole(path, render(record, reload=reload))


def render(record: SearchRecord, *, reload: float = 0) -> str:
    """Return the report as one HTML document; the arguments are those of `write`."""
    library = _library()
    page = _Page(record, importance(record), reload)
    body = "\n".join(page.sections())
    attribute = f' data-reload="{reload:g}"' if reload else ""
    return "\n".join(
        [
            f'<!DOCTYPE html>\n<html lang="en"{attribute}>\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(record.id)}</title>\n<style>\n{_own('page.css')}</style>\n</head>\n<body>\n<main>",
            body,
            f'</main>\n<script type="application/json" id="figures">{page.data()}</script>',
            f"<script>{library}</script>\n<script>\n{_own('page.js')}</script>\n</body>\n</html>\n",
        ]
    )


def check_libraries() -> None:
    """Raise MissingDependencyError where plotly is not installed."""
    _library()


def _library() -> str:
    """Return plotly.js; the package ships it whole only."""
    script: str = load_extra("plotly.offline", "report", "the report").get_plotlyjs()
    return script


def _own(name: str) -> str:
    return files("raycompress.results.report").joinpath(name).read_text(encoding="utf-8")


@dataclass
class _Page:
    """The sections of one report, and the figures that they hold."""

    record: SearchRecord
    importance: Importance
    reload: float = 0
    drawn: dict[str, figures.Figure] = field(default_factory=dict)

    def data(self) -> str:
        """Return all figures as JSON that may stand in a script element."""
        data = {
            name: {"data": figure.data, "layout": figure.layout, "height": figure.height}
            for name, figure in self.drawn.items()
        }
        raw = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=str)
        return raw.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

    def sections(self) -> Iterator[str]:
        """Yield the page from its head to its end."""
        yield self._head()
        yield _section("Best and dense model", comparison.as_table(self.record) + self._notes())
        if wanted := goals.as_html(self.record):
            yield _section("What was asked for", wanted)
        yield _section("Score against size and speed", self._trade())
        if len(goals.rung_zero_pairs(self.record)) > 1:
            yield _section("Scores before and after training", self._rung_zero())
        yield '<div class="pair">'
        yield _section("Which dimensions decide", self._importance())
        yield _section("Sparsity of each layer", self._layers())
        yield "</div>"
        yield _section("Proposals and scores", self._parallel())
        yield _section("When each trial ran", self._timeline())
        yield _section("All trials", self._table())
        yield _section("Do it again", reproduce.as_html(self.record))
        when = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        yield f"<footer>Written {when} by raycompress {version('raycompress')}</footer>"

    @property
    def objective(self) -> str:
        """The name of what the search compares."""
        if named := self.record.objective.goals[0].metric:
            return named
        values = (trial.values for trial in self.record.records.values() if trial.values)
        return next((next(iter(each)) for each in values), "score")

    def _dimensions(self) -> list[str]:
        """Return all dimensions, the important ones first and the others in the order of the file."""
        known = list(self.record.header.get("dimensions") or ())
        sampled = (name for trial in self.record.searched for name in trial.sample)
        return list(dict.fromkeys([*self.importance.shares, *known, *sampled]))

    def _plot(self, name: str, figure: figures.Figure) -> str:
        self.drawn[name] = figure
        return (
            f'<div class="plot" id="{name}" role="img" aria-label="{escape(figure.label)}" '
            f'style="height:{figure.height}px"></div>'
        )

    def _head(self) -> str:
        record, header = self.record, self.record.header
        ended = [trial for trial in record.records.values() if trial.seconds is not None]
        failed = sum(trial.state.is_failure for trial in ended)
        detail = f" ({record.finished_detail})" if record.finished_detail else ""
        ends = {"max": "the larger the better", "min": "the smaller the better"}
        wanted = {goal.metric or self.objective: ends[goal.direction] for goal in record.objective.goals}
        facts = {
            "state": f"{record.state}{detail}",
            "trials": f"{len(ended)} of {header['n_trials']} ended" + (f", {failed} failed" if failed else ""),
            "objective" + "s" * (len(wanted) > 1): "; ".join(f"{label(name)}, {end}" for name, end in wanted.items()),
            "compressor": header.get("compressor", "–"),
            "proposer": header.get("proposer", "–"),
            "dimensions": str(len(self._dimensions())),
            "wall time": duration(record.updated - header["t"]),
        }
        items = "".join(f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items())
        live = f'<p class="live">▶ follows the search, every {self.reload:g} s</p>' if self.reload else ""
        return f'<header><h1>{escape(record.id)}</h1>{live}<dl class="facts">{items}</dl></header>'

    def _notes(self) -> str:
        best = self.record.best
        notes = () if best is None else best.notes
        return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>" if notes else ""

    def _trade(self) -> str:
        names = list(
            dict.fromkeys(
                name
                for trial in self.record.searched
                if trial.state is TrialState.FINISHED
                for name, value in (trial.after or {}).items()
                if pareto.is_number(value) and name in pareto.MEASURES
            )
        )
        if not names:
            return "<p>No trial has saved a model that was measured.</p>"
        plots = "".join(
            self._plot(f"against-{place}", figures.against(self.record, name, self.objective))
            for place, name in enumerate(names)
        )
        count = len(self.record.pareto)
        every = ", ".join(label(name) for name in names)
        hint = (
            "The line joins the trials that no other one beats in both numbers of its picture. Over all of them "
            f"({escape(self.objective)}, {escape(every)}) {count} {'is' if count == 1 else 'are'} not beaten, marked ◆ "
            "in the table."
        )
        return f'<p class="quiet">{hint}</p><div class="grid">{plots}</div>'

    def _rung_zero(self) -> str:
        summary = f'<p class="quiet">{escape(goals.rung_zero_summary(self.record))}</p>'
        pairs = goals.rung_zero_pairs(self.record)
        return summary + self._plot("rung-zero", figures.before_and_after_training(pairs, self.objective))

    def _importance(self) -> str:
        shares = self.importance.shares
        if not shares:
            return f"<p>{escape(self.importance.why)}</p>"
        chance = self.importance.chance
        drawn = len(figures.of_importance(shares, chance))
        cut = f" The first {drawn} of {len(shares)}." if drawn < len(shares) else ""
        plot = self._plot("importance", figures.bars_of_importance(shares, chance))
        return f'<p class="quiet">{escape(METHOD)}{cut}</p>{plot}'

    def _layers(self) -> str:
        best = self.record.best
        if best is None or not best.removed:
            return "<p>No channels were removed.</p>" if best else "<p>There is no best model yet.</p>"
        hint = f"Output channels that the best model, of trial {best.number}, has lost."
        return f'<p class="quiet">{hint}</p>{self._plot("layers", figures.bars_of_layers(best.removed))}'

    def _parallel(self) -> str:
        dimensions = self._dimensions()
        finished = [trial for trial in self.record.searched if trial.state is TrialState.FINISHED]
        if not dimensions or len(finished) < 2:
            return "<p>Two finished trials with proposals are needed to compare them.</p>"
        chosen = dimensions[: figures.IN_PARALLEL]
        hint = (
            "One line a finished trial. Drag along an axis to keep the lines that pass there, a name to move its axis."
        )
        if len(chosen) < len(dimensions):
            which = "most important" if self.importance.shares else "first"
            hint += f" Shown are the {len(chosen)} {which} of {len(dimensions)} dimensions."
        plot = self._plot("parallel", figures.parallel(self.record, chosen, self.objective))
        return f'<p class="quiet">{escape(hint)}</p><div class="wide">{plot}</div>'

    def _timeline(self) -> str:
        found = spans(self.record)
        if not found:
            return "<p>No trial has begun yet.</p>"
        return self._failures() + self._plot("timeline", figures.timeline(found))

    def _failures(self) -> str:
        failed = [trial for trial in self.record.records.values() if trial.state.is_failure]
        if not failed:
            return '<p class="quiet">No trial failed.</p>'
        counts = Counter((trial.state, trial.cause) for trial in failed)
        items = "".join(
            f"<li>{table.sign(state)}{count} {state}: {escape(cause[:300])}</li>"
            for (state, cause), count in counts.most_common(_CAUSES)
        )
        more = len(counts) - _CAUSES
        rest = f"<li>and {more} further causes, in the table</li>" if more > 0 else ""
        return f"<p>{len(failed)} failed:</p><ul>{items}{rest}</ul>"

    def _table(self) -> str:
        if not self.record.records:
            return "<p>No trial has begun yet.</p>"
        dimensions = self._dimensions()
        chosen = table.fitting_dimensions(self.record, dimensions)
        hint = "★ the best, ◆ not beaten in score and measures at once. A click on a name sorts."
        if len(chosen) < len(dimensions):
            hint += (
                f" Columns for {len(chosen)} of {len(dimensions)} dimensions; all are in "
                "raycompress.Experiment.open(folder).trials."
            )
        paper = f'<p class="quiet printed">On paper: the first {table.PRINTED} dimensions.</p>'
        hint = f'<p class="quiet">{escape(hint)}</p>{paper if len(chosen) > table.PRINTED else ""}'
        numbers = {trial.number for trial in self.record.pareto}
        return f"{hint}{table.as_table(self.record, chosen, numbers)}"


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inner}</section>"
