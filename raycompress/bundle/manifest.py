"""The manifest of a bundle and the names of its files; `raycompress.bundle.bundle` writes and reads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from raycompress.model.measures import target_of

FORMAT = 1
MANIFEST = "manifest.json"
PLAN = "plan.json"
WEIGHTS = "weights.safetensors"
MASKS = "masks.safetensors"
REFERENCE = "reference.safetensors"
QUANTIZATION = "quantization.json"
ONNX = "model.onnx"
INT8_ONNX = "model.int8.onnx"
TFLITE = "model.tflite"
DEPLOYED = "deployed"
"""The folder with the files that the runtimes of targets read, in a folder each."""
FILES = (MANIFEST, PLAN, WEIGHTS, MASKS, REFERENCE)
"""What every bundle has."""
RESERVED = (*FILES, QUANTIZATION, ONNX, INT8_ONNX, TFLITE, DEPLOYED)
"""The names that a script's own files cannot have: the further ones are there for a quantized model, or on request."""

Kind = Literal["torch", "quantized", "keras"]


class File(BaseModel):
    """One file of a bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Size(BaseModel):
    """The sizes of a model and, where its trial measured it, its latency.

    Attributes
    ----------
    params, flops, size_bytes
        Parameters, multiply-adds of one pass for a batch of one, bytes of the weights as saved. The manifests of older
        versions have ``bytes`` instead of the last one.
    latency_ms, latency_low_ms, latency_high_ms
        Median time of one pass for a batch of one, and a 95 % confidence interval of it.
    cpu_ms
        Its CPU time.
    peak_memory_mb
        Memory that the target's runtime plans for one pass, where it tells.

    Of a model that was deployed, bytes and latency are those in its first target, and there are measures in each target
    and in eager torch as well, such as ``latency_ms@openvino``; see `raycompress.model.measures`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, float] = Field(init=False)

    params: int
    flops: int
    size_bytes: int = Field(validation_alias=AliasChoices("size_bytes", "bytes"))
    latency_ms: float | None = None
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None
    cpu_ms: float | None = None
    peak_memory_mb: float | None = None

    @model_validator(mode="after")
    def _measured(self) -> Self:
        unknown = [name for name in self.__pydantic_extra__ if not target_of(name)]
        if unknown:
            raise ValueError(f"{unknown[0]} is no measure")
        return self


class InTarget(BaseModel):
    """What a bundle says of one target that its model was deployed on.

    Attributes
    ----------
    target
        As `raycompress.deployment.target.DeploymentTarget.to_json` has it.
    version
        Name and version of the runtime.
    relative_difference
        Of its outputs to those of the measured model.
    conversion_s
        What converting took; 0 where the conversion was known.
    files
        The files in ``deployed/NAME/``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: dict[str, str | int]
    version: str
    relative_difference: float
    conversion_s: float = Field(ge=0)
    files: tuple[str, ...]

    @field_validator("target")
    @classmethod
    def _has_runtime(cls, value: dict[str, str | int]) -> dict[str, str | int]:
        if not isinstance(value.get("runtime"), str):
            raise ValueError("it names no runtime")  # noqa: TRY004 - pydantic takes this one
        return value


class Manifest(BaseModel):
    """The description of a bundle: what it holds, how it was made, and the hashes of its files.

    Attributes
    ----------
    format
        Version of this format.
    kind
        What sort of model it is.
    notes
        What a person should know of the saved model: a size that did not fall, for instance.
    versions
        Of raycompress and of the libraries that made the bundle.
    model
        Class name of the original model.
    compressor
        ``name``, ``config_list`` and ``arguments``, as the user wrote them.
    before, after
        Of the dense model and of the saved one.
    removed
        Layer -> (removed channels, of).
    aliases
        Name in the state -> the name that holds the same, shared tensor.
    inputs
        Structure of the reference input.
    files
        Name -> hash and size; the manifest itself left out.
    targets
        What it was deployed on: the target's name -> what was found there.
    trial
        What is known of the trial that made it: metrics, number, experiment, seconds. Empty until `seal`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    kind: Kind = "torch"
    notes: tuple[str, ...] = ()
    versions: dict[str, str]
    model: str
    compressor: dict[str, Any]
    before: Size
    after: Size
    removed: dict[str, tuple[int, int]]
    aliases: dict[str, str]
    inputs: dict[str, Any]
    files: dict[str, File]
    targets: dict[str, InTarget] = {}
    trial: dict[str, Any] = {}

    @field_validator("format")
    @classmethod
    def _known(cls, value: int) -> int:
        if value != FORMAT:
            raise ValueError(f"format {value} is not {FORMAT}, the one that this version reads")
        return value

    @field_validator("files")
    @classmethod
    def _inside(cls, value: dict[str, File]) -> dict[str, File]:
        for name in value:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
                raise ValueError(f"the file name {name!r} leaves the folder")
        missing = [name for name in (PLAN, WEIGHTS, MASKS, REFERENCE) if name not in value]
        if missing:
            raise ValueError(f"it lists no {', '.join(missing)}")
        return value


def listed(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return the manifest's entries for files in `folder`: name -> SHA-256 and bytes."""
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(paths)
    }


def deployed_files(folder: Path, manifest: Manifest, name: str) -> dict[str, bytes]:
    """Return the files for the target `name` that the manifest lists; empty where it lists none."""
    start = f"{DEPLOYED}/{name}/"
    return {file.removeprefix(start): (folder / file).read_bytes() for file in manifest.files if file.startswith(start)}


def others(folder: Path, known: Container[str] = ()) -> Iterator[Path]:
    """Yield the files in `folder` and below whose names are not `known`.

    Links that lead out of it are left out, and names that a manifest cannot hold.
    """
    root = folder.resolve()
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            name = path.relative_to(folder).as_posix()
            plain = name.isprintable() and "\\" not in name
            if plain and name not in known and path.is_file() and path.resolve().is_relative_to(root):
                yield path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
