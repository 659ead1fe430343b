"""`compress`: a compressed model, its bundle and what was measured, in this process: no file, no script, no search."""

from __future__ import annotations

import inspect
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from raycompress import catalog
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.catalog import CompressorEntry
from raycompress.compressors import modes
from raycompress.compressors.compressed import Compressed
from raycompress.compressors.create import closest, create_compressor
from raycompress.compressors.deploying.measuring import Target, targets_from
from raycompress.compressors.interface import Compressor
from raycompress.compressors.layer_kinds import made_plain_by, torch_base
from raycompress.compressors.structure.graph import ChannelGraph, clean_copy
from raycompress.compressors.structure.groups import channel_groups
from raycompress.compressors.wrappers import inside
from raycompress.config.keywords import config_list as config_list_of
from raycompress.config.matching import round_to_of
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import BundleError, CompressionError, ExperimentError, UsageError
from raycompress.script import context
from raycompress.script.config import DEPTH_KEY, SLICE_KEY, STAGES_KEY

_CALLER = "rc.compress"
_SPARSITY = 0.5

Evaluator = Callable[[nn.Module], float]


def compress(
    model: nn.Module,
    example_inputs: Any,
    compressor: str | Sequence[str | Mapping[str, Any]] = "group_l1",
    sparsity: float | Mapping[str, float] | None = None,
    *,
    evaluator: Evaluator | None = None,
    finetune: Callable[..., Any] | None = None,
    config_list: Sequence[Mapping[str, Any]] | None = None,
    op_types: Sequence[str] | None = None,
    op_names: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    folder: str | Path | None = None,
    export: Sequence[str] = (),
    slice: Literal["before", "after"] | None = None,
    depth: Mapping[str, Any] | None = None,
    target: Target | Sequence[Target] | None = None,
    **arguments: Any,
) -> Compressed:
    """Compress a copy of `model`, prove that the saved model is the compressed one, and measure both.

    Parameters
    ----------
    model, example_inputs
        A trained model, which is left as it is, and an input of it on its device, as ``dummy_input`` is given.
    compressor, sparsity
        A name that ``raycompress compressors`` lists, and the share to remove, from 0 to below 1: of every layer that
        can lose channels (0.5 by default), or by layer. Some compressors have none. Of several stages a list: the other
        keywords are about the first, later ones are names or have a ``config_list`` and ``arguments`` of their own.
    evaluator
        evaluator(model) returns the metric, a number; it is called before and after.
    finetune
        finetune(model), or finetune(model, compressor), trains the small model, or the masked one where what goes is
        chosen meanwhile.
    config_list, op_types, op_names, exclude
        The layers to compress and those to leave alone, by default all that can be; or NNI's, with their sparsities.
    folder, export, slice
        Where the bundle goes (``raycompress_results/compressed``), further forms of the model in it (``onnx``), and
        whether channels are cut out ``before`` (by default, where what goes is known) or ``after`` `finetune`.
    depth
        Residual blocks that go before channels do: ``{"drop": ["layer3.1"]}``, or ``{"drop": 2}`` for those that change
        least what passes through them, by ``calibration=`` or what `evaluator` calls the model with.
    target
        What the model will be deployed on and measured in: the name of a runtime, a target as in an experiment file, or
        several of these.
    **arguments
        The compressor's own (``raycompress compressors NAME``), such as ``round_to=8``. An ``optimizer`` is given as a
        function of the model, since it is for the copy: ``lambda model: Adam(...)``. With ``calibration=``, a loader of
        inputs, layers that read removed channels are refitted on them (``compensate=False`` for not).

    Raises
    ------
    ExperimentError, UsageError
        Unknown compressor, layers or arguments, or one that is no model, no metric, or no use to this compressor.
    CompressionError, SpeedupError, BundleError
        The compressor cannot work on this model or removes nothing, or the saved model gives other outputs.
    """
    stages = _stages(compressor)
    config: dict[str, Any] = {} if depth is None else {DEPTH_KEY: depth}
    config |= {STAGES_KEY: stages[1:], SLICE_KEY: slice} if stages[1:] else {}
    entry, model = _entry(model, str(stages[0]["compressor"])).given(arguments), inside(model)
    targets = () if target is None else targets_from(target)
    task = _Task(entry, example_inputs, evaluator, finetune, arguments, slice, targets, config)
    example, dense = _input_and_copy(model, example_inputs)
    layers = {"sparsity": sparsity, "op_types": op_types, "op_names": op_names, "exclude": exclude}
    asked = _config_list(dense, example, task, layers) if config_list is None else list(config_list)
    before = _metric(evaluator, dense)
    with _names_of_places(config_list is not None), _in_folder(folder, type(model).__name__) as place:
        small, after, facts = task.run(clean_copy(model), asked, place, export)
        facts |= {"metric_before": before, "metric_after": after, **task.reload(dense, place)}
    return Compressed(small, place, " + ".join(str(stage["compressor"]) for stage in stages), **facts)


