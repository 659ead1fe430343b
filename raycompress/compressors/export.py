"""Saving: into a trial's candidate folder, or wherever a script says when it runs by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.compressors.example import Example
from raycompress.compressors.measure import Sizes
from raycompress.compressors.plan import SlicingPlan
from raycompress.errors import CompressionError, UsageError
from raycompress.results import bundle
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


def export(
    saved: Export,
    trial: Trial | None,
    model_path: str,
    mask_path: str | None,
    folder_name: str,
    bundle_path: str | None,
) -> None:
    """Save `saved`; see `raycompress.compressors.pruner.Pruner.export_model`."""
    state = plain_state(saved.model)
    files: dict[str, Callable[[Path], None]] = {}
    paths = {model_path: state} | ({} if mask_path is None else {mask_path: dict(saved.masks)})
    for path, content in paths.items():
        name = str(PurePosixPath(str(folder_name)) / str(path))
        files[name] = lambda target, content=content: torch.save(content, target)  # type: ignore[misc]
    if trial is None:
        for name, write in files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            write(Path(name))
        if bundle_path is not None:
            bundle.write(Path(bundle_path), _content(saved, state))
        return
    for name in files:
        _check_inside(name)
    bundle.write(trial.candidate, _content(saved, state), files)
    trial.send(
        {
            "type": "candidate",
            "before": saved.before.to_json(),
            "after": saved.after.to_json(),
            "removed": {layer: list(counts) for layer, counts in saved.removed.items()},
            "notes": list(saved.notes),
        }
    )


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


def _content(saved: Export, state: Mapping[str, Tensor]) -> bundle.Content:
    inputs, tensors = saved.example.to_json()
    outputs = {f"output.{index}": tensor for index, tensor in enumerate(saved.example.outputs(saved.model))}
    return bundle.Content(
        weights=state,
        masks=saved.masks,
        plan=saved.plan.to_json(),
        inputs=inputs,
        reference={**tensors, **outputs},
        facts={
            "model": type(saved.model).__name__,
            "compressor": dict(saved.asked),
            "before": saved.before.to_json(),
            "after": saved.after.to_json(),
            "removed": {layer: list(counts) for layer, counts in saved.removed.items()},
            "notes": list(saved.notes),
        },
    )


def _check_inside(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(
            f'"{name}" would leave the folder of the trial',
            where="export_model",
            fix='give a plain relative path, such as model_path="model.pth"',
        )
    if path.parts and path.parts[0] in bundle.RESERVED:
        raise UsageError(
            f'"{name}" is the name of a file of the bundle', where="export_model", fix="choose another file name"
        )
