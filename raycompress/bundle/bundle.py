"""The bundle: a folder with one compressed model, loadable into a fresh instance of its class without any pickle.

::

    manifest.json           written last: what was asked, measured and used; SHA-256 and size of every file
    plan.json               the slicing plan
    weights.safetensors     the model's state
    masks.safetensors       1 where a weight of the original stays
    reference.safetensors   one input and the outputs that the saved model gave

Files that the user's script named are beside them. A folder without a manifest is no bundle.
What the files hold depends on the bundle's kind: a torch model, masked or sliced; a quantized one; a Keras model.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from raycompress.bundle.manifest import FILES as FILES
from raycompress.bundle.manifest import FORMAT as FORMAT
from raycompress.bundle.manifest import INT8_ONNX as INT8_ONNX
from raycompress.bundle.manifest import MANIFEST as MANIFEST
from raycompress.bundle.manifest import MASKS as MASKS
from raycompress.bundle.manifest import ONNX as ONNX
from raycompress.bundle.manifest import PLAN as PLAN
from raycompress.bundle.manifest import QUANTIZATION as QUANTIZATION
from raycompress.bundle.manifest import REFERENCE as REFERENCE
from raycompress.bundle.manifest import RESERVED as RESERVED
from raycompress.bundle.manifest import TFLITE as TFLITE
from raycompress.bundle.manifest import WEIGHTS as WEIGHTS
from raycompress.bundle.manifest import Kind as Kind
from raycompress.bundle.manifest import Manifest as Manifest
from raycompress.bundle.manifest import listed, others, sha256
from raycompress.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

    from raycompress.bundle.example import Example

TOLERANCE = 1e-4
"""Relative difference of outputs, in float32, up to which two models are the same function."""
_LOADERS: Mapping[Kind, str] = {
    "torch": "raycompress.compressors.pruning.loading",
    "quantized": "raycompress.compressors.quantization.loading",
    "keras": "raycompress.compressors.keras.loading",
}
"""Kind -> the module whose ``load_into(folder, manifest, model)`` turns a fresh model into the saved one."""

_ASIDE = ".writing"
_MISREAD = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Content:
    """What `write` puts into a bundle.

    Attributes
    ----------
    weights
        The state_dict, CPU tensors; tensors that are shared are stored once. Of a Keras model numpy arrays, as are its
        masks and reference.
    masks
        ``module.parameter`` -> uint8.
    plan, inputs
        Plain JSON: `SlicingPlan.to_json`, `Example.to_json`.
    reference
        ``input.N`` and ``output.N`` tensors.
    facts
        ``model``, ``compressor``, ``before``, ``after``, ``removed``, ``notes`` of the manifest.
    kind
        The manifest's.
    """

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    plan: Mapping[str, Any]
    inputs: Mapping[str, Any]
    reference: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    kind: Kind = "torch"


def write(folder: Path, content: Content, extra: Mapping[str, Callable[[Path], None]] | None = None) -> None:
    """Write a bundle into `folder`, in the place of one that is there.

    Everything is written aside first. The old manifest goes before the files are moved in, and the new one comes last:
    at any moment the folder holds a whole bundle or none.

    Parameters
    ----------
    extra
        Further files: relative name -> a function that writes it to the path it is given.
    """
    aside = folder / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    aliases = _save(content, aside)
    (aside / PLAN).write_text(json.dumps(content.plan))
    for name, write_file in (extra or {}).items():
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(aside / name)
    files = listed(aside, others(aside))
    manifest = {
        "format": FORMAT,
        "kind": content.kind,
        "versions": _versions(),
        **content.facts,
        "aliases": aliases,
        "inputs": content.inputs,
        "files": files,
        "trial": {},
    }
    _write_json(aside / MANIFEST, manifest)
    _move_in(aside, folder, [*files, MANIFEST])


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Add what is known of the trial (metrics, number, experiment, seconds) to the manifest, atomically.

    The script's own files are listed as they are now: it may have written some by itself, or changed them.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["trial"] = {**manifest.get("trial", {}), **facts}
        files = {name: file for name, file in manifest["files"].items() if name in RESERVED}
        manifest["files"] = {**files, **listed(folder, others(folder, RESERVED))}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise broken(folder, f"its manifest cannot be read: {error}") from error
    aside = folder / f"{MANIFEST}.new"
    _write_json(aside, manifest)
    aside.replace(folder / MANIFEST)


def read(folder: Path) -> Manifest:
    """Return the manifest.

    Raises
    ------
    BundleError
        There is none, or it is not one that this version reads.
    """
    path = Path(folder) / MANIFEST
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise broken(folder, f"{MANIFEST} is no file")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder} is no bundle: it has no {MANIFEST}", fix="give the folder that `raycompress best` names"
        ) from error
    except OSError as error:
        raise broken(folder, f"{MANIFEST} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or MANIFEST
        raise broken(folder, f"{place}: {first['msg']}") from error


def check_hashes(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises
    ------
    BundleError
        A file is missing, is a link that leads outside, or is not what was written.
    """
    folder = Path(folder)
    root = folder.resolve()
    for name, file in read(folder).files.items():
        path = folder / name
        if not _real(path).is_relative_to(root):
            raise broken(folder, f"{name} leads out of the folder")
        try:
            if not path.is_file():
                raise broken(folder, f"{name} is missing")
            if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
                raise broken(folder, f"{name} is not the file that was saved: its SHA-256 differs")
        except OSError as error:
            raise broken(folder, f"{name} cannot be read: {error.strerror}") from error


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `resolve` raises where links go round


