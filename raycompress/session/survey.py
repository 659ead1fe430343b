"""The survey before a guided search: measures the model without training, in parallel, once for each model."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raycompress.config.experiment import Experiment
from raycompress.disk import write_json
from raycompress.errors import CompressionError, Problem, RaycompressError, ScriptError, StorageError
from raycompress.forecast.prior import Goal, Prior, Scored
from raycompress.forecast.projection import has_one_size
from raycompress.model.info import ModelInfo
from raycompress.results.folder import ExperimentFolder
from raycompress.runtime.client import Ending, connect_or_start
from raycompress.runtime.preload import local_files
from raycompress.runtime.protocol import Message, WarmSpec
from raycompress.search.plan import request
from raycompress.search.watch.view import SearchView
from raycompress.session.prepare import Prepared, centre_config
from raycompress.session.script_run import last_lines, messages_of
from raycompress.states import TrialState

LONG_S = 600.0
_SURE_S = 20.0
"""Measured for so long, the rest can be guessed from it."""


class Pace:
    """Estimates how long a survey takes, and notes it once if that is long.

    Parameters
    ----------
    notify
        Takes the note.
    clock
        Seconds that pass.
    """

    def __init__(self, notify: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._notify, self._clock = notify, clock
        self._began: tuple[float, int] | None = None
        self._is_judged = False

    def add(self, done: int, total: int) -> None:
        """Add how many measurements of all are done; the time that processes took to start does not count."""
        if self._began is None:
            self._began = self._clock(), done
            return
        began, first = self._began
        passed = self._clock() - began
        if self._is_judged or done <= first or passed < _SURE_S:
            return
        self._is_judged = True
        left = passed / (done - first) * (total - done)
        if left > LONG_S:
            self._notify(
                f"measuring the model before the search takes about {round(left / 60)} minutes more; an evaluator= "
                "that looks at some of the data is enough for it, and what is measured is kept for later searches"
            )


LEVELS = 6
"""Sizes that candidates have, where no budget says how large they are to be."""
CANDIDATES = 48
"""Whole samples that are scored before the first trial, at most."""
FEWEST, EACH = 12, 3
"""How many of them at least, and for each trial: measuring is to cost less than what it is measured for."""
_VERSION = 8
_OF_MODEL = ("latency", "latency_in", "latency_unknown", "dense_ms", "file_bytes", "file_bytes_unknown")
_TIMED = frozenset({*_OF_MODEL, "dense_latency_ms", "dense_latencies"})
"""What is timed anew before every search, or learnt for as long as there is time, and never comes out the same."""
_KNOWN = "how much each layer bears was measured by an earlier search of the same model"
_OPPOSITE = (
    "the more of a layer goes, the better the script's evaluator finds the model: by the objectives its number is to "
    "be {}, and it seems to be another metric; let evaluator= return the one that the script reports first"
)


def survey(ready: Prepared, folder: ExperimentFolder, view: SearchView, n_slots: int) -> Prior:
    """Return the prior of an experiment's model: measured now, or read from the cache or the experiment's folder.

    The cache keeps curves apart from candidates, so that a search under another budget has those of an earlier one.

    First the metric with each dimension alone pruned is measured, the dimensions spread over `n_slots` of Ray's, then
    whole candidates on the budget.

    Raises
    ------
    CompressionError, ScriptError
        The model cannot be measured.
    """
    experiment, model, projection = ready.experiment, ready.model, ready.projection
    assert model is not None and projection is not None, "checked in preflight"
    of_curves, of_all = _caches(experiment, model)
    known = _read(folder.prior) or _read(of_all)
    if known is not None:
        view.note(_KNOWN)
        folder.write(folder.prior, json.dumps(known.to_json()) + "\n")
        return known
    wanted = _wanted(experiment, model)
    found = _read(of_curves)
    if found is not None:
        view.note(_KNOWN)
    else:
        names = [dimension.name for dimension in ready.space.guided]
        parts = [names[place::n_slots] for place in range(min(n_slots, len(names)))]
        asked = [{**wanted, "curves": part, "prior": None} for part in parts]
        view.phase("measuring what each layer bears")
        found = _merged(_spread(ready, asked, view, n_slots))
        _keep(found, of_curves, view)
    if is_opposite(found, wanted["goal"]):
        view.note(_OPPOSITE.format("small" if wanted["goal"] == "min" else "large"))
    view.phase("scoring candidates")
    found = _merged(_spread(ready, _asked_of_candidates(wanted, ready, found, n_slots), view, n_slots), found)
    folder.write(folder.prior, json.dumps(found.to_json()) + "\n")
    _keep(found, of_all, view)
    return found


def _keep(found: Prior, path: Path, view: SearchView) -> None:
    """Write what was measured to a file of the cache; a note says so where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found.to_json())
    except (OSError, StorageError) as error:  # as in a container without a home: the next search measures again
        view.note(f"what was measured is not kept for later searches: {path.parent} cannot be written ({error})")


