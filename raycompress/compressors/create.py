"""`create_compressor`: the one call by which a script gets its model compressed."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycompress import catalog
from raycompress.catalog import CompressorEntry
from raycompress.compressors.given import send_given
from raycompress.errors import CompressionError, ExperimentError, UsageError
from raycompress.script import context
from raycompress.script.config import DEPTH_KEY, SLICE_KEY, STAGES_KEY, unrecorded

if TYPE_CHECKING:
    from raycompress.bundle.example import Example
    from raycompress.compressors.saving.export import Export


@dataclass(frozen=True)
class Setup:
    """One call of `create_compressor`.

    Attributes
    ----------
    model
        The user's model: a torch module or a Keras model.
    entry
        The compressor's entry in the catalogue, as it is with these arguments.
    config_list
        As the user wrote it, concrete.
    arguments
        The compressor's arguments, complete.
    dummy_input
        What the script passed under this name, or None.
    optimizer
        What the script passed under this name or by position, or None.
    asked
        ``name``, ``config_list`` and ``arguments`` as the user wrote them, for the bundle: plain JSON.
    evaluator
        What the script passed under this name: evaluator(model) returns the metric. None where it passed none.
    calibration
        What the script passed under this name: inputs in batches, or tuples that begin with them; or None.
    slice
        When a pruner slices the model by itself: ``before`` or ``after`` the script trains it; None for never.
    depth
        Which residual blocks go, a `raycompress.compressors.depth.depth.Depth`; None where that is not asked for.
    is_stage
        Whether this is one of several stages; see `raycompress.compressors.stages.staged`.
    earlier
        What the stages before it have left; None for the first.
    samples
        Of a quantizer: inputs to calibrate with where ``calibration_data`` is none of its arguments.
    """

    model: Any
    entry: CompressorEntry
    config_list: Sequence[Mapping[str, Any]]
    arguments: Mapping[str, Any]
    dummy_input: Any
    optimizer: Any
    asked: Mapping[str, Any]
    evaluator: Callable[[Any], Any] | None = None
    calibration: Iterable[Any] | None = None
    slice: str | None = None
    depth: Any = None
    is_stage: bool = False
    earlier: Export | None = None
    samples: list[Example] | None = None


Config = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""What is compressed and how, or the stages of that in a list."""

__all__ = ["create_compressor"]

# what scripts of the old tool pass whatever the compressor, and a compressor that has no use for it leaves alone
TOLERATED = frozenset(
    {"optimizer", "trainer", "criterion", "evaluator", "calibration", "lr_scheduler", "statistics_batch_num"}
)

# framework -> the module whose `for_mode` serves the trials that are no real ones
_MODES = {"torch": "raycompress.compressors.modes", "tensorflow": "raycompress.compressors.keras.modes"}


def create_compressor(model: Any, config: Config, *args: Any, **kwargs: Any) -> Any:
    """Return the compressor that `config` names, for `model`.

    Parameters
    ----------
    model
        The trained model, of torch or Keras; it is compressed in place.
    config
        ``compressor``, ``config_list``, and optionally ``arguments``, whose values win over `kwargs`. The ``locals()``
        of a decorated ``main`` is accepted as well. A list of such are stages (docs/search/stages.md): each works on
        what the one before left, and gets those of `kwargs` that it takes.
    *args
        An optimizer, for scripts that pass it by position.
    **kwargs
        The compressor's arguments (``raycompress compressors NAME`` lists them), and

        ``dummy_input``: a tensor with the batch first, a tuple of arguments, a mapping of keyword arguments, or a list
        of images; see `raycompress.bundle.example.Example.for_model`. Without it, the first input of the model is used.

        ``evaluator``: evaluator(model) returns the metric; guided search and rung 0 judge models by it that are not
        trained yet. ``calibration``: a loader of inputs, see `raycompress.compressors.loaders.calls_in`, which they
        learn from; without it they use the inputs that the evaluator calls the model with. Where it is there, a
        compressor that cuts channels refits the layers that read them (``compensate=False`` for not).

        ``teacher``: True, or a type such as ``"bfloat16"``, keeps a copy of the dense model as ``compressor.teacher``,
        for `raycompress.distill`.

    Returns
    -------
    Compressor
        See `raycompress.compressors.interface.Compressor`.

    Raises
    ------
    ExperimentError
        Unknown compressor, layers or arguments, all of them at once where they are in one list.
    CompressionError
        The compressor cannot work on this model.
    """
    framework = _framework(model)
    given = model
    if framework == "torch":
        model = importlib.import_module("raycompress.compressors.wrappers").inside(model)
        _check_weights(model)
    made = _for_mode(model, framework, _flat(config), args, kwargs)
    if model is given:
        return made
    return importlib.import_module("raycompress.compressors.wrappers").ForWrapper(made, given)


