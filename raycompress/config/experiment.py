"""`Experiment`: the content of an experiment file, checked, with its defaults.

The keys themselves are in `raycompress.config.schema.keys`, which loads pydantic; this module does so only when it
reads a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from raycompress.catalog.stages import quantizes_trained
from raycompress.config.compression import Compression as Compression
from raycompress.config.compression import stages_from, written
from raycompress.config.objective import Direction, Objective, is_measured
from raycompress.config.options import Resources, SearchOptions, read_options
from raycompress.config.places import Files, Storage
from raycompress.config.schema.ranges import Finding
from raycompress.config.stopping import Budgets, EarlyStop, Scheduler
from raycompress.config.text.reader import JsonPath, read
from raycompress.config.text.source import text_of, where_in
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import ExperimentError, Problem
from raycompress.model.latency_table import LATENCY
from raycompress.text import describe_value, dotted

BOHB_SETTINGS = (
    *("num_samples", "min_points_in_model", "top_n_percent"),
    *("random_fraction", "bandwidth_factor", "min_bandwidth"),
)


@dataclass(frozen=True)
class Experiment(SearchOptions):
    """An experiment file that was read and found right.

    Its options are declared where they are read: in `SearchOptions`, and in `EarlyStop` those that end trials.

    Attributes
    ----------
    path, text
        The file, absolute, and what it says to the letter.
    name, compression, proposer, n_parallel, baseline, trial_timeout_s, time_budget_s, env
        As in the file, defaults filled in; times in seconds, None where there is no limit.
    target
        Whether a high or a low result is better.
    targets
        What models are deployed on; the first is the one that ``latency_ms`` and ``size_bytes`` are measured in.
    script_path, script_args
        The script, absolute, and the arguments that follow it.
    script_module
        Its name as a module, where the file says ``-m pkg.train``; else empty.
    workingdir, storage
        Where trials run and where results go, absolute, or an address on S3; without the key, results go below the
        current folder.
    resources
        What one trial occupies.
    parameter_config
        Further hyperparameters: each has ``name``, ``type`` and ``range``.
    n_samples
        How many samples; None for the whole grid of ``sequence``.
    n_samples_given
        Whether the file says how many.
    seed
        ``random_seed``, None where there is none.
    job_retries, ignore_failures
        How often a failed trial is run again, and whether the search goes on after one.
    save_model
        What the file says, or None.
    metric_labels
        Names of the numbers in a reported list, the objective's first; may be empty.
    track_intermediate_results
        Whether every result is recorded, not only the last; a policy that acts on them needs that.
    early_stop
        When trials end before their end; None for never.
    budgets
        What trials are given by ``hyperband`` and ``bohb``; None with the other proposers.
    bohb
        Settings of BOHB's model, by the names of HpBandSter.
    own_folder
        Whether each trial runs in a folder of its own, or all in `workingdir`.
    prescript, postscript
        Shell commands around the script; empty for none.
    exports
        Further forms of the model in its bundle: ``onnx``, ``tflite``.
    objective
        What a trial is judged by, from ``target``, ``objectives`` and ``constraints``.
    loggers
        Who is told of every trial beside the journal: ``tensorboard``, ``mlflow``, ``wandb``; each once.
    later
        The stages that follow `compression`, each of which works on what the one before left.
    stage
        Which member of the file's list of stages `compression` is; None where the file has an object.
    accepted
        A line for each key that was taken and has no meaning here.
    """

    path: Path
    text: str
    name: str
    script_path: Path
    script_args: tuple[str, ...]
    workingdir: Path
    storage: Storage
    resources: Resources
    compression: Compression
    parameter_config: tuple[Mapping[str, Any], ...]
    proposer: str
    n_samples: int | None
    n_samples_given: bool
    n_parallel: int
    target: Literal["max", "min"]
    targets: tuple[DeploymentTarget, ...]
    seed: int | None
    job_retries: int
    ignore_failures: bool
    trial_timeout_s: float | None
    time_budget_s: float | None
    save_model: bool | None
    metric_labels: tuple[str, ...]
    track_intermediate_results: bool
    env: Mapping[str, str]
    baseline: bool
    early_stop: EarlyStop | None = None
    budgets: Budgets | None = None
    bohb: Mapping[str, Any] = field(default_factory=dict)
    own_folder: bool = True
    prescript: str = ""
    postscript: str = ""
    exports: tuple[str, ...] = ()
    loggers: tuple[str, ...] = ()
    objective: Objective = field(default_factory=lambda: Objective.of_score("max"))
    accepted: tuple[str, ...] = ()
    script_module: str = ""
    later: tuple[Compression, ...] = ()
    stage: int | None = None
    display_path: str = field(default="", repr=False)

    @classmethod
    def load(cls, path: str | Path, *, home: Path | None = None) -> Experiment:
        """Read an experiment file.

        Parameters
        ----------
        path
            The file.
        home
            The folder that its relative paths start from, for a copy that lies elsewhere; the file's own by default.

        Raises
        ------
        ExperimentError
            All mistakes of the file at once, each with its line, its JSON path and what to write.
        """
        return cls.from_text(text_of(Path(path)), path, home=home)

    @classmethod
    def from_text(cls, text: str, path: str | Path, *, home: Path | None = None) -> Experiment:
        """Read the text of an experiment file that is, or will be, at `path`; otherwise as `load`."""
        values, accepted = _parse_keys(text, str(path))
        return _experiment(values, Path(path), home or Path(path).resolve().parent, text, accepted)

    @property
    def files(self) -> Files:
        """The files and folders that the experiment names."""
        return Files(self.script_path, self.script_args, self.workingdir, self.storage, self.script_module)

    def where(self, path: JsonPath = ()) -> str:
        """Return ``exp.json:LINE  json.path`` for a path into the file; of a key left out the line it belongs under.

        ``compression`` stands for the stage that `compression` is.
        """
        return where_in(self.display_path, self._lines, self._of_stage(path))

    def is_written(self, path: JsonPath) -> bool:
        """Tell whether the file has this path."""
        return self._of_stage(path) in self._lines

    def _of_stage(self, path: JsonPath) -> JsonPath:
        if self.stage is None or path[:1] != ("compression",):
            return path
        return ("compression", self.stage, *path[1:])

    @property
    def stages(self) -> tuple[Compression, ...]:
        """All stages of the compression; mostly there is one."""
        return (self.compression, *self.later)

    def each_stage(self) -> Iterator[Experiment]:
        """Yield the experiment with each of its stages alone, for what looks at one."""
        for number, stage in enumerate(self.stages):
            yield replace(self, compression=stage, later=(), stage=None if self.stage is None else number)

    @property
    def ends_quantized(self) -> bool:
        """Whether the last stage quantizes, so that bytes and times are not those of the sliced model."""
        return self.stages[-1].type == "quantization"

    @property
    def wants_file_bytes(self) -> bool:
        """Whether the bytes of a file that a last stage makes are predicted: they count, and no target has its own."""
        is_asked = self.proposer == "guided" or (bool(self.later) and "size_bytes" in self.objective.metrics)
        return is_asked and not self.targets and self.quantizer is not None

    @property
    def quantizer(self) -> Compression | None:
        """The stage that quantizes the trained model: the last one, or the only one; None where there is none."""
        return self.stages[-1] if quantizes_trained(self.stages[-1].entry) else None

    @property
    def compressors(self) -> str:
        """The names of the compressors, of all stages."""
        return " + ".join(stage.compressor for stage in self.stages)

    @property
    def data(self) -> dict[str, Any]:
        """What the file says, as plain data of its own, keys in today's spelling and without the comments."""
        from raycompress.config.schema.spelling import respell

        return respell(read(self.text).value).data

    @cached_property
    def _lines(self) -> dict[JsonPath, int]:
        return read(self.text).lines

    @property
    def wants_sizes(self) -> bool:
        """Whether what a proposal costs has to be known before it is trained."""
        return self.proposer == "guided" or any(is_measured(name) for name in self.objective.metrics)

    @property
    def evaluated(self) -> Literal["max", "min"]:
        """Which end of the script's evaluator is wanted: that of the first metric that the script itself reports."""
        goals = [goal.direction for goal in self.objective.goals if not is_measured(goal.metric)]
        bounds = [bound.is_ceiling for bound in self.objective.bounds if not is_measured(bound.metric)]
        return goals[0] if goals else "min" if bounds and bounds[0] else "max"

    @property
    def rung0(self) -> bool:
        """Whether trials are scored before they train, and the worst end there."""
        return isinstance(self.early_stop, Scheduler) and self.early_stop.rung0

    @property
    def wants_latency(self) -> bool:
        """Whether each trial measures how fast its model is."""
        return LATENCY in self.objective.metrics or bool(self.targets)

    @property
    def is_automatic(self) -> bool:
        """Whether there is anything to search: at least one search range."""
        return bool(self.parameter_config) or any(stage.is_searched for stage in self.stages)


