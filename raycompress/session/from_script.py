"""The experiment file of a training script that has none: its model is inspected, and the targets are checked."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycompress.config.checks.objective import reported_names
from raycompress.config.checks.preflight import check_files
from raycompress.config.experiment import Experiment
from raycompress.config.objective import Direction
from raycompress.config.places import is_file, is_folder
from raycompress.config.recipe import Wanted, as_text, prunable_layers, recipe, to_inspect
from raycompress.config.search_space import SearchSpace
from raycompress.disk import translate_os_errors, write_whole
from raycompress.errors import ExperimentError, ScriptError, UsageError
from raycompress.forecast.forecast import Forecast
from raycompress.forecast.projection import Projection
from raycompress.model.costs import CostModel
from raycompress.model.info import ModelInfo
from raycompress.runtime.client import WarmProcess
from raycompress.runtime.machine import machine_cpus, machine_gpus
from raycompress.runtime.preload import find_imports, local_files
from raycompress.search.watch.view import View
from raycompress.session.prepare import inspect, report_preload
from raycompress.session.script_run import warm_spec
from raycompress.text import did_you_mean, join_names

_EXAMPLE_LINES = """\
add these lines; config is what @rc.experiment gives to main(config), see "The script" in the README:
        compressor = rc.create_compressor(model, config, optimizer=optimizer, dummy_input=x)
        model = compressor.compress()  # before the fine-tuning; after it rc.report(accuracy=...)
        rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")"""


@dataclass(frozen=True)
class Targets:
    """What the model of a script is to become.

    Attributes
    ----------
    ratios
        Measured metric (``flops``, ``params``, ``size_bytes``, ``latency_ms``) -> the largest share of the dense
        model's that may be left, above 0 and below 1.
    max_drop
        By how much the reported metric may get worse; None where that is left open.
    metric
        The reported metric; None for the first that the script reports.
    minimize
        Whether a small metric is better.
    n_samples
        How many samples are tried; None for the default.
    deployment
        What the model will be deployed on, as an experiment's ``target``; None for nothing.
    options
        Metric, or ``max_drop`` or ``metric`` -> the option that the caller knows it by, for errors.
    """

    ratios: Mapping[str, float] = field(default_factory=dict)
    max_drop: float | None = None
    metric: str | None = None
    minimize: bool = False
    n_samples: int | None = None
    deployment: Any = None
    options: Mapping[str, str] = field(default_factory=dict)

    def option(self, name: str) -> str:
        """Return what the caller calls a target."""
        return self.options.get(name, name)

    def check(self) -> None:
        """Raise UsageError where a value is out of range, or there is no target at all."""
        for metric, ratio in self.ratios.items():
            if not 0 < ratio < 1:
                what = f"the target is a share of the dense model's, above 0 and below 1, not {ratio:g}"
                raise UsageError(what, where=self.option(metric), fix=f"for one half: {self.option(metric)} 0.5")
        drop = self.option("max_drop")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            what = f"the metric may get worse by 0 or more, not by {self.max_drop:g}"
            raise UsageError(what, where=drop, fix=f"for one in a hundred of an accuracy: {drop} 0.01")
        if not self.ratios and self.max_drop is None:
            flops = self.option("flops")
            fix = f"{flops} 0.5 for half of the FLOPs, {drop} 0.01 for the smallest model that is as good"
            raise UsageError("what the model is to become is not said", where="the options", fix=fix)


def experiment_text(script: Path, file: Path, targets: Targets, open_view: Callable[[], View]) -> str:
    """Run `script` until its model is known, and return the text of an experiment file that compresses it.

    Parameters
    ----------
    script
        The training script, of torch.
    file
        Where the experiment file is to lie: it names the script relative to its own folder. It is not written.
    targets
        What the model is to become.
    open_view
        Returns who is told of notes and of the inspection; called once all that needs no run of the script is checked.

    Raises
    ------
    UsageError
        The targets make no sense, or cannot be reached; or there is no such script, or no folder for the file.
    ExperimentError
        The script cannot be run as it is.
    ScriptError
        The script fails, or its model cannot be compressed.
    """
    targets.check()
    cpus, gpus = machine_cpus(), machine_gpus()
    provisional = _provisional(script, file, gpus)
    wanted, note = _wanted(provisional.script_path, targets)
    view = open_view()
    if note:
        view.note(note)
    model, costs = _inspected(provisional, view)
    data = recipe(provisional.name, _relative(script, file), model, costs, wanted, cpus=cpus, gpus=gpus)
    text = as_text(data) + "\n"
    _check_reachable(Experiment.from_text(text, file), model, costs, targets)
    return text


def write_new(file: Path, text: str, *, fix: str) -> bool:
    """Write `text` to `file`, unless it says that already; return whether it was written.

    Raises
    ------
    UsageError
        The file is there with another content, which is kept; `fix` is what to do then.
    """
    with translate_os_errors("cannot read", file):
        before = file.read_bytes() if file.exists() else None
    if before not in (None, text.encode()):
        what = "there is such a file with another content, and it is not overwritten"
        raise UsageError(what, where=str(file), fix=fix)
    if before is None:
        write_whole(file, text)
    return before is None


