"""Saving: into a trial's candidate folder, or to the paths given by a script that runs by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle import bundle
from raycompress.bundle.example import Example, device_of
from raycompress.compressors.deploying.in_trial import InTargets, deploy_in
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.measure.sizes import Sizes
from raycompress.compressors.saving.files import Paths, Writer, inside
from raycompress.compressors.saving.files import write as write_files
from raycompress.compressors.structure.graph import clean_copy
from raycompress.compressors.structure.plan import SlicingPlan
from raycompress.config.objective import Bound
from raycompress.errors import CompressionError
from raycompress.model.measures import beside_eager
from raycompress.script.context import Trial


@dataclass(frozen=True)
class Export:
    """Everything that is saved of one compressed model.

    Attributes
    ----------
    model
        The model, masked or small, masks applied.
    masks
        ``module.parameter`` -> uint8 tensor of the original's shape, 1 where a weight stays.
    plan
        Empty for a model that was not sliced.
    example
        An input; it and the outputs are the bundle's reference.
    before, after
        Sizes of the dense model and of this one.
    removed
        Layer -> (removed channels, of).
    asked
        What the user wrote.
    notes
        What a person should know of the saved model.
    kind
        The bundle's.
    state
        What ``model_path`` gets; by default the model's state_dict.
    weights
        What the bundle stores as its weights; by default the same.
    files
        Further files of the bundle: name -> a function that writes it to the path it is given.
    named
        Further files that the script named, relative to its folder: path -> such a function.
    onnx
        The model as ONNX, where it is that already; by default it is written of `traceable`.
    traceable
        The same function as `model`, for ONNX; by default that model.
    dense
        The model before it was compressed, where a trial measures latencies.
    calibration
        Inputs to find the ranges of int8 with, where a target of the trial computes in it.
    int8
        The int8 ONNX file, where a quantizer has made one.
    timed
        What is measured beside it; by default a copy of `model` without hooks, as the bundle gives it.
    """

    model: nn.Module
    masks: Mapping[str, Tensor]
    plan: SlicingPlan
    example: Example
    before: Sizes
    after: Sizes
    removed: Mapping[str, tuple[int, int]]
    asked: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    kind: bundle.Kind = "torch"
    state: Mapping[str, Tensor] | None = None
    weights: Mapping[str, Tensor] | None = None
    files: Mapping[str, Writer] = field(default_factory=dict)
    named: Mapping[str, Writer] = field(default_factory=dict)
    onnx: bytes | None = None
    traceable: nn.Module | None = None
    dense: nn.Module | None = None
    calibration: Sequence[Example] = ()
    int8: bytes | None = None
    timed: nn.Module | None = None

    def following(self, earlier: Export | None) -> Export:
        """Return what is saved of the last of several stages: `earlier` is what those before it left, if any."""
        if earlier is None:
            return self
        return replace(
            self,
            masks={**earlier.masks, **self.masks, **_within(earlier.masks, self.masks)},
            before=earlier.before,
            removed={**earlier.removed, **self.removed},
            asked={**self.asked, "after": [*earlier.asked.get("after", ()), _alone(earlier.asked)]},
            notes=(*earlier.notes, *self.notes),
            dense=None if self.dense is None else earlier.dense,
        )


def _alone(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user wrote of one stage, without those before it."""
    return {key: value for key, value in asked.items() if key != "after"}


