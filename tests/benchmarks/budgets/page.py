"""The figures of the section budgets in docs/benchmarks.md: ``python -m tests.benchmarks.budgets.page FILE``.

FILE is what ``python -m tests.benchmarks --only budgets --known FILE`` has written. What the tables need of it is kept
in budgets.json beside this module, from which the tests make the page's parts again.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks import ROOT
from tests.benchmarks.budgets.tables import (
    COMPENSATED,
    FIRST,
    MANY,
    ONE_SHOT,
    OURS,
    Figures,
    Place,
    Record,
    cell,
    effort,
    key,
    mean_and_error,
    peers,
    plot,
)
from tests.tables import marked
from tests.tables.catalogue import table

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = PAGE.parent / "pictures" / "before-fine-tuning.svg"
KNOWN = Path(__file__).with_name("figures.json")
SEEDS = 5
PLACES: Sequence[Place] = [
    (network, budget) for network in ("resnet", "mobilenet", "vit", "resnet56", "bert") for budget in (0.5, 0.25)
]
_LONG, _RANDOM_LONG = "uniform long", "random cpu"
_OTHER_EFFORT = (_LONG, _RANDOM_LONG)
"""Rows with another number of epochs, which have targets of their own."""
ROWS = (
    *("dense", "uniform", "uniform compensated", "obs compensated", COMPENSATED),
    *("tp global", "tp isomorphic", "fastnas"),
    *("random 16", MANY, *_OTHER_EFFORT, FIRST, "guided 4", OURS),
)
_EARLY = (
    *("dense", "uniform", "tp global", "tp isomorphic", "fastnas"),
    *("uniform compensated", "obs compensated", COMPENSATED, FIRST),
)
_KEPT = ("held_out", "before", "one_epoch", "epochs", "cpu_s", "final_s")


def main() -> None:
    """Keep what the tables need of a file of figures, and write the page's parts and its plot."""
    if len(sys.argv) > 1:
        keep(json.loads(Path(sys.argv[1]).read_text()))
    known = json.loads(KNOWN.read_text())
    PAGE.write_text(marked.filled(PAGE.read_text(), parts(known)))
    plot(known, SEEDS, PLACES, PICTURE)


def keep(known: Mapping[str, Record]) -> None:
    """Write the records of this page's rows, without what no table needs, one a line."""
    lines = []
    for place in PLACES:
        for name in (key(*place, row, seed) for row in ROWS for seed in range(SEEDS)):
            if (record := known.get(name)) is not None:
                short = {one: _rounded(record[one]) for one in _KEPT if one in record}
                why = {"note": record["note"].splitlines()[0]} if record["held_out"] is None else {}
                lines.append(f"{json.dumps(name)}: {json.dumps({**short, **why})}")
    KNOWN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def parts(known: Mapping[str, Record]) -> dict[str, str]:
    """Return what is made of the figures, by the name of its place in the page."""
    figures = Figures(known, SEEDS, PLACES)
    return {
        "budgets: at the end": _accuracies(figures, ROWS, "held_out"),
        "budgets: seeds": _seeds(figures),
        "budgets: ours and the hardest": _hardest(figures),
        "budgets: targets": "\n".join(table(("target", ""), _targets(figures))),
        "budgets: before": _accuracies(figures, _EARLY, "before"),
        "budgets: one epoch": _accuracies(figures, (*_EARLY, OURS), "one_epoch"),
    }


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("0.", ".", 1)


def _cell(figures: Figures, row: str, place: Place, stage: str) -> str:
    """Return mean and standard error, and the number of seeds in brackets where some are missing."""
    values = figures.of(row, place, "held_out" if row == "dense" else stage)
    if not values:
        return cell(figures, row, place, stage).replace("-", "")
    mean, error = mean_and_error(values.values())
    text = _number(mean) if math.isnan(error) else f"{_number(mean)} ± {_number(error)}"
    return text if len(values) == SEEDS else f"{text} ({len(values)})"


def _accuracies(figures: Figures, rows: Sequence[str], stage: str) -> str:
    """Return the table of one stage, the best of equal fine-tuning in bold, with the effort where it is the end's."""
    best = {
        place: max(
            statistics.mean(values.values())
            for row in rows
            if row not in ("dense", *_OTHER_EFFORT) and (values := figures.of(row, place, stage))
        )
        for place in PLACES
    }
    lines = []
    for row in rows:
        cells = []
        for place in PLACES:
            text, values = _cell(figures, row, place, stage), figures.of(row, place, stage)
            bold = row not in ("dense", *_OTHER_EFFORT) and values and statistics.mean(values.values()) == best[place]
            cells.append(f"**{text}**" if bold else text)
        lines.append((row, *cells, *(effort(figures, row) if stage == "held_out" else ())))
    columns = [f"{network} {_short(budget)}" for network, budget in PLACES]
    more = ("epochs", "search s", "training s") if stage == "held_out" else ()
    return "\n".join(table(("method", *columns, *more), lines))