def _asked_of_candidates(wanted: dict[str, Any], ready: Prepared, known: Prior, n_slots: int) -> list[dict[str, Any]]:
    """Return what each of several processes is to score: candidates of one size, or of sizes between the ends."""
    experiment, projection = ready.experiment, ready.projection
    assert projection is not None
    levels: list[tuple[str, float]] = []
    if not has_one_size(experiment, projection):
        axis = projection.axis(experiment.objective)
        low, high = projection.span(axis)
        levels = [(axis, low * (high / low) ** ((place + 0.5) / LEVELS)) for place in range(LEVELS)]
    number = candidates_of(experiment)
    count = min(n_slots, len(levels) or number)
    shared = {**wanted, "curves": [], "prior": known.to_json(), "parts": count}
    return [
        {
            **shared,
            "part": part,
            "levels": levels[part::count],
            "candidates": number // 4 * len(levels[part::count]) if levels else number // count,
            "seed": (experiment.seed or 0) * CANDIDATES + part * LEVELS,
        }
        for part in range(count)
    ]


def candidates_of(experiment: Experiment) -> int:
    """Return how many candidates are scored before the first trial of an experiment."""
    trials = experiment.n_samples
    return CANDIDATES if trials is None else min(CANDIDATES, max(FEWEST, EACH * trials))


def _wanted(experiment: Experiment, model: ModelInfo) -> dict[str, Any]:
    return {
        "text": experiment.text,
        "file": str(experiment.path),
        "home": str(experiment.path.parent),
        "model": json.dumps(model.to_json()),
        "goal": experiment.evaluated if model.has_evaluator else "max",
        "samples": 512,
        "levels": [],
    }


def _spread(ready: Prepared, asked: Sequence[dict[str, Any]], view: SearchView, n_slots: int) -> list[Prior]:
    """Have each of `asked` measured in a process of its own, wherever Ray has room, and return what they found."""
    from raycompress.backend.ray.spread import spread  # imports ray, which must not be before `LocalRay` was entered

    done, total = [0] * len(asked), [0] * len(asked)
    found: list[Prior] = []
    pace = Pace(view.note)
    assert ready.warm is not None, "a guided search runs on Ray"
    calls = [(ready.warm, ready.experiment, one) for one in asked]
    for place, message in spread(_measure, calls, request(ready.experiment.resources)):
        if message["type"] == "progress":
            done[place], total[place] = message["done"], message["total"]
            view.progress(sum(done), sum(total), message["layer"])
            if all(total):
                pace.add(sum(done), sum(total))
        elif message["type"] == "prior":
            found.append(Prior.from_json(message["prior"]))
        else:
            raise _failure(message)
    return found


