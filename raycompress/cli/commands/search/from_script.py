"""``raycompress launch SCRIPT``: the options that say what the model of a script is to become."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from raycompress.cli.options import print_text
from raycompress.cli.view.tables import display_path
from raycompress.errors import UsageError

if TYPE_CHECKING:
    from raycompress.session.from_script import Targets

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = {
    "flops": "--target-flops",
    "params": "--target-params",
    "size_bytes": "--target-size",
    "latency_ms": "--target-latency",
    "max_drop": "--max-drop",
    "metric": "--metric",
}
"""Target -> its option; the first four are measured metrics, of which a share may be left."""


@dataclass(frozen=True)
class ScriptOptions:
    """What the options say of a script's experiment; None for what they do not."""

    target_flops: float | None = None
    target_params: float | None = None
    target_size: float | None = None
    target_latency: float | None = None
    max_drop: float | None = None
    metric: str | None = None
    minimize: bool = False
    trials: int | None = None
    target: str | None = None
    write: Path | None = None

    @property
    def targets(self) -> Targets:
        """What the model is to become, not checked."""
        from raycompress.session.from_script import Targets

        given = (self._ratios, self.max_drop, self.metric, self.minimize, self.trials)
        return Targets(*given, self.deployment, _OPTIONS)

    @property
    def deployment(self) -> Any:
        """What the model will be deployed on, as the key ``target`` has it; None where that is not said."""
        from raycompress.config.checks.targets import read_targets

        found = [] if self.target is None else read_targets(self.target, "--target")
        return (found[0] if len(found) == 1 else found) or None

    @property
    def _ratios(self) -> dict[str, float]:
        shares = (self.target_flops, self.target_params, self.target_size, self.target_latency)
        return {metric: share for metric, share in zip(_OPTIONS, shares, strict=False) if share is not None}

    def is_script(self, file: Path) -> bool:
        """Tell whether `file` is a script, not an experiment; UsageError where the options do not go with it."""
        has_goals = bool(self._ratios) or self.max_drop is not None
        if file.suffix == ".py" or (file.suffix not in (".json", ".jsonc") and has_goals):
            return True
        given = [
            f"--{one.name.replace('_', '-')}"
            for one in fields(self)
            if getattr(self, one.name) != one.default and one.name != "target"
        ]
        if given:
            what = f"{file.name} is an experiment file, which says by itself what is wanted"
            fix = 'put targets into its "constraints", as in {"flops": {"max_ratio": 0.5}}, or name the script instead'
            raise UsageError(what, where=given[0], fix=fix)
        return False


def script_options(command: Command) -> Command:
    """Add the options that make an experiment of a script; `command` gets them as `script`."""

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        script = ScriptOptions(**{one.name: values.pop(one.name) for one in fields(ScriptOptions)})
        return command(**values, script=script)

    options = (
        click.option(
            "--target-flops", type=float, metavar="SHARE", help="With a script: keep at most this share of the FLOPs."
        ),
        click.option("--target-params", type=float, metavar="SHARE", help="... of the parameters."),
        click.option("--target-size", type=float, metavar="SHARE", help="... of the bytes of weights."),
        click.option("--target-latency", type=float, metavar="SHARE", help="... of the latency."),
        click.option("--max-drop", type=float, metavar="X", help="How much worse the metric may get."),
        click.option("--metric", metavar="NAME", help="The metric's name; the first that is reported by default."),
        click.option("--minimize", is_flag=True, help="Smaller is better, as for a loss."),
        click.option(
            "--target",
            metavar="RUNTIME|JSON",
            help="What the model will be deployed on: latency and size are measured there.",
        ),
        click.option("--trials", type=click.IntRange(min=1), metavar="N", help="How many trials; 16 by default."),
        click.option("--write", type=click.Path(path_type=Path), metavar="FILE", help="The experiment file to write."),
    )
    decorated: Any = with_options
    for option in reversed(options):
        decorated = option(decorated)
    result: Command = decorated
    return result


def write_experiment(script: Path, options: ScriptOptions) -> Path:
    """Write the experiment file of `script`, print it, and return its path; errors as in `session.from_script`."""
    from raycompress.cli.view.live import LiveView
    from raycompress.session.from_script import experiment_text, write_new

    file = options.write or script.with_name(f"{script.stem}.compress.json")
    with ExitStack() as stack:
        text = experiment_text(script, file, options.targets, lambda: stack.enter_context(LiveView()))
    fix = f"run what it says, `raycompress launch {file}`, remove it, or write another: --write FILE"
    is_new, place = write_new(file, text, fix=fix), display_path(file)
    print_text(f"written to {place}:" if is_new else f"{place} says the same already:", err=True)
    print_text(text, err=True)
    return file


def with_target(file: Path, options: ScriptOptions) -> Path:
    """Return the experiment file with the target of the command line: a copy beside it, where it has another one."""
    from raycompress.config.checks.preflight import load_checked
    from raycompress.config.recipe import as_text
    from raycompress.session.from_script import write_new

    target = options.deployment
    data = load_checked(file).data
    if target is None or data.get("target") == target:
        return file
    every = target if isinstance(target, list) else [target]
    copy = file.with_name(f"{file.stem}.{'-'.join(one['runtime'] for one in every)}{file.suffix}")
    text = as_text({**data, "target": target}) + "\n"
    is_new = write_new(copy, text, fix=f"run what it says, `raycompress launch {copy}`, or remove it")
    how = "written to" if is_new else "the same as"
    print_text(f"{how} {display_path(copy)}: {file.name} with this target", err=True)
    return copy