def load(folder: str | os.PathLike[str], model: Any) -> Any:
    """Turn `model`, a fresh instance of the class that was compressed, into the compressed model.

    Parameters
    ----------
    folder
        The bundle.
    model
        Made with the arguments of the original; it is changed in place and returned, on the device where it is.

    Raises
    ------
    BundleError
        The bundle is broken, or does not fit the model.
    """
    path = Path(folder)
    check_hashes(path)
    manifest = read(path)
    loader = importlib.import_module(_LOADERS[manifest.kind])
    try:
        return loader.load_into(path, manifest, model)
    except _MISREAD as error:  # what the hashes vouch for may still come from a stranger
        raise broken(path, f"its content cannot be used: {error!r}") from error


def reference(folder: Path) -> tuple[Example, list[Tensor]]:
    """Return the stored input, and the outputs that the saved torch model gave for it in eval mode."""
    from raycompress.bundle.example import Example

    manifest, stored = read(folder), tensors(folder, REFERENCE)
    outputs = [stored[name] for name in sorted(stored, key=_number) if name.startswith("output.")]
    try:
        return Example.from_json(manifest.inputs, stored), outputs
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise broken(folder, f"its reference input cannot be rebuilt: {error!r}") from error


def tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the torch tensors of one of the bundle's safetensors files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise broken(folder, f"{name} cannot be read: {error}") from error
    return found


def _number(name: str) -> int:
    tail = name.rpartition(".")[2]
    return int(tail) if tail.isdigit() else -1


def _save(content: Content, folder: Path) -> dict[str, str]:
    """Write the three files of tensors; returns the names that share another's tensor."""
    parts = {WEIGHTS: content.weights, MASKS: content.masks, REFERENCE: content.reference}
    if content.kind == "keras":
        from safetensors.numpy import save_file as save_arrays

        for name, arrays in parts.items():
            save_arrays(dict(cast("Mapping[str, Any]", arrays)), folder / name)
        return {}
    from safetensors.torch import save_file

    from raycompress.bundle.example import distinct, shared

    for name, stored in {**parts, WEIGHTS: distinct(content.weights)}.items():
        save_file(_plain(stored), folder / name)
    return shared(content.weights)


def _plain(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses views that share storage
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in stored.items()}


def _versions() -> dict[str, str]:
    found = {}
    for package in ("raycompress", "torch", "nni", "torch-pruning", "onnxruntime", "tensorflow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # of an extra that is not installed
    return found


def _write_json(path: Path, data: Any) -> None:
    with path.open("w") as file:
        json.dump(data, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _move_in(aside: Path, folder: Path, names: list[str]) -> None:
    old: list[str] = []
    if (folder / MANIFEST).exists():
        try:
            old = list(read(folder).files)
        except BundleError:
            old = []  # what it listed is unknown; files of the same names are replaced below
        (folder / MANIFEST).unlink()
    root = folder.resolve()
    for name in set(old) - set(names):
        if _real((folder / name).parent).is_relative_to(root):  # a folder in it may be a link
            (folder / name).unlink(missing_ok=True)
    for name in names:
        if not _real((folder / name).parent).is_relative_to(root):
            raise broken(folder, f"{name} leads out of the folder")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (aside / name).replace(folder / name)
    shutil.rmtree(aside)


def broken(folder: Path, why: str) -> BundleError:
    """Return the error of a bundle that is not what was saved."""
    return BundleError(
        f"the bundle is broken: {why}", where=str(folder), fix="fetch or make the bundle again; do not edit its files"
    )
