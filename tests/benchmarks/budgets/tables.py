"""The tables, the targets and the plot of the searches under a budget, from the figures of `budgets`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.outcome import Outcome, Target

Record = dict[str, Any]
"""What a method found.

held_out, before, one_epoch: accuracy at the end, before any fine-tuning and after an epoch of it; epochs, those of the
search and of the training of its winner; cpu_s of the search, final_s of that training; for whoever looks closer counts
and validation, or flops where another tool has pruned. held_out is None where there is no figure; note says why.
"""
Place = tuple[str, float]
"""A network and a budget."""
OURS = "guided 16"
FIRST, MANY = "guided 1", "random 64"
COMPENSATED = "obs global compensated"
_OWN = ("dense", "uniform compensated", "obs compensated", COMPENSATED)
ONE_SHOT = ("uniform", "tp global", "tp isomorphic", "fastnas")
SHORT = ("not installed", "left out")
"""How a note begins that stands in a table; otherwise it is a failure."""
STAGES = {"before": "before any fine-tuning", "one_epoch": "after one epoch", "held_out": "at the end"}


def key(network: str, budget: float, row: str, seed: int) -> str:
    """Return the name of a record in the file."""
    return f"{network} {budget:g} {row} {seed}"


@dataclass(frozen=True)
class Figures:
    """All records, by row, place and seed."""

    known: Mapping[str, Record]
    seeds: int
    places: Sequence[Place]

    def of(self, row: str, place: Place, stage: str = "held_out") -> dict[int, float]:
        """Return seed -> accuracy, of the seeds that have one."""
        records = {seed: self.known.get(key(*place, row, seed), {}) for seed in range(self.seeds)}
        return {seed: one[stage] for seed, one in records.items() if one.get(stage) is not None}

    def tried(self, row: str, place: Place) -> list[Record]:
        """Return the records of a row at a place, those without figures too."""
        names = [key(*place, row, seed) for seed in range(self.seeds)]
        return [self.known[name] for name in names if name in self.known]

    def difference(self, row: str, other: str, place: Place, stage: str = "held_out") -> tuple[float, float] | None:
        """Return the mean over the seeds that both have of `row` less `other`, and its standard error."""
        ours, theirs = self.of(row, place, stage), self.of(other, place, stage)
        pairs = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        return mean_and_error(pairs) if pairs else None


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean and its standard error; NaN for that of a single one."""
    found = list(values)
    return statistics.mean(found), statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan


def outcome(known: Mapping[str, Record], seeds: int, places: Sequence[Place], names: Sequence[str]) -> Outcome:
    """Return the tables of what is known: at the end, before, and after an epoch; and ours beside the best peer."""
    figures = Figures(known, seeds, places)
    rows = [
        [f"{row}, {what}", *(cell(figures, row, place, stage) for place in places), *effort(figures, row)]
        for stage, what in STAGES.items()
        for row in names
        if stage == "held_out" or row != "dense"
    ]
    beside = [_beside(figures, names, place) for place in places]
    return Outcome(
        f"Held-out accuracy under a budget of multiply-adds, {seeds} seeds: mean and standard error",
        ["method", *(f"{network} {budget:g}" for network, budget in places), "epochs", "search s", "training s"],
        rows,
        targets=_targets(figures, names),
        notes=[
            "epochs: one for each trial and those of the winner; search s: CPU seconds, cheap scores too",
            "amc refits weights by least squares; amc ratios: its ratios, with the channels that all others take",
            *(line for line in beside if line),
            *_failures(known),
        ],
        raw={**known, "differences": _differences(figures, names)},
    )


def cell(figures: Figures, row: str, place: Place, stage: str) -> str:
    """Return the mean and its standard error, or in a word why there is none."""
    found = list(figures.of(row, place, stage).values())
    if not found:
        why = next((one["note"] for one in figures.tried(row, place) if one["held_out"] is None), "")
        return why.partition(":")[0] if why.startswith(SHORT) else "fails" if why else "-"
    mean, error = mean_and_error(found)
    return f"{mean:.3f} +- {0.0 if math.isnan(error) else error:.3f}"


def effort(figures: Figures, row: str) -> list[str]:
    """Return the mean epochs, CPU seconds of the search and of its winner's training, as text."""
    records = [one for place in figures.places for one in figures.tried(row, place) if one["held_out"] is not None]
    if not records:
        return ["-"] * 3
    return [f"{statistics.mean(one.get(name, 0.0) for one in records):.0f}" for name in ("epochs", "cpu_s", "final_s")]


