"""Loads a bundle into a Keras model."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raycompress.bundle import bundle
from raycompress.compressors.keras.inputs import KerasExample
from raycompress.compressors.keras.layers import Array, assign, library, variables_of
from raycompress.errors import BundleError

_REBUILDERS = {"qat": "raycompress.compressors.keras.tfmot"}
"""Method -> the module whose ``rebuild(model, plan)`` makes a fresh model what the method had made of the original."""


def load_into(folder: Path, manifest: bundle.Manifest, model: Any) -> Any:
    """Give `model` the weights of the bundle; see `raycompress.bundle.bundle.load`.

    A model that has no weights yet is built from the bundle's reference input.
    """
    plan = _plan(folder)
    weights = arrays(folder, bundle.WEIGHTS)
    library(model)
    if not model.built or not model.weights:
        reference(folder, manifest)[0].outputs(model)
    method = plan.get("rebuild")
    if method is not None:
        if method not in _REBUILDERS:
            raise bundle.broken(folder, f'{bundle.PLAN} names a method "{method}" that this version does not know')
        model = importlib.import_module(_REBUILDERS[method]).rebuild(model, plan)
    assign(model, _fitted(folder, plan["variables"], weights, model))
    return model


def reference(folder: Path, manifest: bundle.Manifest) -> tuple[KerasExample, list[Array]]:
    """Return the stored input, and the outputs that the saved model gave for it."""
    stored = arrays(folder, bundle.REFERENCE)
    outputs = [stored[f"output.{n}"] for n in range(sum(name.startswith("output.") for name in stored))]
    try:
        return KerasExample.from_json(manifest.inputs, stored), outputs
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bundle.broken(folder, f"its reference input cannot be rebuilt: {error!r}") from error


def arrays(folder: Path, name: str) -> dict[str, Array]:
    """Return the arrays of one of the bundle's safetensors files."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found: dict[str, Array] = load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise bundle.broken(folder, f"{name} cannot be read: {error}") from error
    return found


def _plan(folder: Path) -> dict[str, Any]:
    try:
        plan = json.loads((folder / bundle.PLAN).read_text())
    except ValueError as error:
        raise bundle.broken(folder, f"{bundle.PLAN} is no JSON") from error
    if not isinstance(plan, dict) or not isinstance(plan.get("variables"), list):
        raise bundle.broken(folder, f"{bundle.PLAN} names no variables")
    return plan


def _fitted(folder: Path, order: Sequence[str], weights: Mapping[str, Array], model: Any) -> dict[str, Array]:
    """Return the weights by the names that `model` has for them.

    Keras numbers layers without a name as a process makes them (``dense``, ``dense_1``, ...), so that a second model of
    the same class has other names: then names must agree up to their numbers, and the order decides among such.
    """
    own = {name: tuple(int(size) for size in variable.shape) for name, variable in variables_of(model).items()}
    if set(order) != set(weights):
        raise bundle.broken(folder, f"{bundle.PLAN} and {bundle.WEIGHTS} name other variables")
    names = {name: name for name in order}
    if set(own) != set(order):
        theirs, ours = _families(order), _families(own)
        for family in [*theirs, *ours]:
            if len(theirs.get(family, ())) != len(ours.get(family, ())):
                raise _misfit(folder, model, f'they have another number of "{family}"')
        names = {name: mine for family in theirs for name, mine in zip(theirs[family], ours[family], strict=True)}
    for name, mine in names.items():
        if weights[name].shape != own[mine]:
            raise _misfit(folder, model, f'"{name}" is {weights[name].shape}, and the model has {own[mine]}')
    return {mine: weights[name] for name, mine in names.items()}


def _families(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names that differ in their numbers only, in their order."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(re.sub(r"_\d+(?=[._]|$)", "", name), []).append(name)
    return found


def _misfit(folder: Path, model: Any, why: str) -> BundleError:
    return BundleError(
        f"the bundle does not fit {type(model).__name__}: {why}",
        where=str(folder),
        fix="give a fresh model, made as the one that was compressed",
    )
