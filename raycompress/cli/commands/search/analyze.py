"""``raycompress analyze``: sensitivity and cost of each layer of a model."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import json_option, print_text
from raycompress.errors import StorageError, UsageError
from raycompress.results.folder import slug
from raycompress.text import printable

if TYPE_CHECKING:
    from raycompress.config.experiment import Experiment
    from raycompress.results.analysis.data import Analysis

_WIDTH = 80
_COSTS = 4
_FOLDER = "raycompress_analysis"
_SPARSITIES = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help=f"Folder for the files; ./{_FOLDER}/NAME by default.")
@click.option("--sparsities", default=_SPARSITIES, show_default=True, help="Shares to remove from each layer.")
@click.option(
    "--method",
    type=click.Choice(["l1", "level"]),
    help="Remove channels (l1) or single weights (level); by default what the compressor of FILE removes.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Inputs to take from the script, where it passes no evaluator.",
)
@click.option("--recompute-bn", is_flag=True, help="Recompute BatchNorm statistics before each measurement.")
@json_option
def analyze(
    file: Path, out: Path | None, sparsities: str, method: str | None, samples: int, recompute_bn: bool, as_json: bool
) -> None:
    """Measure what each layer of the model of FILE bears and costs, without any training.

    Each layer, or set of layers with tied channels, is pruned alone, at each sparsity. The metric is the `evaluator`
    that the script passes to create_compressor; in a script that passes none, how far the pruned model agrees with
    the dense one on the first inputs that the script calls it with.
    """
    from raycompress.config.checks.preflight import load_checked
    from raycompress.results.analysis.plots import check_libraries
    from raycompress.session.analyze import analyze as analyze_model

    wanted = {"sparsities": _shares(sparsities), "samples": samples, "recompute_bn": recompute_bn}
    experiment = load_checked(file)
    check_libraries()
    folder = out or Path(_FOLDER, slug(experiment.name))
    _check_folder(folder)
    with AnalysisView() as view:
        analysis = analyze_model(experiment, {**wanted, "method": method or _method(experiment)}, view)
        view.phase("writing the tables and plots")
        files = _write(analysis, folder)
    if as_json:
        click.echo(json.dumps({**analysis.to_json(), "files": [str(path) for path in files]}, indent=2))
    else:
        print_text(text(analysis, experiment.name) + "\n\nfiles:  " + "\n        ".join(map(str, files)))


class AnalysisView:
    """The terminal's view of an analysis, on stderr: a bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("", total=None)
        self._layer = ""

    def __enter__(self) -> AnalysisView:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def phase(self, text: str) -> None:
        """Say what is being done now."""
        self._bar.update(self._task, description=f"{text} ...")
        if not self._console.is_terminal:
            self._line(f"{text} ...")

    def note(self, text: str) -> None:
        """Say something worth knowing."""
        self._line(f"note: {text}")

    def progress(self, done: int, total: int, what: str) -> None:
        """Show how far it is; off a terminal once a layer."""
        self._bar.update(self._task, completed=done, total=total, description=printable(what))
        if not self._console.is_terminal and what not in ("", self._layer):
            self._line(f"[{done}/{total}] {what}")
        self._layer = what

    def _line(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(printable(text, lines=True)), soft_wrap=True)


def text(analysis: Analysis, name: str) -> str:
    """Return what an analysis found, for people, at most 80 columns wide."""
    from raycompress.cli.view.tables import number

    sensitivity, cost = analysis.sensitivity, analysis.cost
    what = "channels of the smallest L1 norms" if sensitivity.method == "l1" else "smallest single weights"
    lines = [
        f"{name}: {analysis.model}, {number(cost.params)} parameters, {number(cost.flops)} multiply-adds,",
        f"    {cost.latency_ms:.3g} ms a pass for a batch of one on one thread ({cost.cpu_ms:.3g} ms of CPU time)",
        "",
        *textwrap.wrap(f"metric: {sensitivity.metric}; of the dense model {number(sensitivity.dense)}", _WIDTH - 1),
        *textwrap.wrap(f"Each layer alone without its {what}, nothing trained:", _WIDTH - 1),
        "",
        _table(analysis),
    ]
    if analysis.dependency is not None and any(len(curve.layers) > 1 for curve in sensitivity.curves):
        lines += ["", "+N: so many more layers have channels tied to these (dependency.csv)"]
    for layer, reason in sensitivity.left_out.items():
        lines += ["", textwrap.fill(f"{layer} is left out: {reason}", _WIDTH - 1, subsequent_indent="    ")]
    for note in analysis.notes:
        lines += ["", textwrap.fill(f"note: {note}", _WIDTH - 1, subsequent_indent="    ")]
    return "\n".join(lines)