def _within(earlier: Mapping[str, Tensor], later: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks of tensors that two stages have thinned, in the original's shape: `later` is of what was left.

    What slicing leaves of a tensor keeps its order.
    """
    found = {}
    for name in earlier.keys() & later.keys():
        mask = earlier[name].clone()
        stays = mask.bool()
        if int(stays.sum()) == later[name].numel():
            mask[stays] = later[name].flatten().to(mask.dtype)
        found[name] = mask
    return found


def export(saved: Export, trial: Trial | None, paths: Paths) -> None:
    """Save `saved`; see `raycompress.compressors.base.BaseCompressor.export_model`.

    With ``"export": ["onnx"]`` in the experiment, the bundle of a trial holds the model as ONNX too.
    """
    state = plain_state(saved.model) if saved.state is None else saved.state
    tensors = {paths.model: state} | ({} if paths.mask is None else {paths.mask: dict(saved.masks)})
    files = {paths.in_folder(path): _tensor_writer(content) for path, content in tensors.items()}
    files.update({paths.in_folder(path): write for path, write in saved.named.items()})
    onnx_names = set() if paths.onnx is None else {paths.in_folder(paths.onnx)}
    if trial is not None:
        files = {inside(name, trial.candidate): write for name, write in files.items()}
        onnx_names |= {bundle.ONNX} if "onnx" in trial.exports else set()
        onnx_names = {inside(name, trial.candidate, allowed=bundle.ONNX) for name in onnx_names}
    if onnx_names:
        saved, data = _with_onnx(saved)
        files.update(dict.fromkeys(onnx_names, _byte_writer(data)))
    files.update(_by_plugins(saved, trial))
    deployed = _deployed(saved, trial)
    files.update({name: _byte_writer(data) for name, data in deployed.files.items()})
    facts = _facts(saved, deployed)
    write_files(files, lambda: _content(saved, state, facts), saved.files, trial, paths)


def _tensor_writer(content: Any) -> Writer:
    return lambda path: torch.save(content, path)


def _byte_writer(data: bytes) -> Writer:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def _facts(saved: Export, deployed: InTargets) -> dict[str, Any]:
    """Return the facts of the saved model that both the bundle and the trial's message contain."""
    before: dict[str, float] = {**saved.before.to_json()}
    after: dict[str, float] = {**saved.after.to_json()}
    for found, latency in zip((before, after), _latencies(saved), strict=True):
        found.update(latency)
    if deployed.about or deployed.is_left_out:
        before, after = beside_eager(before, deployed.before), beside_eager(after, deployed.after)
    return {
        "before": before,
        "after": after,
        "removed": {layer: list(counts) for layer, counts in saved.removed.items()},
        "notes": [*saved.notes, *deployed.notes],
        "targets": deployed.about,
    }


def _deployed(saved: Export, trial: Trial | None) -> InTargets:
    """Return the model in the targets of its trial; nothing of one that breaks a constraint on what was reported."""
    if trial is None or not trial.targets or saved.dense is None:
        return InTargets()
    if broken := [bound for bound in trial.reported_bounds if _is_broken(Bound(*bound), trial)]:
        return InTargets(notes=[f"not deployed, as it breaks a constraint: {Bound(*broken[0])}"], is_left_out=True)
    small = saved.traceable or saved.model
    return deploy_in(trial, saved.dense, small, saved.example, calibration=saved.calibration, onnx=saved.int8)


def _is_broken(bound: Bound, trial: Trial) -> bool:
    value = trial.reported.get(bound.metric)
    return value is not None and bound.excess(value, 0.0) > 0


def _latencies(saved: Export) -> tuple[dict[str, float], dict[str, float]]:
    """Return how fast both models are for a batch of one; nothing where that is not asked for."""
    if saved.dense is None:
        return {}, {}
    device = device_of(saved.model) or torch.device("cpu")
    dense, timed = (model.to(device) for model in (saved.dense, saved.timed or clean_copy(saved.model)))
    example = measure.first_of_batch(saved.example.to(device))
    before, after = measure.latencies([dense, timed], example)
    return before.to_json(), after.to_json()


def _with_onnx(saved: Export) -> tuple[Export, bytes]:
    """Return the model as ONNX, proved in onnxruntime, and `saved` with what a person should know of that file."""
    if saved.onnx is not None:
        return saved, saved.onnx
    from raycompress.compressors.saving.onnx_export import export_onnx

    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        path = Path(folder, bundle.ONNX)
        parity = export_onnx(saved.traceable or saved.model, saved.example, path)
        data = path.read_bytes()
    if parity.any_batch:
        return saved, data
    size = saved.example.shapes[0][0]
    return replace(
        saved, notes=(*saved.notes, f"the ONNX file accepts batches of {size} only, as forward() does")
    ), data


def _by_plugins(saved: Export, trial: Trial | None) -> dict[str, Writer]:
    """Return the files that plug-ins make of the model, as the trial's experiment asks."""
    from raycompress.catalog.exports import EXPORTS
    from raycompress.compressors.saving.exporters import export_by_plugin

    names = [name for name in (() if trial is None else trial.exports) if EXPORTS.plugin(name) is not None]
    made = [export_by_plugin(name, saved.traceable or saved.model, saved.example) for name in names]
    return {file: _byte_writer(data) for one in made for file, data in one.items()}


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict as detached CPU tensors; names that share a tensor still share it."""
    copies: dict[tuple[Any, ...], Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise CompressionError(
                f'the state_dict holds a {type(tensor).__name__} under "{name}", which a bundle cannot hold',
                fix="keep tensors only in the model's state (get_extra_state returns something else)",
            )
        key = (
            tensor.data_ptr(),
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
            name if not tensor.numel() else "",
        )
        if key not in copies:
            copies[key] = tensor.detach().to("cpu", copy=True).contiguous()
        state[name] = copies[key]
    return state


def _content(saved: Export, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bundle.Content:
    inputs, tensors = saved.example.to_json()
    outputs = {f"output.{index}": tensor for index, tensor in enumerate(saved.example.outputs(saved.model))}
    return bundle.Content(
        weights=state if saved.weights is None else saved.weights,
        masks=saved.masks,
        plan=saved.plan.to_json(),
        inputs=inputs,
        reference={**tensors, **outputs},
        facts={"model": type(saved.model).__name__, "compressor": dict(saved.asked), **facts},
        kind=saved.kind,
    )