def _parse_keys(text: str, display_path: str) -> tuple[Any, tuple[str, ...]]:
    """Return the keys of the file and the notes on them; raise all mistakes at once."""
    found = read(text)
    problems = [
        (flaw.line, Problem(flaw.what, f"{display_path}:{flaw.line}  {dotted(flaw.path)}".rstrip(), flaw.fix))
        for flaw in found.flaws
    ]
    values: Any = None
    accepted: tuple[str, ...] = ()
    if found.whole and not isinstance(found.value, dict):
        fix = 'write {"name": ...}'
        raise ExperimentError(
            f"an experiment must be an object, not {describe_value(found.value)}", where=f"{display_path}:1", fix=fix
        )
    if found.whole:
        values, findings, accepted = _checked(found.value)
        for path, what, fix in findings:
            if not any(path[: len(guess)] == guess for guess in found.guessed):
                where = where_in(display_path, found.lines, path)
                line = int(where[len(display_path) + 1 :].split(" ", 1)[0])
                problems.append((line, Problem(what, where, fix)))
    if problems:
        raise ExperimentError.of([problem for _, problem in sorted(problems, key=lambda pair: pair[0])])
    return values, accepted


def _checked(data: dict[str, Any]) -> tuple[Any, list[Finding], tuple[str, ...]]:
    from pydantic import ValidationError

    from raycompress.config.checks.keys import check, notes
    from raycompress.config.schema.keys import ExperimentKeys
    from raycompress.config.schema.messages import findings_of
    from raycompress.config.schema.spelling import respell

    spelled = respell(data)
    values = None
    wrong = []
    try:
        values = ExperimentKeys.model_validate(spelled.data)
    except ValidationError as error:
        wrong = list(findings_of(error.errors(include_url=False)))
    wrong_paths = {finding.path for finding in wrong}
    # what is wrong by itself says nothing more about how it goes with the rest
    wrong += [
        finding for finding in check(spelled.data) if not any(finding.path[: len(path)] == path for path in wrong_paths)
    ]
    wrong = [finding for finding in wrong if not spelled.is_derived(finding)]
    findings = [*spelled.findings, *(finding._replace(path=spelled.written(finding.path)) for finding in wrong)]
    return values, findings, tuple(note.what for note in (*spelled.notes, *notes(spelled.data)))


