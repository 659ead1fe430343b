"""The keys of an experiment file: pydantic models that its JSON Schema, its checks and its documentation come from.

Only `raycompress.config.experiment` imports this, when it needs it: pydantic takes a while to load.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic_core import CoreSchema, core_schema

from raycompress.catalog import FRAMEWORKS, names
from raycompress.catalog.exports import EXPORTS
from raycompress.catalog.proposers import PROPOSERS
from raycompress.catalog.runtimes import RUNTIMES
from raycompress.config.options import CompressionOptions, SearchOptions
from raycompress.config.schema.fields import (
    SEARCH_RANGE,
    Bits,
    Count,
    Expand,
    Keys,
    Many,
    OneOf,
    OneThatFits,
    QuantizedPart,
    Seconds,
    Share,
    Step,
    Text,
    Texts,
    absent,
    complaint,
    device_name,
    name_or_object,
    no_nul,
    with_options,
)
from raycompress.config.schema.rewritten import DIRECTIONS
from raycompress.config.stopping import EarlyStop, Scheduler
from raycompress.deployment.target import PRECISIONS
from raycompress.text import did_you_mean, join_names

POLICIES = ("bandit", "median", "truncation", "curve_fitting", "asha")
ENGINES = ("tpe", "random", "rand", "anneal", "mix")
LOGGERS = ("tensorboard", "mlflow", "wandb")


class Entry(Keys):
    """An entry of config_list: which layers, and how much of them."""

    op_names: Texts = absent("Names of layers, as in model.named_modules().")
    op_types: Texts = absent('Class names of layers; "default" is every type that the compressor works on.')
    exclude: bool = Field(False, description="Leave these layers alone.")
    expand_op_names: Expand = Field(
        True, description='One dimension per layer (true), for all (false), per set of tied layers ("dependency").'
    )
    sparsity: Share = absent("Share of channels or weights to remove, from 0 to below 1.")
    initial_sparsity: Share = absent("agp: the sparsity to start with.")
    final_sparsity: Share = absent("agp: the sparsity to end with.")
    start_epoch: Step = absent("agp: the first epoch that prunes.")
    end_epoch: Step = absent("agp: the last epoch that prunes.")
    frequency: Many = absent("agp: prune every so many epochs.")
    prune_iterations: Many = absent("lottery_ticket: how many rounds.")
    quant_types: list[QuantizedPart] = absent("What to quantize.")
    quant_bits: Bits = absent(
        "Bits, for everything or for each part; of a trained model's layer 4, 8, 32 (float), or "
        '"sensitivity": guided search chooses.'
    )
    quant_start_step: Step = absent("qat: the first step that quantizes.")
    quant_scheme: Any = absent("qat: how values map to integers.")
    quant_dtype: Any = absent("qat: int or uint.")


def _list_or_name(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<name>"


class DepthKeys(Keys):
    """Which residual blocks of the model may go: modules that compute x + f(x), with an identity in their place."""

    blocks: Annotated[
        Annotated[Literal["auto"], Tag("<name>")] | Annotated[Texts, Tag("<list>")], Discriminator(_list_or_name)
    ] = Field("auto", description='Names of blocks, or "auto" for all: the search keeps or drops each.')
    drop: Step = absent(
        "How many of them go, instead: those that change least what passes through them; a search range is allowed."
    )


@with_options(CompressionOptions)
class CompressionKeys(Keys):
    """What compresses the model, and what of it."""

    framework: Annotated[str, OneOf("framework", FRAMEWORKS)] = Field(description="torch or tensorflow")
    type: Annotated[str, OneOf("type of compression", ["pruning", "quantization"])] = Field(
        description="pruning or quantization"
    )
    compressor: Annotated[str, OneThatFits("compressor", names)] = Field(
        description="A name that `raycompress compressors` lists."
    )
    config_list: list[Entry] = Field(description="NNI's config_list; any value may be a search range.")
    arguments: dict[str, Any] = Field({}, description="Arguments of the compressor; search ranges allowed.")
    depth: DepthKeys = absent("Which residual blocks may go, before channels are removed from the others.")


Stages = Annotated[
    Annotated[CompressionKeys, Tag("<object>")]
    | Annotated[Annotated[list[CompressionKeys], Field(min_length=1)], Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list) else "<object>"),
]


class Parameter(Keys):
    """A further hyperparameter of the script: a name and a search range."""

    name: Text
    type: Any = absent("")  # these five are checked as every search range is
    range: Any = absent("")
    interval: Any = absent("")
    n: Any = absent("")
    log: Any = absent("")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        name = {"type": "string", "minLength": 1, "description": "What the script finds the value under."}
        properties = {"name": name, **SEARCH_RANGE["properties"]}
        return {**SEARCH_RANGE, "title": "Parameter", "properties": properties, "required": ["name", "type", "range"]}


class ResourceKeys(Keys):
    """What one trial occupies."""

    cpu: Annotated[float, Field(ge=0)] = Field(1.0, description="CPU cores.")
    gpu: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs; a fraction shares one.")
    memory_gb: Annotated[float, Field(gt=0)] = absent("Memory in GiB.")
    accelerator_type: Text = absent('Kind of GPU, such as "A100".')
    workers: Annotated[int, Field(ge=1)] = Field(
        1, description="Processes of one trial, each with these resources, as torchrun starts them."
    )
    placement: Annotated[str, OneOf("placement", ["PACK", "SPREAD"])] = Field(
        "PACK", description="Workers on as few machines as possible, or on as many."
    )


_ResourceName = Annotated[str, OneOf("resource", ["cpu", "gpu", "node", "aws", "passive"])]
Resource = Annotated[
    Annotated[_ResourceName, Tag("<name>")] | Annotated[ResourceKeys, Tag("<object>")], Discriminator(name_or_object)
]


class JobFailureKeys(Keys):
    """What a failed trial does to the search."""

    job_retries: Annotated[int, Field(ge=0)] = Field(0, description="Run a failed trial again, so many times.")
    ignore_fail: bool = Field(False, description="Go on after a failed trial.")


@with_options(EarlyStop)
class EarlyStopKeys(Keys):
    """When a trial is ended because its intermediate results are poor."""

    aup_policy: Annotated[str, OneOf("policy of early stopping", POLICIES)] = Field(
        description="bandit, median, truncation, curve_fitting or asha"
    )


class ResourceArgsKeys(Keys):
    """What trials save and report."""

    meaningless = (
        *("reconn_wait_time", "max_retries", "async_run", "async_reconnect", "async_timeout"),
        *("shutdown", "connection_retry", "retry"),
    )

    early_stop: EarlyStopKeys = absent("End trials whose intermediate results are poor.")

    save_model: bool = absent("Keep the best model and its mask; by default, of a search.")
    multi_res_labels: Texts = absent("Names of the numbers in a reported list, the objective's first.")
    track_intermediate_results: bool = Field(False, description="Record every result, not only the last.")


class RuntimeArgsKeys(Keys):
    """What surrounds a trial's script."""

    meaningless = ("overwrite",)

    prescript: Text = absent("Shell commands before the script; what they export, the script finds.")
    postscript: Text = absent("Shell commands after the script, whether it failed or not.")
    env: dict[str, Annotated[str, AfterValidator(no_nul)]] = Field({}, description="Environment variables.")
    own_folder: bool = Field(
        True, description="Run each trial in a folder of its own, with links to the files of workingdir."
    )


