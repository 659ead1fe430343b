"""The terminal's view of a running search: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raycompress.cli.view.tables import display_path, duration, number, share, value
from raycompress.config.objective import FIRST, Objective, is_measured
from raycompress.model.measures import EAGER, measure_of, target_of
from raycompress.results.journal.journal import Event
from raycompress.results.ranking import Ranking
from raycompress.states import TrialState
from raycompress.text import printable

_STYLES = {
    "running": "cyan",
    "finished": "default",
    "stopped": "yellow",
    "ended early": "yellow",
    "over budget": "yellow",
}
_ROWS = 12
_ROUND_THE_TABLE = 6
"""Lines of the terminal that are not the table's rows."""


class Progress:
    """Progress of a search, from the journal's events alone."""

    def __init__(self, header: Event) -> None:
        self.header = header
        self.trials: dict[int, Event] = {}
        self.is_over = False
        self._promoted: int | None = None
        self._first_failures: dict[tuple[str, str], int] = {}

    def add(self, event: Event) -> None:
        """Add the next event."""
        if event["event"] == "started":
            self.trials[event["trial"]] = {**event, "state": "running", "values": None}
        elif event["event"] in ("intermediate", "ended"):
            self.trials[event["trial"]].update({name: event[name] for name in event if name not in ("t", "event")})
        elif event["event"] == "promoted":
            self._promoted = event["trial"]
        elif event["event"] == "finished":
            self.is_over = True
        elif event["event"] == "resumed":
            self.is_over = False
            self.header = {**self.header, **event}
            self.trials = {trial["trial"]: trial for trial in self.ended if trial["state"] != "stopped"}

    @property
    def n_trials(self) -> int:
        """All trials of the search, the dense one included."""
        return int(self.header["n_trials"])

    @property
    def ended(self) -> list[Event]:
        """The trials that have ended, in whatever way."""
        return [trial for trial in self.trials.values() if trial["state"] != "running"]

    @property
    def running(self) -> list[Event]:
        """The trials that have a slot."""
        return [trial for trial in self.trials.values() if trial["state"] == "running"]

    @property
    def failures(self) -> list[Event]:
        """The trials that ended as they should not."""
        return [trial for trial in self.ended if _is_failure(trial)]

    @property
    def best(self) -> int | None:
        """The best trial so far: the one whose model is kept, or, where none is saved, that of the best result."""
        if self._promoted is not None:
            return self._promoted
        ranking = Ranking(Objective.from_header(self.header))
        for trial in self.ended:
            if trial["trial"] == 0:
                ranking.add_dense(trial["values"])
            elif trial["score"] is not None:
                values = {FIRST: trial["score"], **(trial["values"] or {})}
                ranking.add(trial["trial"], values, trial.get("before"), trial.get("after"))
        return next(iter(ranking.ranked), None)

    @property
    def sizes(self) -> tuple[str, ...]:
        """What is measured of models and named by the objectives and constraints."""
        names = Objective.from_header(self.header).metrics
        return tuple(name for name in names if is_measured(name))

    def same_failure(self, event: Event) -> int | None:
        """Return the first trial that ended just as this one did; None where this one is the first."""
        first = self._first_failures.setdefault((event["state"], event["cause"]), event["trial"])
        return None if first == event["trial"] else first

    def seconds_left(self, now: float) -> float | None:
        """Estimate the time to the end from the mean length of trials; None before one has ended, and at the end."""
        lengths: list[float] = [trial["seconds"] for trial in self.ended if trial.get("seconds")]
        if not lengths or self.is_over:
            return None
        mean = sum(lengths) / len(lengths)
        rests = [max(0.0, mean - max(0.0, now - float(trial["t"]))) for trial in self.running]
        waiting = self.n_trials - len(self.trials)
        shared = (sum(rests) + mean * waiting) / max(1, self.header["n_parallel"])
        return float(max(shared, *rests, mean if waiting else 0.0))


