"""The keys of an experiment file: pydantic models that its JSON Schema, its checks and its documentation come from.

Only `raycompress.config.experiment` imports this, when it needs it: pydantic takes a while to load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    create_model,
)
from pydantic_core import CoreSchema, PydanticCustomError, ValidationError, core_schema

from raycompress.catalog import FRAMEWORKS, names
from raycompress.catalog.exports import EXPORTS
from raycompress.catalog.proposers import PROPOSERS
from raycompress.config.options import SearchOptions
from raycompress.config.schema.messages import findings_of
from raycompress.config.schema.ranges import KEYS, TYPES, Finding, check_range, is_range
from raycompress.config.stopping import EarlyStop, Scheduler
from raycompress.text import did_you_mean, join_names

POLICIES = ("bandit", "median", "truncation", "curve_fitting", "asha")
ENGINES = ("tpe", "random", "rand", "anneal", "mix")
LOGGERS = ("tensorboard", "mlflow", "wandb")

_NO_MEANING = "Of the old tool's remote execution: taken, and without meaning here."


_Keys = TypeVar("_Keys", bound="Keys")


def _extend(schema: dict[str, Any], model: type[Any]) -> None:
    """Add the keys that are no fields."""
    properties = schema.setdefault("properties", {})
    properties.update({key: {"description": _NO_MEANING} for key in model.meaningless})


class Keys(BaseModel):
    """An object of the file: its keys are known, each value has exactly the type that its key says."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_extend)
    meaningless: ClassVar[tuple[str, ...]] = ()
    """Keys of the old tool that have no meaning here: using one is taken, with a note."""


class RangeOr:
    """Marks a value that a search range may stand for; the range's ends and choices must be such values."""

    def __init__(self, only: str | None = None) -> None:
        self.only = only

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def _validate(self, value: Any, handler: Any) -> Any:
        if not is_range(value):
            return handler(value)
        findings = check_range(value, only=self.only)
        if not findings:
            members, findings = _members(value, handler)
        if findings:
            raise PydanticCustomError("findings", "a search range", {"findings": findings})
        return {**value, "range": members}

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), SEARCH_RANGE]}


def _members(value: Mapping[str, Any], handler: Any) -> tuple[list[Any], list[Finding]]:
    """Return the range's ends or choices as the values that they stand for, and what is wrong with them."""
    members: list[Any] = []
    findings: list[Finding] = []
    for index, member in enumerate(value["range"]):
        try:
            members.append(handler(member))
        except ValidationError as error:
            for found in findings_of(error.errors()):
                findings.append(found._replace(path=("range", index, *found.path)))
    return members, findings


SEARCH_RANGE: dict[str, Any] = {
    "type": "object",
    "title": "Search range",
    "properties": {
        "type": {"enum": list(TYPES)},
        "range": {"type": "array", "minItems": 1, "description": "[low, high], both included; of a choice the values"},
        "interval": {"type": "number", "exclusiveMinimum": 0, "description": "for the proposer sequence: the step"},
        "n": {"type": "integer", "minimum": 2, "description": "for the proposer sequence: how many values"},
        "log": {"type": "boolean", "description": "search the logarithm"},
    },
    "required": ["type", "range"],
    "additionalProperties": False,
}
assert tuple(SEARCH_RANGE["properties"]) == KEYS


def complaint(what: str, fix: str) -> PydanticCustomError:
    """Return the error of a validator that knows its own words."""
    return PydanticCustomError("findings", "a mistake", {"findings": [Finding((), what, fix)]})


class OneOf:
    """Marks a text that must be one of `options`; `refused` are known, and never will be.

    Options that plug-ins add to are given as a function.
    """

    def __init__(
        self,
        noun: str,
        options: Sequence[str] | Callable[[], Sequence[str]],
        *,
        refused: Mapping[str, str] | None = None,
        more: str = "",
    ) -> None:
        self.noun, self._options, self.refused, self.more = noun, options, refused or {}, more

    @property
    def options(self) -> Sequence[str]:
        """The texts that are taken, as of now."""
        return self._options() if callable(self._options) else self._options

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._validate, handler(source))

    def _validate(self, value: str) -> str:
        if value in self.options:
            return value
        every = f"use one of {join_names(self.options)}"
        if value in self.refused:
            raise complaint(f'the {self.noun} "{value}" is refused: {self.refused[value]}', every)
        near = did_you_mean(value, self.options)
        raise complaint(
            f'unknown {self.noun} "{value}"', " ".join(filter(None, [near or every + ";", self.more])).rstrip(";")
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.options)}