@dataclass(frozen=True)
class _Task:
    """How a model is to be compressed; what `compress` was given."""

    entry: CompressorEntry
    example_inputs: Any
    evaluator: Evaluator | None
    finetune: Callable[..., Any] | None
    arguments: Mapping[str, Any]
    slice: str | None
    targets: tuple[DeploymentTarget, ...]
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        _check_free(self.finetune, self.entry, self.arguments)
        _check_slice(self.entry, self.slice)

    def run(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        place: Path,
        export: Sequence[str],
    ) -> tuple[nn.Module, float | None, dict[str, Any]]:
        """Compress `model` and save it into `place`; return it, its metric, and what was removed, with notes."""
        config = {"compressor": self.entry.name, "config_list": config_list, **self.config}
        given = _for_the_copy(self.arguments, model) | ({} if self.evaluator is None else {"evaluator": self.evaluator})
        with _as_trial(place, export, self.targets) as (trial, sent):
            made = create_compressor(model, config, dummy_input=self.example_inputs, **given)
            small = self._compressed(made)
            metric = _metric(self.evaluator, small)
            if metric is not None:
                for hook in trial.on_report:
                    hook({"metric": metric})
            made.export_model("model.pth")
            for finish in trial.on_finish:
                finish()
        facts = next(message for message in reversed(sent) if message["type"] == "candidate")
        removed = {layer: (removed, of) for layer, (removed, of) in facts["removed"].items()}
        return small, metric, {"removed": removed, "notes": tuple(facts["notes"])}

    def reload(self, dense: nn.Module, place: Path) -> dict[str, Any]:
        """Load the bundle into a copy of the dense model, compare it with what was saved, and measure both."""
        given = {**self.arguments, "evaluator": self.evaluator}
        measured = modes.compare(dense, bundle.load(place, clean_copy(dense)), place, given, self.targets)
        difference = measured["relative_difference"]
        if not difference <= bundle.TOLERANCE:
            raise BundleError(
                f"the model, reloaded, gives other outputs than the saved ones (relative difference {difference:.2g})",
                where=str(place),
                fix="keep what the model computes with in parameters and buffers, or set it before rc.compress",
            )
        return {name: measured[name] for name in ("relative_difference", "before", "after")}

    def _compressed(self, made: Compressor) -> nn.Module:
        """Compress, slice where that can be done before the training, train, and slice at the latest then."""
        model = made.compress()
        cuts = self.entry.kind == "pruning" and self.entry.removes_channels
        if cuts and made.is_decided and self.slice != "after":
            model = made.apply_speedup()
        if self.finetune is not None:
            self.finetune(model, made) if _takes_two(self.finetune) else self.finetune(model)
        if cuts:
            made.apply_speedup()
        return made.result()