class ConstraintKeys(Keys):
    """What must hold of one metric for a trial to be the best."""

    min: float = absent("At least this.")
    max: float = absent("At most this.")
    min_ratio: Annotated[float, Field(gt=0)] = absent("At least this share of the dense model's.")
    max_ratio: Annotated[float, Field(gt=0)] = absent("At most this share of the dense model's.")
    max_drop: Annotated[float, Field(ge=0)] = absent("At most so much below the dense model's.")
    max_rise: Annotated[float, Field(ge=0)] = absent("At most so much above the dense model's.")


class TargetKeys(Keys):
    """What a model will be deployed on, and is measured in."""

    runtime: Annotated[str, OneOf("runtime", RUNTIMES.names)] = Field(
        description="The inference runtime: a name that `raycompress doctor --target` lists."
    )
    precision: Annotated[str, OneOf("precision", PRECISIONS)] = Field("fp32", description="What it computes in.")
    batch: Count = Field(1, description="Samples of one pass.")
    threads: Count = Field(1, description="Threads of one pass.")
    device: Annotated[Text, AfterValidator(device_name)] = Field(
        "cpu", description="cpu, gpu, or ssh://user@host[:port] for the CPU of another machine."
    )
    python: Text = absent("The Python of the environment here that has the runtime, where that is another one.")
    device_python: Text = absent("ssh: the Python of the other machine; python3 by default.")