def _for_mode(
    model: Any, framework: str, config: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Return the compressor for the mode of the trial that this process runs; by hand it is a trial's."""
    arguments = {**_positional(args), **kwargs}
    dummy = arguments.pop("dummy_input", None)
    asked = arguments.pop("teacher", None)
    made = _of_mode(model, framework, config, arguments, dummy)
    if asked:
        _keep_teacher(made, asked)
    return made


def _keep_teacher(made: Any, asked: Any) -> None:
    if not hasattr(made, "keep_teacher"):
        raise ExperimentError(
            f"{type(made).__name__} keeps no teacher: distillation is for our compressors of torch models",
            where="create_compressor",
            fix="leave teacher= out",
        )
    made.keep_teacher(asked)


def _of_mode(model: Any, framework: str, config: Mapping[str, Any], arguments: Mapping[str, Any], dummy: Any) -> Any:
    trial = context.current()
    if trial is not None and trial.mode == "inspect":
        send_given(trial, config, {**arguments, **_file_arguments(config)})
    if trial is not None and trial.mode != "trial":

        def make(other: Mapping[str, Any]) -> tuple[Any, CompressorEntry, Mapping[str, Any]]:
            setups = _setups(model, {**config, **other}, arguments, dummy)
            return _made(setups), setups[0].entry, setups[0].arguments

        return importlib.import_module(_MODES[framework]).for_mode(model, trial, dummy, arguments, make)
    return _made(_setups(model, config, arguments, dummy))


def _flat(config: Config) -> Mapping[str, Any]:
    """Return the config of the first stage, with the others under `STAGES_KEY`."""
    if not isinstance(config, (list, tuple)):
        return unrecorded(config)  # type: ignore[arg-type]
    if not config or not all(isinstance(stage, Mapping) for stage in config):
        raise UsageError(
            "the config is a list, and not of stages",
            where="create_compressor",
            fix='[{"compressor": "group_l1", ...}, {"compressor": "ptq_static", ...}], for instance',
        )
    first, *later = map(unrecorded, config)
    return {**first, STAGES_KEY: later} if later else first


def _check_weights(model: Any) -> None:
    """Raise CompressionError for a torch model whose weights cannot be worked on."""
    kind = type(model).__name__
    for name, parameter in model.named_parameters():
        what, fix = _wrong_weights(parameter)
        if what:
            raise CompressionError(f'"{name}" of {kind} {what}', where="create_compressor", fix=fix)


def _wrong_weights(parameter: Any) -> tuple[str, str]:
    """Return why nothing can be done with a parameter of torch, and what to do about it; empty texts where it can."""
    if hasattr(parameter, "materialize"):  # of a Lazy module
        return "has no values yet: a lazy layer makes them when it is first called", (
            "call the model once, model(x), before create_compressor"
        )
    if hasattr(parameter, "device_mesh"):
        return (
            "is sharded over the workers (a DTensor, as fully_shard makes them), which has neither masks nor slices",
            ("compress a model that every worker has whole, under DistributedDataParallel; a teacher may be sharded"),
        )
    if parameter.is_meta:
        return "has no values: it is on the device meta", "load the weights before create_compressor"
    if parameter.is_inference():
        return "was made inside torch.inference_mode(), so that nothing can change or train it", (
            "make the model outside of it, or under torch.no_grad()"
        )
    if parameter.is_floating_point() and bool(parameter.detach().isnan().any()):
        return "holds NaN", "load sound weights: a training that diverged has left these"
    return "", ""


def setup_of(
    model: Any, config: Mapping[str, Any], arguments: Mapping[str, Any], dummy: Any, *, is_first: bool = True
) -> Setup:
    """Return what the compressor of `config` is made of; ``slice`` and ``depth`` are about the first stage."""
    entry = _entry(config, _framework(model))
    from_file = _file_arguments(config)
    loader, method = arguments.get("calibration"), entry.argument("calibration")
    if isinstance(loader, str):  # of ptq_static it is how ranges are found
        loader = None
    elif loader is not None and method is not None and not method.from_script:
        arguments = {name: value for name, value in arguments.items() if name != "calibration"}
    complete = _complete(entry, arguments, from_file)
    config_list = config.get("config_list", ()) or list(entry.without_entries)
    return Setup(
        model=model,
        entry=entry.given(complete),
        config_list=config_list,
        arguments=complete,
        dummy_input=dummy,
        optimizer=arguments.get("optimizer"),
        evaluator=evaluator_of(arguments),
        calibration=loader,
        slice=_slice(config, entry) if is_first else None,
        depth=_depth(config, entry) if is_first else None,
        asked={"name": entry.name, "config_list": list(config_list), "arguments": dict(from_file)},
    )


def _setups(model: Any, config: Mapping[str, Any], arguments: Mapping[str, Any], dummy: Any) -> list[Setup]:
    """Return what each stage is made of; there is one, unless the config, or the trial's own, has more."""
    later = later_stages(config)
    if not later:
        return [setup_of(model, config, arguments, dummy)]
    stages = importlib.import_module("raycompress.compressors.stages.setups")
    found: list[Setup] = stages.setups_of(model, [config, *later], arguments, dummy)
    return found


def later_stages(config: Config) -> Sequence[Mapping[str, Any]]:
    """Return the stages after the first, as `config` has them, or else the trial's own configuration."""
    given = _flat(config)
    return (given if STAGES_KEY in given else _own(given)).get(STAGES_KEY) or ()


def _slice(config: Mapping[str, Any], entry: CompressorEntry) -> str | None:
    """Return when to slice: as the trial's own configuration says, of which a script may pass on a part only."""
    when = _own(config).get(SLICE_KEY)
    if when is None:
        return None
    what, fix = f'"{SLICE_KEY}" must be "before" or "after", not {when!r}', "write one of the two"
    if when in ("before", "after"):
        # what of torch removes no channels may be one of several choices of an argument that is searched
        what, fix = entry.why_not_sliced(when) if entry.framework != "torch" else ("", "")
    if what:
        raise ExperimentError(what, where=SLICE_KEY, fix=fix)
    return str(when)


def _depth(config: Mapping[str, Any], entry: CompressorEntry) -> Any:
    """Return what the configuration says of the depth; ExperimentError where the compressor cannot drop blocks."""
    value = _own(config).get(DEPTH_KEY)
    if value is None:
        return None
    if what := entry.why_no_depth():
        raise ExperimentError(what, where="depth", fix='remove "depth", or take a compressor such as group_l1')
    return importlib.import_module("raycompress.compressors.depth.depth").Depth.of(value)


def _own(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the trial's own configuration, of which a script may pass on a part only; by hand what it passes."""
    trial = context.current()
    return config if trial is None or trial.config is None else trial.config


def _made(setups: Sequence[Setup]) -> Any:
    if len(setups) == 1:
        return made_of(setups[0])
    return importlib.import_module("raycompress.compressors.stages.staged").StagedCompressor(setups)


def made_of(setup: Setup) -> Any:
    """Return the compressor of one stage, or of the only one."""
    module, _, name = setup.entry.compressor.partition(":")
    return getattr(importlib.import_module(module), name)(setup)


def evaluator_of(arguments: Mapping[str, Any]) -> Callable[[Any], Any] | None:
    """Return the script's evaluator, as a function of the model alone; None where it passes none."""
    evaluator: Callable[..., Any] | None = arguments.get("evaluator")
    if evaluator is None or "val_loader" not in arguments:
        return evaluator
    return functools.partial(evaluator, arguments["val_loader"])  # amc's has its data as the first argument


def closest(name: str, names: Iterable[str]) -> str:
    """Return ``did you mean "..."?``, or an empty string where nothing is near."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f'did you mean "{near[0]}"?' if near else ""


def _framework(model: Any) -> str:
    """Tell which framework made `model`, without importing any."""
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if package == "torch" and kind.__name__ == "Module":
            return "torch"
        if package in ("keras", "tf_keras", "tensorflow") and kind.__name__ == "Model":
            return "tensorflow"
    raise UsageError(f"create_compressor takes a torch.nn.Module or a Keras model first, not {type(model).__name__}")


def _positional(args: tuple[Any, ...]) -> dict[str, Any]:
    if not args:
        return {}
    if len(args) == 1 and hasattr(args[0], "param_groups"):
        return {"optimizer": args[0]}
    raise UsageError(
        "create_compressor takes the model, the config and at most an optimizer by position",
        where="create_compressor",
        fix="pass the rest by name, such as dummy_input=...",
    )


def entry_of(model: Any, config: Mapping[str, Any]) -> CompressorEntry:
    """Return the entry of the compressor that `config` names for `model`, as it is with its arguments."""
    return _entry(config, _framework(model)).given(_file_arguments(config))


def _entry(config: Mapping[str, Any], framework: str) -> CompressorEntry:
    name = config.get("compressor")
    entry = catalog.find(str(name), framework)
    if entry is None:
        near = closest(str(name), catalog.names(framework))
        raise ExperimentError(
            f'unknown compressor "{name}"' if name is not None else "the config names no compressor",
            where="compressor",
            fix=f"{near} `raycompress compressors` lists them all".strip(),
        )
    if entry.framework != framework:
        raise ExperimentError(
            f'the compressor "{name}" is for {entry.framework}, and this is a model of {framework}',
            where="compressor",
            fix="take one of " + ", ".join(catalog.names(framework)),
        )
    return entry


def _file_arguments(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``arguments``; in the ``locals()`` of a main with ``**other`` they are one level down."""
    for place in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        found = place.get("arguments")
        if isinstance(found, Mapping):
            return found
    return {}


def _complete(entry: CompressorEntry, given: Mapping[str, Any], from_file: Mapping[str, Any]) -> dict[str, Any]:
    known = {argument.name: argument.default for argument in entry.arguments}
    unknown = [key for key in from_file if key not in known]
    unknown += [key for key in given if key not in known and key not in TOLERATED]
    if unknown:
        listed = ", ".join([*known, "dummy_input"])
        raise ExperimentError(
            f"{entry.name} takes no argument " + ", ".join(f'"{key}"' for key in unknown),
            where="create_compressor",
            fix=closest(unknown[0], [*known, "dummy_input"]) or f"it takes {listed}",
        )
    complete = {**known, **{key: value for key, value in given.items() if key in known}, **from_file}
    missing = [item for item in entry.arguments if item.required and complete[item.name] is None]
    if missing:
        raise ExperimentError(
            f"{entry.name} needs " + ", ".join(f"{item.name}=" for item in missing),
            where="create_compressor",
            fix="; ".join(f"{item.name}: {item.summary}" for item in missing),
        )
    return complete