def _table(analysis: Analysis) -> str:
    """Return a row for each curve, with as many sparsities as there is room for."""
    from raycompress.cli.view.tables import columns

    names = [curve.name for curve in analysis.sensitivity.curves]
    cells = _cells(analysis)
    room = _WIDTH
    for count in (7, 5, 4, 3):
        places = [_COSTS + place for place in _spread(len(analysis.sensitivity.sparsities), count)]
        rows = [(*row[:_COSTS], *(row[place] for place in places)) for row in cells]
        room = _WIDTH - len(columns([("", *row) for row in rows], indent=0).splitlines()[0])
        if max(map(len, names)) <= room:
            break
    return columns(
        [(name, *row) for name, row in zip(["layer", *(_short(name, room) for name in names)], rows, strict=True)],
        indent=0,
    )


def _cells(analysis: Analysis) -> list[tuple[str, ...]]:
    """Return header and rows without the names: size and shares of the model's cost, then the metric's values."""
    from raycompress.cli.view.tables import share

    sensitivity, cost = analysis.sensitivity, analysis.cost
    costs = {layer.name: layer for layer in cost.layers}
    rows = [("size", "params", "FLOPs", "time", *(f"-{100 * sparsity:.3g} %" for sparsity in sensitivity.sparsities))]
    for curve in sensitivity.curves:
        own = [costs[layer] for layer in curve.layers if layer in costs]
        rows.append(
            (
                str(curve.size),
                share(sum(layer.params for layer in own), cost.params) or "-",
                share(sum(layer.flops for layer in own), cost.flops) or "-",
                share(sum(layer.share for layer in own), 1.0),
                *(f"{value:.3g}" for value in curve.values),
            )
        )
    return rows


def _spread(count: int, wanted: int) -> list[int]:
    """Return the places of at most `wanted` of `count` sparsities, spread evenly, the first and the last included."""
    if count <= wanted:
        return list(range(count))
    return [round(place * (count - 1) / (wanted - 1)) for place in range(wanted)]


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"


def _write(analysis: Analysis, folder: Path) -> list[Path]:
    from raycompress.results.analysis.plots import write_html, write_png

    folder.mkdir(parents=True, exist_ok=True)
    analysis.sensitivity.write_csv(folder / "sensitivity.csv")
    write_png(analysis.sensitivity, folder / "sensitivity.png")
    write_html(analysis.sensitivity, folder / "sensitivity.html")
    analysis.cost.write_csv(folder / "layers.csv")
    files = [folder / name for name in ("sensitivity.csv", "sensitivity.png", "sensitivity.html", "layers.csv")]
    if analysis.dependency is not None:
        analysis.dependency.write_csv(folder / "dependency.csv")
        files.append(folder / "dependency.csv")
    return files


def _shares(written: str) -> list[float]:
    try:
        shares = sorted({float(part) for part in written.split(",")})
    except ValueError:
        shares = []
    if not shares or not all(0 < share < 1 for share in shares):
        raise UsageError(
            f'a sparsity is above 0 and below 1, not what "{written}" says',
            where="--sparsities",
            fix="write 0.1,0.3,0.5",
        )
    return shares


def _method(experiment: Experiment) -> str:
    compression = experiment.compression
    entry = compression.entry.given(compression.arguments)
    return "level" if entry.kind == "pruning" and not entry.removes_channels else "l1"


def _check_folder(folder: Path) -> None:
    """Find out before the work whether `folder` can be written."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written" if there.is_dir() else "is a file"
        raise StorageError(f"{there} {why}", where=str(folder), fix="name another folder: --out DIR")