class RuntimeNames:
    """Marks a target that the name of a runtime may stand for."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(runtime_as_target, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"enum": list(RUNTIMES.names())}]}


def runtime_as_target(value: Any) -> Any:
    """Return the target that the name of a runtime stands for; anything else as it is."""
    if not isinstance(value, str) or value in ("max", "min"):
        return value
    if value in RUNTIMES.names():
        return {"runtime": value}
    if value.lower() in DIRECTIONS:
        return value
    every = f"use one of {join_names(RUNTIMES.names())}"
    raise complaint(f'unknown runtime "{value}"', did_you_mean(value, RUNTIMES.names()) or every)


Targets = Annotated[list[Annotated[TargetKeys, RuntimeNames()]], Field(min_length=1)]
Direction = Literal["max", "min"]
TargetOrDirection = Annotated[
    Annotated[Direction, Tag("<name>")] | Annotated[TargetKeys, Tag("<object>")] | Annotated[Targets, Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list) else name_or_object(value)),
    RuntimeNames(),
]


@with_options(Scheduler)
class SchedulerKeys(Keys):
    """Which trials are ended before their end; the settings are those of early_stop."""

    type: Annotated[str, OneOf("scheduler", POLICIES)] = Field(
        description="bandit, median, truncation, curve_fitting or asha"
    )


@with_options(SearchOptions)
class ExperimentKeys(Keys):
    """An experiment of raycompress."""

    meaningless = ("min_budget", "max_budget", "n_iterations")

    schema_: str = Field("", alias="$schema", description="Of the file, for editors.")
    name: Text = Field(description="The experiment's name.")
    script: Text = Field(
        description="The training script, relative to workingdir, or -m pkg.train; arguments may follow."
    )
    workingdir: Text = absent("Where trials run; by default this file's folder.")
    cwd: Text = absent("The same as workingdir.")
    resource: Resource = Field("cpu", description="What one trial occupies.")
    compression: Stages = Field(
        description="What compresses the model: an object, or a list of them, stages that follow one another."
    )
    parameter_config: list[Parameter] = Field([], description="Further hyperparameters of the script.")
    proposer: Annotated[
        str,
        OneOf(
            "proposer",
            PROPOSERS.names,
            refused={"eas": "it grows architectures, and here they shrink"},
        ),
    ] = Field("random", description="How samples are chosen.")
    engine: Annotated[str, OneOf("engine", ENGINES)] = Field("tpe", description="hyperopt: tpe, or random sampling.")
    eta: Annotated[int, Field(ge=2)] = Field(3, description="hyperband, bohb, asha: one of so many trials goes on.")
    max_iter: Count = Field(81, description="hyperband, bohb, asha: the largest budget of a trial, n_iterations.")
    num_samples: Count = Field(64, description="bohb: how many candidates its model is asked about.")
    min_points_in_model: Count = absent("bohb: how many results its model needs.")
    top_n_percent: Annotated[int, Field(ge=1, le=99)] = Field(15, description="bohb: share of good results, percent.")
    random_fraction: Annotated[float, Field(ge=0, le=1)] = Field(1 / 3, description="bohb: share of random proposals.")
    bandwidth_factor: Annotated[float, Field(gt=0)] = Field(3.0, description="bohb: how far its model reaches out.")
    min_bandwidth: Annotated[float, Field(gt=0)] = Field(0.001, description="bohb: how narrow its model may become.")
    n_samples: Count = Field(10, description="How many samples; with sequence by default the whole grid.")
    n_parallel: Count = Field(1, description="How many trials at a time.")
    target: TargetOrDirection = Field(
        "max",
        description="What the model will be deployed on, one target or several: models are converted for it, and "
        "latency_ms and size_bytes are measured in it. Or max or min: whether a high or a low result is better.",
    )
    objectives: Annotated[dict[Text, Literal["max", "min"]], Field(min_length=1)] = absent(
        "Metric -> max or min: what the script reports, or params, flops, size_bytes, latency_ms, which we measure; "
        "with several, the Pareto front is kept."
    )
    constraints: dict[Text, ConstraintKeys] = Field(
        {}, description="Metric -> what must hold of it for a trial to be the best."
    )
    pareto_size: Count = Field(16, description="Several objectives: how many models of the front are kept at most.")
    scheduler: SchedulerKeys = absent("End poor trials early.")
    random_seed: Annotated[int, Field(ge=0, lt=2**31)] = absent("The same seed gives the same proposals.")
    job_failure: JobFailureKeys = Field(JobFailureKeys(), description="By default the first failure ends the search.")
    trial_timeout_s: Seconds = absent("A trial that takes longer is ended.")
    time_budget_s: Seconds = absent("The search ends after this time.")
    resource_args: ResourceArgsKeys = Field(ResourceArgsKeys(), description="What trials save and report.")
    runtime_args: RuntimeArgsKeys = Field(RuntimeArgsKeys(), description="What surrounds a trial's script.")
    storage: Text = Field("raycompress_results", description="The folder for results, or s3://bucket/prefix.")
    export: list[Annotated[str, OneThatFits("export", EXPORTS.names)]] = Field(
        [], description="Further forms of the model in its bundle."
    )
    loggers: list[Annotated[str, OneOf("logger", LOGGERS)]] = Field(
        [], description="Who is told of every trial as well."
    )
    baseline: bool = Field(True, description="Measure the model as it is, as trial 0.")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the experiment file.

    ``allowComments`` and ``allowTrailingCommas`` are no keywords of the draft: editors with the JSON support of VS Code
    read them, and then mark neither as a mistake in a file called ``*.json``.
    """
    schema = _without_null_defaults(ExperimentKeys.model_json_schema())
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, "allowComments": True, "allowTrailingCommas": True, **schema}


def _without_null_defaults(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_null_defaults(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_null_defaults(item) for key, item in value.items() if not (key == "default" and item is None)}
