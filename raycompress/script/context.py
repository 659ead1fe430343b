"""The trial that the current process runs; none for a script that is run by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Mode = Literal["trial", "baseline", "inspect", "verify", "analyze", "survey"]


class EndOfInspection(BaseException):
    """Leaves the script once what inspection or verification asked for is known.

    A BaseException, so that a script's own ``except Exception`` does not keep it.
    """


@dataclass(kw_only=True)
class TrialOptions:
    """Options of a trial, inherited by `Trial` and by `raycompress.runtime.protocol.TrialSpec`.

    Attributes
    ----------
    save_model
        False when the experiment asks for no model: saving is then left out.
    result_labels
        The names of a reported list's members (``multi_res_labels``), the objective's first.
    exports
        Further forms of the model to put into its bundle: ``onnx``, ``tflite``.
    latency
        Whether what is saved is measured beside the dense model, for a metric of the trial.
    analysis
        What is asked for: in mode ``analyze`` keywords of `raycompress.analysis.layer_sensitivity`; in mode ``survey``
        see `raycompress.session.survey`; in mode ``inspect`` whether ``costs`` are wanted, and in which of the
        ``targets`` latency and size are to be predicted, for how many seconds networks are timed in each
        (``budget_s``), and what was fitted before (``known``), all in ``deployed``; and in which of them the dense
        model alone is timed (``dense``).
    targets
        What the model will be deployed on, the first one first: `raycompress.deployment.target.DeploymentTarget` as
        plain JSON data.
    reported_bounds
        Constraints on what the script reports, as in `budget`: a model that breaks one is not deployed.
    rung0
        Whether the model is scored before it is trained.
    budget
        What the compressed model must keep to before it is trained: (metric, limit, value) as in ``constraints``.
    """

    save_model: bool = True
    result_labels: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    latency: bool = False
    targets: tuple[Mapping[str, Any], ...] = ()
    reported_bounds: tuple[tuple[str, str, float], ...] = ()
    analysis: Mapping[str, Any] = field(default_factory=dict)
    rung0: bool = False
    budget: tuple[tuple[str, str, float], ...] = ()

    def options(self) -> dict[str, Any]:
        """Return the options by name, as keyword arguments of another class that has them."""
        return {one.name: getattr(self, one.name) for one in fields(TrialOptions)}


@dataclass
class Reads:
    """What a script has read of its trial's configuration.

    Attributes
    ----------
    names
        The keys that were asked for one by one, whether they are there or not.
    is_loaded
        Whether the configuration was loaded by `raycompress.BasicConfig`, and not by the script itself.
    is_whole
        Whether it was copied or passed on as a whole, after which nobody knows what is read of it.
    """

    names: set[str] = field(default_factory=set)
    is_loaded: bool = False
    is_whole: bool = False


@dataclass
class Trial(TrialOptions):
    """The trial that this process runs.

    Attributes
    ----------
    mode
        ``trial``; ``baseline``: the same script with nothing pruned; ``inspect``: record the model's layers and leave;
        ``verify``: load `bundle` into the script's model, compare and measure, and leave; ``analyze``: measure what
        each layer bears, and leave; ``survey``: the same for a guided search.
    candidate
        The folder that what the script saves goes to; it need not exist yet.
    send
        Sends one message to whoever supervises the trial.
    bundle
        The bundle to verify, in mode ``verify``.
    shared
        The folder for what the trials of this node share; see `raycompress.script.shared`.
    config, config_path
        The trial's configuration, and the file that it stands in; None where there is none, as in `rc.compress`.
    reads
        What the script has read of it.
    reported
        What the script reported last.
    on_report
        Called with the values of each result before it is sent.
    exported
        Whether a compressor has saved a model.
    on_finish
        Called in turn when the script has ended well; what they raise is the trial's failure.
    checkpoint
        The file that the trial goes on from if it is lost; None where it keeps none.
    code
        What the script and the modules of its own are known by: a checkpoint of other code is left aside.
    compressors
        Of each compressor, in the order of their making: returns what it decided, None before that; CompressionError
        where a checkpoint cannot hold it.
    kept
        The content of the checkpoint that an earlier start of the trial has left; None where there is none to use, or
        where `is_decided` is False.
    is_loaded
        Whether the script has asked for it.
    rank, workers
        Which of how many workers of the trial this process is; the first, 0, reports and saves.
    checkpoints
        How often the script saved one, earlier starts of the trial included.
    random
        Of a worker other than the first: its random states, by that number.
    agreed, agreements
        The folder by which the workers agree, None for a trial of one; how often they did.
    results, seconds, started
        How many results there were, and what the trial took before this process; when this process began it, by the
        monotonic clock.
    history
        The results in turn, as JSON can hold them; a checkpoint keeps them, since some may be lost on their way.
    is_told
        Whether the script's log says that no checkpoint can be saved yet.
    """

    mode: Mode
    candidate: Path
    send: Callable[[Mapping[str, Any]], None]
    bundle: Path | None = None
    shared: Path | None = None
    config: Mapping[str, Any] | None = None
    config_path: Path | None = None
    reads: Reads = field(default_factory=Reads)
    exported: bool = False
    reported: Mapping[str, float] = field(default_factory=dict)
    on_report: list[Callable[[Mapping[str, float]], None]] = field(default_factory=list)
    on_finish: list[Callable[[], None]] = field(default_factory=list)
    checkpoint: Path | None = None
    code: str = ""
    compressors: list[Callable[[], Any]] = field(default_factory=list)
    kept: Mapping[str, Any] | None = None
    is_decided: bool = False
    is_loaded: bool = False
    rank: int = 0
    workers: int = 1
    agreed: Path | None = None
    agreements: int = 0
    checkpoints: int = 0
    random: dict[int, Any] = field(default_factory=dict)
    results: int = 0
    history: list[Mapping[str, float | str]] = field(default_factory=list)
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)
    is_told: bool = False

    @property
    def saves(self) -> bool:
        """Whether what the script saves is kept."""
        return self.mode == "trial" and self.save_model


_current: Trial | None = None


def current() -> Trial | None:
    """Return the trial of this process, or None for a script that runs by hand."""
    return _current


def enter(trial: Trial | None) -> None:
    """Make `trial` the trial of this process; None leaves it."""
    global _current
    _current = trial