def peers(figures: Figures, names: Sequence[str], place: Place) -> list[str]:
    """Return the rows of others that have a figure at a place, the best first."""
    means = {
        row: statistics.mean(values.values())
        for row in names
        if row not in _OWN and not row.startswith("guided")
        if (values := figures.of(row, place))
    }
    return sorted(means, key=means.__getitem__, reverse=True)


def _beside(figures: Figures, names: Sequence[str], place: Place) -> str:
    """Return a line on ours and the best of the others."""
    others = peers(figures, names, place)
    found = figures.difference(OURS, others[0], place) if others else None
    if found is None:
        return ""
    mean, error = found
    beyond = "beyond" if abs(mean) > error else "within"
    where = f"{place[0]} at {place[1]:g}"
    return f"{where}: {OURS} against {others[0]}, the best: {mean:+.4f}, standard error {error:.4f}, {beyond} one"


def _differences(figures: Figures, names: Sequence[str]) -> dict[str, list[float]]:
    """Return place and peer -> mean of the differences to ours, seed by seed, and its standard error."""
    return {
        f"{network} {budget:g} {row}": list(found)
        for network, budget in figures.places
        for row in names
        if row != OURS and (found := figures.difference(OURS, row, (network, budget)))
    }


def _targets(figures: Figures, names: Sequence[str]) -> list[Target]:
    """Return what is to be reached: ours above all, the first above many, and compensation above all one-shot peers."""
    targets, beyond, first = [], [], []
    for place in figures.places:
        where = f"{place[0]} at {place[1]:g}"
        others = peers(figures, names, place)
        if others and (found := figures.difference(OURS, others[0], place)):
            targets.append(Target(f"{where}: what {OURS} loses to the best, {others[0]}", -found[0], 0.0, least=-1))
            each = [figures.difference(OURS, other, place) for other in others]
            beyond.append(all(one is not None and one[0] > one[1] for one in each))
        if found := figures.difference(FIRST, MANY, place):
            first.append(found[0] > 0)
        compensated = [
            (found[0], row) for row in ONE_SHOT if (found := figures.difference(COMPENSATED, row, place, "before"))
        ]
        if compensated:
            least, row = min(compensated)
            what = f"{where}: what {COMPENSATED} loses, untrained, to the best one-shot peer, {row}"
            targets.append(Target(what, -least, 0.0, least=-1))
    if beyond:
        what = f"share of places where {OURS} is not above all beyond one standard error"
        targets.append(Target(what, 1 - statistics.mean(beyond), 0.25))
    if first:
        targets.append(Target(f"share of places where {FIRST} is not above {MANY}", 1 - statistics.mean(first), 0.5))
    return targets


def _failures(known: Mapping[str, Record]) -> list[str]:
    """Tell, once for each network, budget and method, why there is no figure."""
    whys = {
        name.rsplit(" ", 1)[0]: (record["note"].splitlines() or [""])[0]
        for name, record in known.items()
        if record["held_out"] is None
    }
    return [f"{where}: {why}" for where, why in whys.items()]


def plot(known: Mapping[str, Record], seeds: int, places: Sequence[Place], path: Path) -> None:
    """Draw what is left before any fine-tuning, of one-shot methods and of ours, with standard errors."""
    import matplotlib
    from matplotlib.figure import Figure

    figures = Figures(known, seeds, places)
    rows = (*ONE_SHOT, "obs compensated", COMPENSATED, FIRST)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        at = [(place, values) for place, one in enumerate(places) if (values := figures.of(row, one, "before"))]
        spread = [mean_and_error(values.values()) for _, values in at]
        axes.bar(
            [place + (number - (len(rows) - 1) / 2) * width for place, _ in at],
            [mean for mean, _ in spread],
            width,
            yerr=[0.0 if math.isnan(error) else error for _, error in spread],
            label=row,
            color=matplotlib.colormaps["tab10"](number),
        )
    dense = [figures.of("dense", one) for one in places]
    known_places = [(place, statistics.mean(values.values())) for place, values in enumerate(dense) if values]
    axes.hlines([mean for _, mean in known_places], [p - 0.45 for p, _ in known_places],
                [p + 0.45 for p, _ in known_places], colors="black", linewidth=1, label="dense")  # fmt: skip
    axes.set_xticks(range(len(places)), [f"{network}\n{budget:g}" for network, budget in places])
    axes.set_ylabel("held-out accuracy")
    axes.set_title("Before any fine-tuning")
    axes.legend(ncols=8, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):  # small, and the same each time
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
