"""Loads a bundle into a quantized torch model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from raycompress.bundle import bundle
from raycompress.compressors.pruning.loading import load_into as load_plain
from raycompress.compressors.pruning.loading import plan_in
from raycompress.compressors.quantization import fake_quant, session, weight_only
from raycompress.compressors.structure.graph import clean_copy
from raycompress.compressors.structure.plan import apply_plan
from raycompress.compressors.wrappers import inside
from raycompress.errors import BundleError
from raycompress.shapes import fits


def load_into(folder: Path, manifest: bundle.Manifest, model: nn.Module) -> nn.Module:
    """Make `model` the saved quantized model; see `raycompress.bundle.bundle.load`.

    A fake-quantized model gets weights on their grid, and hooks for its activations; an int8 one runs the ONNX file of
    the bundle in onnxruntime, and cannot be trained; of a weight-only one the linear layers get int8 weights.
    """
    _load_into(folder, manifest, inside(model, str(folder)))
    return model


def _load_into(folder: Path, manifest: bundle.Manifest, model: nn.Module) -> nn.Module:
    _need_listed(folder, manifest, bundle.QUANTIZATION)
    recipe = _recipe(folder)
    form = recipe.get("form")
    if form == "fake_quant":
        activations = fake_quant.from_json(recipe.get("activations"), str(folder / bundle.QUANTIZATION))
        unknown = sorted(set(activations) - {name for name, _ in model.named_modules()})
        if unknown:
            raise _misfit(folder, model, f'the model has no layer "{unknown[0]}"')
        load_plain(folder, manifest, model)
        fake_quant.install(model, activations)
        return model
    if type(model).__name__ != manifest.model:
        raise _misfit(folder, model, f"it is of {manifest.model}")
    apply_plan(model, plan_in(folder))  # of one that was pruned before
    if form == "int8":
        _need_listed(folder, manifest, bundle.INT8_ONNX)
        example, _ = bundle.reference(folder)
        neutral = recipe.get("neutral", {})
        if not fits(neutral, {str: int}):
            raise bundle.broken(folder, f"{bundle.QUANTIZATION}: neutral maps parameters to whole numbers")
        return session.from_file(model, example, folder / bundle.INT8_ONNX, neutral)
    if form == "weight_only":
        try:
            stored = bundle.tensors(folder, bundle.WEIGHTS)
            stored.update({name: stored[first] for name, first in manifest.aliases.items()})
            weight_only.restore(model, _bits(folder, recipe), stored)
        except (KeyError, AttributeError, TypeError) as error:
            raise _misfit(folder, model, f"it has no {error}") from error
        return model.eval()
    raise bundle.broken(folder, f"{bundle.QUANTIZATION} names no form that this version reads: {form!r}")


def fastest(folder: Path, dense: nn.Module, loaded: nn.Module) -> nn.Module:
    """Return the model whose latency is measured: the one of the int8 file, where there is one."""
    path = folder / bundle.INT8_ONNX
    if session.installed(loaded) is not None or bundle.INT8_ONNX not in bundle.read(folder).files:
        return loaded
    example, _ = bundle.reference(folder)
    return session.from_file(clean_copy(dense), example, path)


def _need_listed(folder: Path, manifest: bundle.Manifest, name: str) -> None:
    """Raise BundleError for a file that the manifest does not list: its hash was not compared."""
    if name not in manifest.files:
        raise bundle.broken(folder, f"the manifest lists no {name}")


def _recipe(folder: Path) -> dict[str, Any]:
    try:
        recipe = json.loads((folder / bundle.QUANTIZATION).read_text())
    except (OSError, ValueError) as error:
        raise bundle.broken(folder, f"{bundle.QUANTIZATION} cannot be read: {error}") from error
    if not isinstance(recipe, dict):
        raise bundle.broken(folder, f"{bundle.QUANTIZATION} is no object")
    return recipe


def _bits(folder: Path, recipe: Mapping[str, Any]) -> dict[str, int]:
    """Return the layers whose weights are integers, and their bits, which bundles of earlier versions have 8 of."""
    bits = recipe.get("bits", {})
    if not fits(bits, {str: int}):
        raise bundle.broken(folder, f"{bundle.QUANTIZATION}: bits maps layers to whole numbers")
    return {name: bits.get(name, 8) for name in recipe["layers"]}


def _misfit(folder: Path, model: nn.Module, what: str) -> BundleError:
    return BundleError(
        f"the bundle does not fit {type(model).__name__}: {what}",
        where=str(folder),
        fix="give a fresh instance of the class that was compressed, made with the same arguments",
    )