class LiveView:
    """The terminal's view of a search, on stderr.

    Parameters
    ----------
    live
        Whether a terminal shows a table; plain lines otherwise.
    """

    def __init__(self, *, live: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._phase = ""
        self._done = (0, 0)
        self._wants_live = live
        self._live: Live | None = None
        self._started = time.time()

    def __enter__(self) -> LiveView:
        if self._wants_live and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=4, redirect_stdout=False
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._phase = ""
        if self._live is not None:
            self._live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the live table while the user is asked a question."""
        if self._live is not None:
            self._live.stop()
        try:
            yield
        finally:
            if self._live is not None:
                self._live.start()

    def phase(self, text: str) -> None:
        """Say what is being done now."""
        self._phase, self._done = text, (0, 0)
        if self._live is None:
            self._line(f"{text} ...")

    def progress(self, done: int, total: int, what: str) -> None:
        """Show how much of the phase is done, as a bar; off a terminal nothing."""
        self._done = (done, total)

    def note(self, text: str) -> None:
        """Say something worth knowing."""
        self._line(f"note: {text}")

    def history(self, events: Iterable[Event]) -> None:
        """Add the events of a search that is resumed, without showing them."""
        for event in events:
            if event["event"] == "experiment":
                self._progress = Progress(event)
            elif self._progress is not None:
                self._progress.add(event)

    def event(self, event: Event) -> None:
        """Show an event of the journal."""
        if event["event"] == "experiment":
            self._progress = Progress(event)
            self._phase, self._started = "", event["t"]
            self._line(f"{event['id']}: {_in_words(event)}")
            return
        if event["event"] == "note":
            self.note(event["text"])
            return
        assert self._progress is not None
        self._progress.add(event)
        if event["event"] == "resumed":
            self._phase, self._started = "", event["t"]
        tell = _TELL.get(event["event"])
        if tell is None:
            return
        text = tell(event, self._progress)
        if text and (self._live is None or event["event"] in ("resumed", "retried", "continued") or _is_failure(event)):
            self._line(text)

    def _line(self, text: str) -> None:
        text = printable(text, lines=True)
        if self._console.is_terminal:  # elsewhere a line is a line, whoever reads it
            text = "\n".join(_wrapped(line, self._console.width) for line in text.splitlines())
        self._console.print(Text(text), soft_wrap=True)

    def _render(self) -> RenderableType:
        now = time.time()
        if self._progress is None:
            return self._phase_line(duration(now - self._started)) if self._phase else Text("")
        rows = max(1, min(_ROWS, self._console.height - _ROUND_THE_TABLE))
        parts: list[RenderableType] = [
            _table(self._progress, now, rows, self._console.width),
            *_summary(self._progress, now),
        ]
        phase = self._phase or ("" if self._progress.trials else "starting Ray's trial actors")
        if phase:
            parts.append(self._phase_line("", phase))
        return Group(*parts)

    def _phase_line(self, since: str, phase: str = "") -> RenderableType:
        text = Text(f"{printable(phase or self._phase)} ...  {since}".rstrip())
        done, total = self._done
        if not total:
            return text
        return Columns([text, ProgressBar(total=total, completed=done, width=24), Text(f"{done} of {total}")])


def _in_words(header: Event) -> str:
    dimensions, trials = len(header["dimensions"]), header["n_trials"]
    search = f"{header['proposer']} over {dimensions} dimension{'s' * (dimensions != 1)}" if dimensions else "one-time"
    count = f"{trials} trial{'s' * (trials != 1)}, {header['n_parallel']} at a time"
    return f"{header['compressor']}, {search}, {count}"


def _wrapped(line: str, width: int) -> str:
    """Break a line between words; a path is not broken, so that it can be copied."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(progress: Progress, now: float, rows: int, width: int) -> Table:
    """Show the trials that run, the best one, and of the others those that came last."""
    best = progress.best

    def importance(trial: Event) -> tuple[bool, bool]:
        return trial["state"] == "running", trial["trial"] == best

    shown_trials = sorted(progress.trials.values(), key=importance)[-rows:]
    shown_trials.sort(key=lambda trial: int(trial["trial"]))
    cells = [_cells(trial, best, now) for trial in shown_trials]
    filled = {name for row in cells for name in _COLUMNS if row[name]}
    if any("step" in trial for trial in progress.trials.values()):  # also while those that run have told nothing yet
        filled.add("step")
    names = [name for name in _COLUMNS if name in _ALWAYS or name in filled]
    used_width = sum(2 + max(len(name), *(len(row[name]) for row in cells)) for name in names[:-1]) if cells else 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(
            name,
            justify="left" if name in ("state", "proposal") else "right",
            no_wrap=True,
            max_width=max(10, width - used_width) if name == "proposal" else None,
        )
    for trial, row in zip(shown_trials, cells, strict=True):
        style = "bold green" if trial["trial"] == best else _STYLES.get(str(trial["state"]), "red")
        table.add_row(*(Text(printable(row[name])) for name in names), style=style)
    return table


_COLUMNS = ("trial", "state", "step", "score", "size", "FLOPs", "time", "proposal")
_ALWAYS = ("trial", "state", "score", "time", "proposal")


def _cells(trial: Event, best: int | None, now: float) -> dict[str, str]:
    """Return what the table says of a trial; the score of one that has not come to its end is its last result."""
    is_running = trial["state"] == "running"
    came_so_far = is_running or trial["state"] == "ended early"
    before, after = trial.get("before") or {}, trial.get("after") or {}
    score = next(iter((trial["values"] or {}).values()), None) if came_so_far else trial["score"]
    seconds = max(0.0, now - trial["t"]) if is_running else trial["seconds"]
    return {
        "trial": f"{trial['trial']}{' *' if trial['trial'] == best else '  '}",
        "state": str(trial["state"]),
        "step": str(trial.get("step", "")) if is_running else "",
        "score": number(score),
        "size": share(after.get("size_bytes"), before.get("size_bytes")),
        "FLOPs": share(after.get("flops"), before.get("flops")),
        "time": "" if seconds is None else f"{seconds:.1f} s",
        "proposal": "dense model" if trial["baseline"] else " ".join(value(raw) for raw in trial["sample"].values()),
    }


def _summary(progress: Progress, now: float) -> list[RenderableType]:
    ended, total, best = len(progress.ended), progress.n_trials, progress.best
    stopped = sum(trial["state"] == "stopped" for trial in progress.ended)
    parts = [f"{ended - stopped}/{total} done"]
    counts = {"running": len(progress.running), "failed": len(progress.failures), "stopped": stopped}
    parts += [f"{count} {word}" for word, count in counts.items() if count]
    if best is not None:
        parts.append(f"best {number(progress.trials[best]['score'])} (trial {best})")
    times = f"{duration(now - progress.header['t'])} gone"
    left = progress.seconds_left(now)
    if left is not None:
        times += f", about {duration(left)} left"
    bar = Table.grid(padding=(0, 2))
    bar.add_row(ProgressBar(total=total, completed=ended - stopped, width=24), Text(times))
    return [Text(", ".join(parts)), bar]


def _is_failure(event: Event) -> bool:
    return TrialState(event.get("state", "running")).is_failure


def _ended(event: Event, progress: Progress) -> str:
    done = f"[{len(progress.ended)}/{progress.n_trials}]"
    if event["state"] == "finished":
        values = ", ".join(f"{name} {number(metric)}" for name, metric in _sought_first(event, progress).items())
        before, after = event["before"] or {}, event["after"] or {}
        names = progress.sizes or ("size_bytes",)
        lefts = [(share(after.get(name), before.get(name)), _size(name)) for name in names]
        rest = "".join(f", {left} of the {label}" for left, label in lefts if left)
        rest += f"; {event['cause']}" if event["cause"] else ""
        return f"{done} trial {event['trial']}: {values}{rest}"
    if not _is_failure(event):
        return f"{done} trial {event['trial']} {event['state']}: {event['cause']}"
    first = progress.same_failure(event)
    if first is not None:
        return f"{done} trial {event['trial']} {event['state']} as trial {first} did"
    return f"{done} trial {event['trial']} {event['state']}: {event['cause']}\n    log: {display_path(event['log'])}"


_SIZES = {"size_bytes": "size", "flops": "FLOPs", "params": "parameters", "latency_ms": "latency"}


def _size(metric: str) -> str:
    """Return what a size or a latency is called in a sentence: ``latency in openvino``."""
    target = target_of(metric)
    there = f" in {'eager torch' if target == EAGER else target}" if target else ""
    return f"{_SIZES.get(measure_of(metric), measure_of(metric))}{there}"


def _sought_first(event: Event, progress: Progress) -> dict[str, float]:
    """Return what a trial reported, what the search is after first."""
    sought = Objective.from_header(progress.header).metrics
    values: dict[str, float] = event["values"]
    return {name: values[name] for name in (*(one for one in sought if one in values), *values)}


def _promoted(event: Event, progress: Progress) -> str:
    feasible = event.get("feasible", True)
    return f"        trial {event['trial']} is {'the best' if feasible else 'nearest to the constraints'} so far"


def _continued(event: Event, progress: Progress) -> str:
    at = ", ".join(f"{name} {value}" for name, value in event["at"].items())
    return f"        trial {event['trial']} goes on from its checkpoint" + f": {at}" * bool(at)


def _retried(event: Event, progress: Progress) -> str:
    return f"        trial {event['trial']}, attempt {event['attempt']} {event['state']}: {event['cause']}; once more"


def _resumed(event: Event, progress: Progress) -> str:
    return f"{progress.header['id']}: resumed, {len(progress.ended)} of {progress.n_trials} trials had ended"


_TELL: dict[str, Callable[[Event, Progress], str]] = {
    "resumed": _resumed,
    "ended": _ended,
    "promoted": _promoted,
    "continued": _continued,
    "retried": _retried,
}