def absent(description: str) -> Any:
    """A key without a default: it may be left out, and cannot be null."""
    return Field(default=None, description=description)


def with_options(options: type[Any]) -> Callable[[type[_Keys]], type[_Keys]]:
    """Add the keys of `options`, a dataclass of `raycompress.config.options.option`, to an object of the file."""
    hints = get_type_hints(options)
    members: dict[str, Any] = {}
    for one in fields(options):
        if "key" in one.metadata:
            kinds = [kind for kind in get_args(hints[one.name]) if kind is not NoneType]
            kind = kinds[0] if one.default is None else hints[one.name]
            limited = Annotated[kind, Field(**one.metadata["limits"])] if one.metadata["limits"] else kind
            given = Field(default=one.default, description=one.metadata["description"])
            members[one.metadata["key"] or one.name] = (limited, given)

    def extend(keys: type[_Keys]) -> type[_Keys]:
        return create_model(keys.__name__, __base__=keys, __module__=keys.__module__, __doc__=keys.__doc__, **members)

    return extend


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise complaint("a NUL character, which no name, path or command can hold", "remove \\u0000")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_no_nul)]
Texts = Annotated[list[Text], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1), RangeOr()]
Step = Annotated[int, Field(ge=0), RangeOr("int")]
Many = Annotated[int, Field(ge=1), RangeOr("int")]


def _no_number(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):  # a Literal takes 1 for true
        raise complaint(f'"expand_op_names" must be one of true, false, dependency, not {value}', "write true or false")
    return value


Expand = Annotated[Literal[True, False, "dependency"], BeforeValidator(_no_number)]


def _bits_or_each(value: Any) -> str:
    return "<each>" if isinstance(value, dict) and not is_range(value) else "<bits>"


def _name_or_object(value: Any) -> str:
    return "<object>" if isinstance(value, dict) else "<name>"


QuantizedPart = Literal["weight", "input", "output"]
Bits = Annotated[
    Annotated[Many, Tag("<bits>")] | Annotated[dict[QuantizedPart, Many], Tag("<each>")], Discriminator(_bits_or_each)
]


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
    quant_bits: Bits = absent("Bits, for everything or for each part.")
    quant_start_step: Step = absent("qat: the first step that quantizes.")
    quant_scheme: Any = absent("qat: how values map to integers.")
    quant_dtype: Any = absent("qat: int or uint.")


class CompressionKeys(Keys):
    """What compresses the model, and what of it."""

    framework: Annotated[str, OneOf("framework", FRAMEWORKS)] = Field(description="torch or tensorflow")
    type: Annotated[str, OneOf("type of compression", ["pruning", "quantization"])] = Field(
        description="pruning or quantization"
    )
    compressor: Annotated[
        str,
        OneOf("compressor", names, more="`raycompress compressors` lists them all"),
    ] = Field(description="A name that `raycompress compressors` lists.")
    config_list: list[Entry] = Field(description="NNI's config_list; any value may be a search range.")
    arguments: dict[str, Any] = Field({}, description="Arguments of the compressor; search ranges allowed.")


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


_ResourceName = Annotated[str, OneOf("resource", ["cpu", "gpu", "node", "aws", "passive"])]
Resource = Annotated[
    Annotated[_ResourceName, Tag("<name>")] | Annotated[ResourceKeys, Tag("<object>")], Discriminator(_name_or_object)
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
    env: dict[str, Annotated[str, AfterValidator(_no_nul)]] = Field({}, description="Environment variables.")


class ConstraintKeys(Keys):
    """What must hold of one metric for a trial to be the best."""

    min: float = absent("At least this.")
    max: float = absent("At most this.")
    min_ratio: Annotated[float, Field(gt=0)] = absent("At least this share of the dense model's.")
    max_ratio: Annotated[float, Field(gt=0)] = absent("At most this share of the dense model's.")
    max_drop: Annotated[float, Field(ge=0)] = absent("At most so much below the dense model's.")
    max_rise: Annotated[float, Field(ge=0)] = absent("At most so much above the dense model's.")


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
    script: Text = Field(description="The training script, relative to workingdir; arguments may follow.")
    workingdir: Text = absent("Where trials run; by default this file's folder.")
    cwd: Text = absent("The same as workingdir.")
    resource: Resource = Field("cpu", description="What one trial occupies.")
    compression: CompressionKeys
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
    target: Literal["max", "min"] = Field("max", description="Whether a high or a low result is better.")
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
    export: list[Annotated[str, OneOf("export", EXPORTS.names)]] = Field(
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
