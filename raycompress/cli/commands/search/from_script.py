"""``raycompress launch SCRIPT``: writes the experiment file that somebody with a script alone has not got."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from raycompress.cli.options import print_text
from raycompress.cli.view.tables import display_path
from raycompress.config.places import is_file, is_folder
from raycompress.errors import ExperimentError, ScriptError, UsageError
from raycompress.text import did_you_mean, join_names

if TYPE_CHECKING:
    from raycompress.config.experiment import Experiment
    from raycompress.config.recipe import Wanted
    from raycompress.model.costs import CostModel
    from raycompress.model.info import ModelInfo

Command = TypeVar("Command", bound=Callable[..., Any])

TARGETS = {
    "flops": "--target-flops",
    "params": "--target-params",
    "size_bytes": "--target-size",
    "latency_ms": "--target-latency",
}
"""Measured metric -> the option that says how much of it may be left."""

_LINES = """\
add these lines; config is what @rc.experiment gives to main(config), see "The script" in the README:
        compressor = rc.create_compressor(model, config, optimizer=optimizer)
        model = compressor.compress()  # before the fine-tuning
        model = compressor.apply_speedup(dummy_input=x)  # after it; then rc.report(accuracy=...)
        rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")"""


@dataclass(frozen=True)
class Asked:
    """What the options say of a script's experiment; None for what they do not."""

    target_flops: float | None = None
    target_params: float | None = None
    target_size: float | None = None
    target_latency: float | None = None
    max_drop: float | None = None
    metric: str | None = None
    minimize: bool = False
    trials: int | None = None
    write: Path | None = None

    @property
    def ratios(self) -> dict[str, float]:
        """Measured metric -> the most that may be left of it."""
        shares = (self.target_flops, self.target_params, self.target_size, self.target_latency)
        return {metric: ratio for metric, ratio in zip(TARGETS, shares, strict=True) if ratio is not None}

    def is_script(self, file: Path) -> bool:
        """Tell whether `file` is a script, not an experiment; UsageError where the options do not go with it."""
        if file.suffix == ".py" or (file.suffix != ".json" and (self.ratios or self.max_drop is not None)):
            return True
        given = [f"--{one.name.replace('_', '-')}" for one in fields(self) if getattr(self, one.name) != one.default]
        if given:
            what = f"{file.name} is an experiment file, which says by itself what is wanted"
            fix = 'put targets into its "constraints", as in {"flops": {"max_ratio": 0.5}}, or name the script instead'
            raise UsageError(what, where=given[0], fix=fix)
        return False

    def check(self) -> None:
        """Raise UsageError where a value makes no sense, or nothing is wanted."""
        for metric, ratio in self.ratios.items():
            if not 0 < ratio < 1:
                what = f"the target is a share of the dense model's, above 0 and below 1, not {ratio:g}"
                raise UsageError(what, where=TARGETS[metric], fix=f"for one half: {TARGETS[metric]} 0.5")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            what = f"the metric may get worse by 0 or more, not by {self.max_drop:g}"
            raise UsageError(what, where="--max-drop", fix="for one in a hundred of an accuracy: --max-drop 0.01")
        if not self.ratios and self.max_drop is None:
            fix = "--target-flops 0.5 for half of the FLOPs, --max-drop 0.01 for the smallest model that is as good"
            raise UsageError("what the model is to become is not said", where="the options", fix=fix)


def script_options(command: Command) -> Command:
    """Add the options that make an experiment of a script; `command` gets them as `asked`."""

    @functools.wraps(command)
    def with_asked(**values: Any) -> Any:
        asked = Asked(**{one.name: values.pop(one.name) for one in fields(Asked)})
        return command(**values, asked=asked)

    options = (
        click.option("--target-flops", type=float, metavar="SHARE", help="Of a script: at most this of the FLOPs."),
        click.option("--target-params", type=float, metavar="SHARE", help="... of the parameters."),
        click.option("--target-size", type=float, metavar="SHARE", help="... of the bytes of weights."),
        click.option("--target-latency", type=float, metavar="SHARE", help="... of the latency."),
        click.option("--max-drop", type=float, metavar="X", help="The metric may get so much worse."),
        click.option("--metric", metavar="NAME", help="Which; by default the first that the script reports."),
        click.option("--minimize", is_flag=True, help="The metric is to be small, as a loss is."),
        click.option("--trials", type=click.IntRange(min=1), metavar="N", help="How many trials; 16 without it."),
        click.option("--write", type=click.Path(path_type=Path), metavar="FILE", help="The experiment file to write."),
    )
    decorated: Any = with_asked
    for option in reversed(options):
        decorated = option(decorated)
    result: Command = decorated
    return result


def experiment_of(script: Path, asked: Asked) -> Path:
    """Write the experiment file of `script`, print it, and return where it is.

    Raises
    ------
    UsageError
        The options make no sense, or another file is there.
    ScriptError
        The script fails, or cannot be compressed.
    """
    from raycompress.config.recipe import as_text, recipe
    from raycompress.runtime.machine import machine_cpus, machine_gpus

    asked.check()
    file = asked.write or script.with_name(f"{script.stem}.compress.json")
    provisional = _provisional(script, file, machine_gpus())
    wanted = _wanted(provisional.script_path, asked)
    model, costs = _inspected(provisional)
    data = recipe(provisional.name, _from(file, script), model, costs, wanted, cpus=machine_cpus(), gpus=machine_gpus())
    text = as_text(data) + "\n"
    _check_reachable(text, file, model, costs, wanted)
    _write(file, text)
    print_text(text, err=True)
    return file