def _relative(script: Path, file: Path) -> str:
    """Return the path of the script from the folder of the experiment file."""
    return os.path.relpath(script.absolute(), file.absolute().parent)


def _provisional(script: Path, file: Path, gpus: int) -> Experiment:
    """Return an experiment that the script can be inspected with, checked."""
    if not is_file(script):
        beside = [one.name for one in script.parent.glob("*.py")] if is_folder(script.parent) else []
        what = "the script is a folder" if is_folder(script) else "there is no such script"
        raise UsageError(what, where=str(script), fix=did_you_mean(script.name, beside) or "write the path of a script")
    if not is_folder(file.absolute().parent):
        raise UsageError("there is no folder for the experiment file", where=str(file), fix="make it, or name another")
    experiment = Experiment.from_text(as_text(to_inspect(script.stem, _relative(script, file), gpus)), file)
    if problems := check_files(experiment):
        raise ExperimentError.of(problems)
    _check_script(experiment.script_path)
    return experiment


def _check_script(script: Path) -> None:
    """Raise where its text says that the script cannot be compressed: to run it could take as long as a training."""
    imports = find_imports(script, script.parent, framework="tensorflow")
    libraries = {one.module.partition(".")[0] for one in imports}
    if "torch" not in libraries and libraries & {"tensorflow", "keras", "tf_keras"}:
        raise _not_torch(script)
    if not any("create_compressor" in file.read_text(errors="replace") for file in local_files(script, script.parent)):
        raise _without_compressor(script)


def _wanted(script: Path, targets: Targets) -> tuple[Wanted, str]:
    """Return the targets with the metric by its name, where that is known, and a note on how it was chosen."""
    reported = reported_names(script)
    metric = targets.metric or (reported[0] if reported else None)
    option = targets.option("metric")
    if reported and metric not in reported:
        fix = did_you_mean(metric, reported) or f"the script reports {join_names(reported)}"
        raise UsageError(f'the script reports no "{metric}"', where=option, fix=fix)
    if metric is None and targets.max_drop is not None:
        what = "how the script calls its metric cannot be read off its text"
        fix = f"let the script name its numbers, as in rc.report(accuracy=...), or say which it is: {option} NAME"
        raise UsageError(what, where=targets.option("max_drop"), fix=fix)
    note = ""
    if reported and len(reported) > 1 and targets.metric is None:
        others = join_names(reported[1:])
        note = f'the metric is "{metric}", which the script reports first; others ({option}): {others}'
    direction: Direction = "min" if targets.minimize else "max"
    if targets.deployment is not None and metric is None and targets.minimize:
        what = "which metric is to be small is not known, as the script does not name what it reports"
        raise UsageError(what, where="--minimize", fix=f"say which it is: {option} NAME")
    trials = targets.n_samples or Wanted.trials
    return Wanted(targets.ratios, metric, direction, targets.max_drop, trials, targets.deployment), note


def _inspected(experiment: Experiment, view: View) -> tuple[ModelInfo, CostModel]:
    """Run the script until its model is known, and return the layers and what they cost."""
    script = experiment.script_path
    with closing(WarmProcess.start(warm_spec(experiment))) as process:
        view.phase("learning the model's layers from the script")
        with closing(process.connect()) as worker:
            report_preload(worker.wait_ready(), experiment, view)
            model = inspect(experiment, worker)
    if model is None:
        raise _without_compressor(script)
    if model.costs is None and model.input_shapes is not None and not model.costs_unknown:
        raise _not_torch(script)
    if model.costs is None:
        why = model.costs_unknown or "the model saw no input"
        fix = "pass dummy_input= to create_compressor" if not model.costs_unknown else ""
        raise ScriptError(f"what a smaller model would cost cannot be foretold: {why}", where=str(script), fix=fix)
    if not prunable_layers(model, model.costs):
        what = "no channel of the model can go: each is an input or an output, or tied to one"
        raise ScriptError(what, where=str(script), fix="`raycompress compressors` lists what needs no channels to go")
    return model, model.costs


def _check_reachable(experiment: Experiment, model: ModelInfo, costs: CostModel, targets: Targets) -> None:
    """Raise UsageError where no sample can meet a target, before there is a file that asks for it."""
    space = SearchSpace.of(experiment, model)
    projection = Projection.of(experiment, space, Forecast.of(experiment, model, costs))
    sizes = projection.sizes({one.name: one.nearest(1.0) for one in space.sparsities})
    for bound in projection.ceilings:
        left = sizes[bound.metric] / costs.dense[bound.metric]
        if left > bound.value:
            what = f"{bound} cannot be reached: {left:.3g} are left where all has gone that may go"
            option = targets.option(bound.metric)
            raise UsageError(what, where=option, fix=f"{option} {math.ceil(left * 100) / 100:g}, or more")


def _not_torch(script: Path) -> ScriptError:
    what = "budgets need a model of torch: no channels can be removed from one of TensorFlow or Keras"
    fix = 'write an experiment file with a compressor for it: `raycompress compressors` lists "level", "qat" ...'
    return ScriptError(what, where=str(script), fix=fix)


def _without_compressor(script: Path) -> ScriptError:
    return ScriptError("the script never calls create_compressor", where=str(script), fix=_EXAMPLE_LINES)