def _stages(compressor: str | Sequence[str | Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    given = [compressor] if isinstance(compressor, str) else compressor or [""]
    return [{"compressor": stage} if isinstance(stage, str) else {"compressor": "", **stage} for stage in given]


def _entry(model: Any, compressor: str) -> CompressorEntry:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"rc.compress takes a torch.nn.Module first, not {type(model).__name__}",
            where=_CALLER,
            fix="for a Keras model write a script with rc.create_compressor, and launch it",
        )
    entry = catalog.find(compressor, "torch")
    if entry is None or entry.framework != "torch":
        near = closest(compressor, catalog.names("torch"))
        raise ExperimentError(
            f'unknown compressor "{compressor}"',
            where=f"{_CALLER}  compressor",
            fix=f"{near} `raycompress compressors` lists them all".strip(),
        )
    return entry


def _check_free(finetune: Any, entry: CompressorEntry, arguments: Mapping[str, Any]) -> None:
    """Raise what is known to go wrong before anything is computed."""
    if context.current() is not None:
        raise UsageError(
            "this is a trial, whose configuration says what is compressed",
            where=_CALLER,
            fix="call rc.create_compressor(model, config) in it",
        )
    if finetune is not None and entry.kind == "quantization" and entry.acts == "in compress()":
        raise UsageError(
            f"{entry.name} quantizes a trained model, which cannot be trained after that",
            where=f"{_CALLER}  finetune",
            fix="train first and leave finetune out, or take a compressor that trains, such as qat",
        )
    if entry.name == "ptq_static" and arguments.get("calibration_data") is None:
        raise UsageError(
            "ptq_static has no data to calibrate with",
            where=f"{_CALLER}  calibration_data",
            fix="calibration_data=, such as 256 training inputs or a DataLoader",
        )


def _check_slice(entry: CompressorEntry, when: str | None) -> None:
    if when is None:
        return
    what, fix = f'"{when}" is neither "before" nor "after"', "write one of the two"
    if when in ("before", "after"):
        what, fix = entry.why_not_sliced(when)
    if what:
        raise UsageError(what, where=f"{_CALLER}  slice", fix=fix.replace('"slice": ', "slice="))


def _input_and_copy(model: nn.Module, example_inputs: Any) -> tuple[Example, nn.Module]:
    """Return the input, with which the model can be called, and a copy of the model."""
    example, copied = Example.for_model(example_inputs, model), clean_copy(model)
    try:
        example.outputs(copied)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CompressionError(
            f"{type(model).__name__} cannot be called with these inputs: {text}",
            where=f"{_CALLER}  example_inputs",
            fix="pass what its forward() takes: a tensor with the batch first, a tuple of arguments, or a dict of "
            "keyword arguments",
        ) from error
    return example, copied


@contextmanager
def _names_of_places(has_config_list: bool) -> Iterator[None]:
    """Have mistakes in what `create_compressor` is given name the keyword of this call."""
    try:
        yield
    except ExperimentError as error:
        raise ExperimentError.of(
            [replace(problem, where=_place(problem.where, has_config_list)) for problem in error.problems]
        ) from error


def _place(where: str, has_config_list: bool) -> str:
    if where == "create_compressor":
        return _CALLER
    if where.startswith("config_list") and not has_config_list:
        return f"{_CALLER}  {'op_names' if where.endswith('op_names') else 'sparsity'}"
    return f"{_CALLER}  {where}" if where else _CALLER


def _config_list(model: nn.Module, example: Example, task: _Task, layers: Mapping[str, Any]) -> list[dict[str, Any]]:
    entry = task.entry
    sparsity, named = layers["sparsity"], layers["op_types"] is not None or layers["op_names"] is not None
    if "sparsity" not in entry.keys:
        if sparsity is not None:
            raise ExperimentError(
                f"{entry.name} takes no sparsity", where=f"{_CALLER}  sparsity", fix="leave it out, or config_list="
            )
        return config_list_of(entry, **layers)
    if isinstance(sparsity, tuple) or (isinstance(sparsity, Mapping) and "range" in sparsity):
        raise ExperimentError(
            "rc.compress takes one sparsity, not a range of them",
            where=f"{_CALLER}  sparsity",
            fix="a number, or rc.launch, which searches",
        )
    if sparsity is None:
        sparsity = _SPARSITY
    if isinstance(sparsity, Mapping) or named or not entry.removes_channels:
        return config_list_of(entry, **{**layers, "sparsity": sparsity})
    names = [name for name in _prunable(model, example, task) if name not in (layers["exclude"] or ())]
    return [{"sparsity": sparsity, "op_names": names}]


def _prunable(model: nn.Module, example: Example, task: _Task) -> list[str]:
    """Return the layers that can lose channels, in the model's order."""
    entry, round_to = task.entry, round_to_of(task.entry, task.arguments)
    modules = dict(model.named_modules())
    taken = {
        name
        for name, one in modules.items()
        if entry.takes(type(one).__name__, torch_base(one)) and not made_plain_by(name, one)
    }
    wide = [group for group in channel_groups(ChannelGraph(model, example)) if group.multiple(round_to) < group.size]
    found = {name for group in wide if taken.issuperset(group.layers) for name in group.layers}
    if not found:
        takes = ", ".join(entry.layer_types) or "every type of layer"
        raise CompressionError(
            f"no layer of this {type(model).__name__} can lose channels to {entry.name}, which takes {takes}",
            where=f"{_CALLER}  compressor",
            fix="take another compressor, such as group_l1 or int8_weight_only",
        )
    return [name for name in modules if name in found]


def _for_the_copy(arguments: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    optimizer = arguments.get("optimizer")
    if optimizer is None:
        return dict(arguments)
    if isinstance(optimizer, torch.optim.Optimizer) or not callable(optimizer):
        raise UsageError(
            "the optimizer is of the model that was passed, and a copy of it is compressed",
            where=f"{_CALLER}  optimizer",
            fix="optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.01)",
        )
    return {**arguments, "optimizer": optimizer(model)}


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return True
    except ValueError:  # a builtin without a signature
        return False
    return False


def _metric(evaluator: Evaluator | None, model: nn.Module) -> float | None:
    if evaluator is None:
        return None
    found: Any = evaluator(model)
    try:
        metric = float(found)
    except (TypeError, ValueError, RuntimeError):
        metric = math.nan
    if not math.isfinite(metric):
        raise UsageError(
            f"the evaluator returned {found!r:.80}, which is no number",
            where=f"{_CALLER}  evaluator",
            fix="return the metric, such as the accuracy as a float",
        )
    return metric


@contextmanager
def _in_folder(folder: str | Path | None, name: str) -> Iterator[Path]:
    """Yield the folder of the bundle; one that was made for it is deleted where no bundle comes about."""
    place = Path(folder) if folder is not None else _new_folder(name)
    was_there = folder is not None and place.exists()
    if was_there and not place.is_dir():
        raise UsageError("this is a file", where=str(place), fix="name a folder for the bundle: folder=")
    try:
        yield place.resolve()
    except BaseException:
        if not was_there:
            shutil.rmtree(place, ignore_errors=True)
        raise


def _new_folder(name: str) -> Path:
    stem = Path("raycompress_results", "compressed", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    numbered = (stem if attempt == 1 else stem.with_name(f"{stem.name}-{attempt}") for attempt in range(1, 1000))
    return next(place for place in numbered if not place.exists())


@contextmanager
def _as_trial(
    place: Path, export: Sequence[str], targets: tuple[DeploymentTarget, ...]
) -> Iterator[tuple[context.Trial, list[Mapping[str, Any]]]]:
    """Make this process a trial that saves into `place`; yield it and what it sends."""
    sent: list[Mapping[str, Any]] = []
    trial = context.Trial(
        mode="trial",
        send=sent.append,
        candidate=place,
        exports=tuple(export),
        latency=bool(targets),
        targets=tuple(target.to_json() for target in targets),
    )
    context.enter(trial)
    try:
        yield trial, sent
    finally:
        context.enter(None)