def _from(file: Path, script: Path) -> str:
    """Return the script as the file is to name it."""
    return os.path.relpath(script.absolute(), file.absolute().parent)


def _provisional(script: Path, file: Path, gpus: int) -> Experiment:
    """Return an experiment that the script can be inspected with; its mistakes are told."""
    from raycompress.config.checks.preflight import check_files
    from raycompress.config.experiment import Experiment
    from raycompress.config.recipe import as_text, to_inspect

    if not is_file(script):
        beside = [one.name for one in script.parent.glob("*.py")] if is_folder(script.parent) else []
        what = "the script is a folder" if is_folder(script) else "there is no such script"
        raise UsageError(what, where=str(script), fix=did_you_mean(script.name, beside) or "write the path of a script")
    if not is_folder(file.absolute().parent):
        raise UsageError("there is no folder for the experiment file", where=str(file), fix="make it, or name another")
    experiment = Experiment.from_text(as_text(to_inspect(script.stem, _from(file, script), gpus)), file)
    if problems := check_files(experiment):
        raise ExperimentError.of(problems)
    _check_script(experiment.script_path)
    return experiment


def _check_script(script: Path) -> None:
    """Raise where its text says that the script cannot be compressed: to run it could take as long as a training."""
    from raycompress.runtime.preload import find_imports, local_files

    imports = find_imports(script, script.parent, framework="tensorflow")
    libraries = {one.module.partition(".")[0] for one in imports}
    if "torch" not in libraries and libraries & {"tensorflow", "keras", "tf_keras"}:
        raise _not_torch(script)
    if not any("create_compressor" in file.read_text(errors="replace") for file in local_files(script, script.parent)):
        raise _without_compressor(script)


def _wanted(script: Path, asked: Asked) -> Wanted:
    """Return what is wanted, the metric by its name where that is known."""
    from raycompress.config.checks.objective import reported_names
    from raycompress.config.recipe import Wanted

    reported = reported_names(script)
    metric = asked.metric or (reported[0] if reported else None)
    if reported and metric not in reported:
        fix = did_you_mean(metric, reported) or f"the script reports {join_names(reported)}"
        raise UsageError(f'the script reports no "{metric}"', where="--metric", fix=fix)
    if metric is None and asked.max_drop is not None:
        fix = "let the script name its numbers, as in rc.report(accuracy=...), or say which it is: --metric NAME"
        raise UsageError("how the script calls its metric cannot be read off its text", where="--max-drop", fix=fix)
    if reported and len(reported) > 1 and asked.metric is None:
        others = join_names(reported[1:])
        print_text(
            f'note: the metric is "{metric}", which the script reports first; others (--metric): {others}', err=True
        )
    return Wanted(
        asked.ratios, metric, "min" if asked.minimize else "max", asked.max_drop, asked.trials or Wanted.trials
    )


def _inspected(experiment: Experiment) -> tuple[ModelInfo, CostModel]:
    """Run the script until its model is known, and return the layers and what they cost."""
    from raycompress.cli.view.live import LiveView
    from raycompress.config.recipe import prunable_layers
    from raycompress.runtime.client import WarmProcess
    from raycompress.session.prepare import inspect, report_preload
    from raycompress.session.script_run import warm_spec

    script = experiment.script_path
    with LiveView() as view, closing(WarmProcess.start(warm_spec(experiment))) as process:
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


def _check_reachable(text: str, file: Path, model: ModelInfo, costs: CostModel, wanted: Wanted) -> None:
    """Raise UsageError where a target cannot be met by any sample, before there is a file that asks for it."""
    from raycompress.config.experiment import Experiment
    from raycompress.config.search_space import SearchSpace
    from raycompress.forecast.forecast import Forecast
    from raycompress.forecast.projection import Projection

    experiment = Experiment.from_text(text, file)
    space = SearchSpace.of(experiment, model)
    projection = Projection.of(experiment, space, Forecast(model, costs, experiment.compression.entry))
    sizes = projection.sizes({one.name: one.nearest(1.0) for one in space.sparsities})
    for bound in projection.ceilings:
        left = sizes[bound.metric] / costs.dense[bound.metric]
        if left > bound.value:
            what = f"{bound} cannot be reached: {left:.3g} are left where all has gone that may go"
            option = TARGETS[bound.metric]
            raise UsageError(what, where=option, fix=f"{option} {math.ceil(left * 100) / 100:g}, or more")


def _write(file: Path, text: str) -> None:
    from raycompress.disk import translate_os_errors, write_whole

    with translate_os_errors("cannot read", file):
        before = file.read_bytes() if file.exists() else None
    if before not in (None, text.encode()):
        fix = f"run what it says, `raycompress launch {file}`, remove it, or write another: --write FILE"
        raise UsageError(
            "there is such a file with another content, and it is not overwritten", where=str(file), fix=fix
        )
    if before is None:
        write_whole(file, text)
    print_text(
        f"written to {display_path(file)}:" if before is None else f"{display_path(file)} says the same already:",
        err=True,
    )


def _not_torch(script: Path) -> ScriptError:
    what = "budgets need a model of torch: no channels can be removed from one of TensorFlow or Keras"
    fix = 'write an experiment file with a compressor for it: `raycompress compressors` lists "level", "qat" ...'
    return ScriptError(what, where=str(script), fix=fix)


def _without_compressor(script: Path) -> ScriptError:
    return ScriptError("the script never calls create_compressor", where=str(script), fix=_LINES)