def _measure(warm: WarmSpec, experiment: Experiment, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run the script in mode ``survey`` on this node; yield its progress, and at last what it found or why not."""
    worker = connect_or_start(warm)
    messages: list[Message] = []
    config = centre_config(experiment)
    try:
        worker.wait_ready()
        for message in messages_of(worker, experiment, "survey", config, analysis=wanted, timeout_s=None):
            if isinstance(message, Ending):
                yield _last(messages, message, experiment)
            elif message["type"] == "progress":
                yield message
            elif message["type"] in ("prior", "refused"):
                messages.append(message)
    finally:
        worker.close()


def _last(messages: Sequence[Message], ending: Ending, experiment: Experiment) -> dict[str, Any]:
    """Return what was found; where nothing was, the ``problems``."""
    if messages and messages[0]["type"] == "prior":
        return messages[0]
    if messages:
        return {"type": "refused", "error": "CompressionError", "problems": messages[0]["problems"]}
    what = f"the script failed before its model was measured: {ending.cause}"
    if ending.state in (TrialState.FINISHED, TrialState.NO_RESULT):
        what = "the script ended before its model was measured: it never calls the model that compress() returns"
    problem = Problem(what, ending.frame or str(experiment.script_path), last_lines(ending))
    return {"type": "refused", "error": "ScriptError", "problems": [asdict(problem)]}


def _failure(message: dict[str, Any]) -> RaycompressError:
    kind = CompressionError if message["error"] == "CompressionError" else ScriptError
    return kind.of([Problem(**problem) for problem in message["problems"]])


def _merged(parts: Sequence[Prior], known: Prior | None = None) -> Prior:
    """Return what several processes have found as one, candidates with the best score first."""
    curves = dict(known.curves) if known is not None else {}
    candidates: dict[tuple[Any, ...], Scored] = {}
    for part in parts:
        curves.update(part.curves)
        candidates.update({tuple(one.sample.items()): one for one in part.candidates})
    return Prior(parts[0].dense if known is None else known.dense, curves, tuple(candidates.values()))


def is_opposite(prior: Prior, goal: Goal) -> bool:
    """Tell whether pruning most of a layer, without training, makes the metric better: of most layers, and in all."""
    sign = 1.0 if goal == "max" else -1.0
    gains = [sign * (max(curve)[1] - prior.dense) for curve in prior.curves.values() if len(curve)]
    return len(gains) > 1 and sum(gains) > 0 and sum(gain > 0 for gain in gains) > len(gains) / 2


def _read(path: Path) -> Prior | None:
    try:
        return Prior.from_json(json.loads(path.read_bytes()))
    except OSError:  # none yet, or a folder that cannot be read
        return None


def _caches(experiment: Experiment, model: ModelInfo) -> tuple[Path, Path]:
    """Return the files that keep what was measured of this very model, script and search space: curves, and all.

    Curves are those of every objective and constraint whose metric has the same goal; candidates lie on the budget.
    """
    files = local_files(experiment.script_path, experiment.workingdir, experiment.script_module)
    about = model.to_json()
    curves = [
        _VERSION,
        _untimed(about),
        [
            [stage.compressor, [dict(entry) for entry in stage.config_list], dict(stage.arguments), stage.depth]
            for stage in experiment.stages
        ],
        experiment.evaluated,
        experiment.seed,
        [*experiment.script_args],
        [dict(parameter) for parameter in experiment.parameter_config],
        dict(experiment.env),
        [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)],
    ]
    candidates = [
        _untimed(experiment.objective.to_header()),
        experiment.target,
        [target.to_json() for target in experiment.targets],
        candidates_of(experiment),
        # whether a size is known at all decides of which sizes candidates are
        {key: bool(value) for key, value in about.items() if key in _TIMED},
    ]
    return _cache_of(curves), _cache_of([*curves, *candidates])


def _cache_of(known: list[Any]) -> Path:
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache"))  # noqa: PTH111 (which raises)
    return home / "raycompress" / "surveys" / f"{digest[:32]}.json"


def _untimed(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in _TIMED}