def _experiment(values: Any, path: Path, home: Path, text: str, accepted: tuple[str, ...]) -> Experiment:
    """Build the experiment from its checked keys."""
    # the default, unlike a path that the file gives, starts from where the command is run, as `ls` and `best` do
    storage = values.storage if "storage" in values.model_fields_set else str(Path.cwd() / values.storage)
    files = Files.of(home, script=values.script, workingdir=values.workingdir or values.cwd, storage=storage)
    given = "n_samples" in values.model_fields_set
    compression, *later = stages_from(values.compression)
    proposer = "random" if (values.proposer, values.engine[:4]) == ("hyperopt", "rand") else values.proposer
    early_stop, objective = _early_stop(values), _objective(values)
    is_budgeted = proposer in ("hyperband", "bohb") or (early_stop is not None and early_stop.policy == "asha")
    return Experiment(
        path=path.resolve(),
        text=text,
        name=values.name,
        script_path=files.script,
        script_args=files.script_args,
        script_module=files.module,
        workingdir=files.workingdir,
        storage=files.storage,
        resources=_resources(values.resource),
        compression=compression,
        later=tuple(later),
        stage=0 if isinstance(values.compression, list) else None,
        parameter_config=tuple(written(parameter) for parameter in values.parameter_config),
        proposer=proposer,
        n_samples=None if proposer == "sequence" and not given else values.n_samples,
        n_samples_given=given,
        n_parallel=values.n_parallel,
        target=objective.goal,
        targets=_targets(values.target),
        objective=objective,
        seed=values.random_seed,
        job_retries=values.job_failure.job_retries,
        ignore_failures=values.job_failure.ignore_fail,
        trial_timeout_s=values.trial_timeout_s,
        time_budget_s=values.time_budget_s,
        save_model=values.resource_args.save_model,
        metric_labels=tuple(values.resource_args.multi_res_labels or ()),
        track_intermediate_results=(
            values.resource_args.track_intermediate_results or early_stop is not None or is_budgeted
        ),
        env=dict(values.runtime_args.env),
        baseline=values.baseline,
        early_stop=early_stop,
        budgets=Budgets(values.eta, values.max_iter) if is_budgeted else None,
        bohb={name: getattr(values, name) for name in BOHB_SETTINGS},
        own_folder=values.runtime_args.own_folder,
        prescript=values.runtime_args.prescript or "",
        postscript=values.runtime_args.postscript or "",
        exports=tuple(values.export),
        loggers=tuple(dict.fromkeys(values.loggers)),
        accepted=accepted,
        display_path=str(path),
        **read_options(SearchOptions, values),
    )


def _objective(values: Any) -> Objective:
    objectives = values.objectives or {}
    kept = values.finalists if values.repeats > 1 else 1
    constraints = {metric: written(each) for metric, each in values.constraints.items()}
    direction: Direction = "min" if values.target == "min" else "max"
    return Objective.from_keys(direction, objectives, constraints, values.pareto_size if len(objectives) > 1 else kept)


def _targets(target: Any) -> tuple[DeploymentTarget, ...]:
    if isinstance(target, str):
        return ()
    every = target if isinstance(target, list) else [target]
    return tuple(DeploymentTarget.from_json(one.model_dump()) for one in every)


def _early_stop(values: Any) -> EarlyStop | None:
    keys = values.scheduler or values.resource_args.early_stop
    if keys is None:
        return None
    if values.scheduler:
        return Scheduler(keys.type, **read_options(Scheduler, keys))
    return EarlyStop(keys.aup_policy, **read_options(EarlyStop, keys))


def _resources(resource: Any) -> Resources:
    if isinstance(resource, str):
        return Resources(gpu=1.0 if resource == "gpu" else 0.0)
    names = ("cpu", "gpu", "memory_gb", "accelerator_type", "workers", "placement")
    return Resources(**{name: getattr(resource, name) for name in names})