def _short(budget: float) -> str:
    return f"{budget:g}".removeprefix("0")


def _seeds(figures: Figures) -> str:
    """Return how many networks there are, and which rows have fewer."""
    fewer = [row for row in ROWS if any(0 < len(figures.tried(row, place)) < SEEDS for place in PLACES)]
    fewer = [row for row in fewer if any(0 < len(figures.of(row, place)) < SEEDS for place in PLACES)]
    none = [row for row in ROWS if any(not figures.tried(row, place) for place in PLACES)]
    text = f"{SEEDS} networks, each with a split of the data of its own"
    if fewer:
        text += f"; where a row has fewer, their number stands in brackets ({', '.join(fewer)})"
    text += f"; an empty cell was not run ({', '.join(none)})." if none else "."
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _rivals(figures: Figures, place: Place) -> dict[str, tuple[float, float]]:
    """Return each peer with equal fine-tuning -> what ours is ahead, and its standard error; the hardest first."""
    found = {
        row: difference
        for row in peers(figures, ROWS, place)
        if row not in _OTHER_EFFORT and (difference := figures.difference(OURS, row, place))
    }
    return dict(sorted(found.items(), key=lambda one: one[1][0]))


def _hardest(figures: Figures) -> str:
    rows = []
    for place in PLACES:
        row, (mean, error) = next(iter(_rivals(figures, place).items()))
        ours, theirs = figures.of(OURS, place), figures.of(row, place)
        both = sorted(ours.keys() & theirs.keys())
        means = [_number(statistics.mean(values[seed] for seed in both)) for values in (ours, theirs)]
        beyond = "beyond" if abs(mean) > error else "within"
        where = f"{place[0]} {_short(place[1])}"
        rows.append((where, means[0], f"{row} {means[1]}", _number(mean, "+"), _number(error), beyond, f"{len(both)}"))
    header = ("", OURS, "hardest of the others", "difference", "standard error", "one standard error", "networks")
    return "\n".join(table(header, rows))


def _targets(figures: Figures) -> list[tuple[str, str]]:
    """Return what was to be reached, whether it is, and where it is not."""
    rivals = {place: _rivals(figures, place) for place in PLACES}
    above = {place: all(mean > 0 for mean, _ in one.values()) for place, one in rivals.items()}
    beyond = {place: all(mean > error for mean, error in one.values()) for place, one in rivals.items()}
    many = _ahead(figures, FIRST, MANY)
    one_shot, first = (
        {place: all(_ahead(figures, row, peer, "before").get(place, True) for peer in ONE_SHOT) for place in PLACES}
        for row in (COMPENSATED, FIRST)
    )
    return [
        (f"{OURS} above every peer with equal fine-tuning", _verdict(above, 1.0)),
        ("beyond one standard error, on three quarters of the places", _verdict(beyond, 0.75)),
        (f"{OURS} above uniform fine-tuned for as long as the search", _verdict(_ahead(figures, OURS, _LONG), 1.0)),
        (f"{OURS} above random for as many CPU seconds", _verdict(_ahead(figures, OURS, _RANDOM_LONG), 1.0)),
        (f"{FIRST} above {MANY}, on a half of the places", _verdict(many, 0.5)),
        (f"{COMPENSATED}, untrained, above every one-shot peer", _verdict(one_shot, 1.0)),
        (f"{FIRST}, untrained, above every one-shot peer", _verdict(first, 1.0)),
    ]


def _ahead(figures: Figures, row: str, other: str, stage: str = "held_out") -> dict[Place, bool]:
    """Return, for each place that has both rows, whether the first is ahead in the mean."""
    found = {place: figures.difference(row, other, place, stage) for place in PLACES}
    return {place: one[0] > 0 for place, one in found.items() if one is not None}


def _verdict(ahead: Mapping[Place, bool], share: float) -> str:
    if not ahead:
        return "not run"
    reached = sum(ahead.values()) >= share * len(ahead)
    text = f"{'reached' if reached else 'missed'}: on {sum(ahead.values())} of {len(ahead)} places"
    behind = [f"{network} {_short(budget)}" for (network, budget), one in ahead.items() if not one]
    return text + (f"; not on {', '.join(behind)}" if behind else "")


if __name__ == "__main__":
    main()
