"""Further forms of a model that plug-ins write: each file is proved to compute what the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.catalog.exports import EXPORTS, ExportEntry
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError, RaycompressError


class Exporter(Protocol):
    """Writes a model in another form, and runs what it has written.

    Attributes
    ----------
    entry
        Its entry in the catalogue.
    """

    entry: ExportEntry

    def write(self, model: nn.Module, example: Example, path: Path) -> None:
        """Write `model`, on the CPU and in eval mode, to `path`; the model is a copy, and free to be changed."""

    def run(self, path: Path, example: Example) -> Sequence[Tensor]:
        """Return what the file at `path` computes of `example`, by the runtime that it is for: CPU tensors.

        They are those of ``example.outputs(model)``, in that order.
        """
        ...


def export_by_plugin(name: str, model: nn.Module, example: Example) -> dict[str, bytes]:
    """Return ``{file name: content}`` of a model in the form `name`, which a plug-in makes.

    Raises
    ------
    CompressionError
        The plug-in cannot write the model, or its file computes something else.
    PluginError
        The plug-in cannot be used.
    """
    import tempfile

    (entry,) = EXPORTS.find(name)
    exporter = EXPORTS.load(name)()
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        path = Path(folder, entry.file)
        difference = prove(exporter, model, example, path)
        if not difference <= TOLERANCE:
            raise CompressionError(
                f'the export "{name}" computes something else: its outputs differ by {difference:.2g} of their norm',
                where=f"{entry.make}, of {entry.distribution}",
                fix=f'leave "{name}" out of "export", or tell its author',
            )
        return {entry.file: path.read_bytes()}


def prove(exporter: Any, model: nn.Module, example: Example, path: Path) -> float:
    """Write `model` to `path` and return the largest relative difference of its outputs, on three inputs.

    Those are the example and two random ones of its shapes. A number that is none counts as infinite.

    Raises
    ------
    CompressionError
        The exporter fails, or writes nothing.
    """
    plain = clean_copy(model).cpu().eval()
    example = example.to(torch.device("cpu"))
    entry: ExportEntry = exporter.entry
    worst = 0.0
    try:
        exporter.write(clean_copy(plain).eval(), example, path)
        if not path.is_file():
            raise FileNotFoundError(f"it wrote no {path.name}")
        for one in (example, example.random(1), example.random(2)):
            difference = relative_difference(one.outputs(plain), list(exporter.run(path, one)))
            worst = max(worst, difference) if difference == difference else float("inf")
    except RaycompressError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CompressionError(
            f'{type(model).__name__} cannot be exported as "{entry.name}": {text}',
            where=f"{entry.make}, of {entry.distribution}" if entry.distribution else type(exporter).__name__,
            fix=f'leave "{entry.name}" out of "export", or tell its author',
        ) from error
    return worst
