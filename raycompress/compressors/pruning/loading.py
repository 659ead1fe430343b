"""Loads a bundle into a torch model."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from raycompress.bundle import bundle
from raycompress.compressors.structure.plan import SlicingPlan, apply_plan
from raycompress.compressors.wrappers import inside
from raycompress.errors import BundleError
from raycompress.model.groups import is_inside


def load_into(folder: Path, manifest: bundle.Manifest, model: nn.Module) -> nn.Module:
    """Give `model` the shapes and the weights of the bundle; see `raycompress.bundle.bundle.load`."""
    wrapped, model = model, inside(model, str(folder))
    plan = plan_in(folder)
    state = bundle.tensors(folder, bundle.WEIGHTS)
    for name, source in manifest.aliases.items():
        if source not in state:
            raise bundle.broken(folder, f'"{name}" is listed to share "{source}", which is not there')
        state[name] = state[source]
    _check_names(folder, state, model, plan.dropped)
    apply_plan(model, plan)
    try:
        model.load_state_dict(_of_these_classes(state, model), strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()
        raise BundleError(
            f"the weights do not fit the model: {(reason[1] if len(reason) > 1 else reason[0]).strip()}",
            where=str(folder),
            fix="give a fresh instance of the class that was compressed, made with the same arguments",
        ) from error
    return wrapped


def plan_in(folder: Path) -> SlicingPlan:
    """Return the slicing plan of a bundle; BundleError where it is none."""
    try:
        return SlicingPlan.from_json(json.loads((folder / bundle.PLAN).read_text()))
    except ValueError as error:
        raise bundle.broken(folder, f"{bundle.PLAN} is no JSON") from error


def _of_these_classes(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a state with the versions that the model's classes have, which some of them look for when they load."""
    versioned = OrderedDict(state)
    versioned._metadata = getattr(model.state_dict(), "_metadata", OrderedDict())  # type: ignore[attr-defined]
    return versioned


def _check_names(folder: Path, state: Mapping[str, Tensor], model: nn.Module, dropped: Collection[str]) -> None:
    """Raise BundleError where bundle and model, without its blocks that are `dropped`, differ in names of tensors."""
    own = {name for name in model.state_dict() if not is_inside(name, dropped)}
    if own != set(state):
        missing, foreign = sorted(own - set(state)), sorted(set(state) - own)
        what = f'it has no "{missing[0]}"' if missing else f'the model has no "{foreign[0]}"'
        raise BundleError(
            f"the bundle does not fit {type(model).__name__}: {what}",
            where=str(folder),
            fix="give a fresh instance of the class that was compressed, made with the same arguments",
        )
