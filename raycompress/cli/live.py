"""What a person sees of a search while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raycompress.cli.words import duration, number, share, value
from raycompress.printable import printable
from raycompress.results.journal import Event
from raycompress.results.states import TrialState

_STYLES = {"running": "cyan", "finished": "default", "stopped": "yellow", "ended early": "yellow"}
_ROWS = 12


class Progress:
    """How far a search is, from the journal's events alone."""

    def __init__(self, header: Event) -> None:
        self.header = header
        self.trials: dict[int, Event] = {}
        self.best: int | None = None

    def take(self, event: Event) -> None:
        """Take the next event."""
        if event["event"] == "started":
            self.trials[event["trial"]] = {**event, "state": "running", "values": None}
        elif event["event"] in ("intermediate", "ended"):
            self.trials[event["trial"]].update({name: event[name] for name in event if name not in ("t", "event")})
        elif event["event"] == "promoted":
            self.best = event["trial"]
        elif event["event"] == "resumed":
            self.header = {**self.header, **event}
            self.trials = {number_: trial for number_, trial in self.trials.items() if trial["state"] != "running"}

    @property
    def n_trials(self) -> int:
        """All trials of the search, the dense one included."""
        return int(self.header["n_trials"])

    @property
    def ended(self) -> list[Event]:
        """The trials that have ended, in whatever way."""
        return [trial for trial in self.trials.values() if trial["state"] != "running"]

    def seconds_left(self, now: float) -> float | None:
        """Estimate the time to the end from the mean length of the trials so far; None before the first has ended."""
        lengths = [trial["seconds"] for trial in self.ended if trial.get("seconds")]
        if not lengths:
            return None
        mean = sum(lengths) / len(lengths)
        spent = sum(min(now - trial["t"], mean) for trial in self.trials.values() if trial["state"] == "running")
        left: float = (mean * (self.n_trials - len(self.ended)) - spent) / max(1, self.header["n_parallel"])
        return max(0.0, left)


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
        self._wants_live = live
        self._live: Live | None = None
        self._started = time.time()

    def __enter__(self) -> LiveView:
        if self._wants_live and self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=4, redirect_stdout=False
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._phase = ""
        if self._live is not None:
            self._live.stop()

    def phase(self, text: str) -> None:
        """Say what is being done now."""
        self._phase = text
        if self._live is None:
            self._line(f"{text} ...")

    def note(self, text: str) -> None:
        """Say something worth knowing."""
        self._line(f"note: {text}")

    def history(self, events: Iterable[Event]) -> None:
        """Take what stands in the journal of a search that is resumed; nothing of it is told again."""
        for event in events:
            if event["event"] == "experiment":
                self._progress = Progress(event)
            elif self._progress is not None:
                self._progress.take(event)

    def event(self, event: Event) -> None:
        """Show an event of the journal."""
        if event["event"] == "experiment":
            self._progress = Progress(event)
            self._phase, self._started = "", event["t"]
            self._line(f"{event['id']}: {_in_words(event)}")
            return
        assert self._progress is not None
        self._progress.take(event)
        if event["event"] == "resumed":
            self._phase, self._started = "", event["t"]
        tell = _TELL.get(event["event"])
        if tell is None:
            return
        text = tell(event, self._progress)
        if text and (self._live is None or event["event"] in ("resumed", "retried") or _is_failure(event)):
            self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(Text(printable(text, lines=True)), soft_wrap=True)

    def _render(self) -> RenderableType:
        now = time.time()
        if self._progress is None:
            return Text(f"{self._phase} ...  {duration(now - self._started)}" if self._phase else "")
        parts: list[RenderableType] = [_table(self._progress, now, self._console.width), _bar(self._progress, now)]
        phase = self._phase or ("" if self._progress.trials else "starting Ray's trial actors")
        if phase:
            parts.append(Text(f"{printable(phase)} ..."))
        return Group(*parts)


def _in_words(header: Event) -> str:
    dimensions, trials = len(header["dimensions"]), header["n_trials"]
    search = f"{header['proposer']} over {dimensions} dimension{'s' * (dimensions != 1)}" if dimensions else "one-time"
    count = f"{trials} trial{'s' * (trials != 1)}, {header['n_parallel']} at a time"
    return f"{header['compressor']}, {search}, {count}"


def _table(progress: Progress, now: float, width: int) -> Table:
    shown = sorted(progress.trials.values(), key=lambda trial: int(trial["trial"]))[-_ROWS:]
    if progress.best is not None and all(trial["trial"] != progress.best for trial in shown):
        shown = [progress.trials[progress.best], *shown[1:]]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("FLOPs", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("proposal", no_wrap=True, overflow="ellipsis", max_width=max(10, width - 55))
    for trial in shown:
        table.add_row(*_row(trial, progress.best, now))
    return table


def _row(trial: Event, best: int | None, now: float) -> list[RenderableType]:
    number_, state = trial["trial"], str(trial["state"])
    is_best = number_ == best
    name = f"{number_} *" if is_best else f"{number_}  "
    before, after = trial.get("before") or {}, trial.get("after") or {}
    values = trial.get("values") or {}
    score = next(iter(values.values()), None)
    proposal = "dense model" if trial["baseline"] else " ".join(value(raw) for raw in trial["sample"].values())
    seconds = trial.get("seconds") or now - trial["t"]
    style = "bold green" if is_best else _STYLES.get(state, "red")
    cells = [
        name,
        state,
        number(score),
        share(after.get("bytes"), before.get("bytes")),
        share(after.get("flops"), before.get("flops")),
        f"{seconds:.1f} s",
        proposal,
    ]
    return [Text(printable(cell), style=style) for cell in cells]


def _bar(progress: Progress, now: float) -> Table:
    ended = len(progress.ended)
    failed = sum(_is_failure(trial) for trial in progress.ended)
    left = progress.seconds_left(now)
    words = f"{ended}/{progress.n_trials} trials"
    if failed:
        words += f", {failed} failed"
    words += f", {duration(now - progress.header['t'])} gone"
    if left is not None and ended < progress.n_trials:
        words += f", about {duration(left)} left"
    line = Table.grid(padding=(0, 2))
    line.add_row(ProgressBar(total=progress.n_trials, completed=ended, width=24), Text(words))
    return line


def _is_failure(event: Event) -> bool:
    return TrialState(event.get("state", "running")).is_failure


def _ended(event: Event, progress: Progress) -> str:
    done = f"[{len(progress.ended)}/{progress.n_trials}]"
    if event["state"] == "finished":
        values = ", ".join(f"{name} {number(metric)}" for name, metric in event["values"].items())
        left = share((event["after"] or {}).get("bytes"), (event["before"] or {}).get("bytes"))
        rest = (f", {left} of the size" if left else "") + (f"; {event['cause']}" if event["cause"] else "")
        return f"{done} trial {event['trial']}: {values}{rest}"
    log = f"\n    log: {event['log']}" if _is_failure(event) else ""
    return f"{done} trial {event['trial']} {event['state']}: {event['cause']}{log}"


def _promoted(event: Event, progress: Progress) -> str:
    return f"        trial {event['trial']} is the best so far"


def _retried(event: Event, progress: Progress) -> str:
    return f"        trial {event['trial']}, attempt {event['attempt']} {event['state']}: {event['cause']}; once more"


def _resumed(event: Event, progress: Progress) -> str:
    return f"{progress.header['id']}: resumed, {len(progress.ended)} of {progress.n_trials} trials had ended"


_TELL: dict[str, Callable[[Event, Progress], str]] = {
    "resumed": _resumed,
    "ended": _ended,
    "promoted": _promoted,
    "retried": _retried,
}
