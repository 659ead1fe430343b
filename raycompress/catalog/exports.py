"""Every further form of a model that a bundle may hold, by its name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from raycompress.catalog.catalogue import Catalogue
from raycompress.catalog.plugins import Plugin, missing_methods
from raycompress.errors import PluginError


@dataclass(frozen=True)
class ExportEntry:
    """One form of a model.

    Attributes
    ----------
    name
        The name in an experiment's ``export``.
    summary
        What it is, in a line.
    file
        The file's name in the bundle.
    framework
        Whose models it takes: ``torch`` or ``tensorflow``.
    libraries
        The modules that must be installed for it.
    install
        What installs them, as pip takes it.
    make
        Of a plug-in, ``module:Class``, which is filled in; see `raycompress.compressors.saving.exporters.Exporter`.
    distribution
        Name and version of the distribution that a plug-in comes with; empty for our own.
    """

    name: str
    summary: str
    file: str
    framework: str = "torch"
    libraries: tuple[str, ...] = ()
    install: str = ""
    make: str = ""
    distribution: str = ""

    def of_plugin(self, plugin: Plugin, found: type) -> ExportEntry:
        """Return the entry of a plug-in's class, complete.

        Raises
        ------
        PluginError
            The file is no plain name, the models are not torch's, or a method is missing.
        """
        is_name = PurePosixPath(self.file).name == self.file and self.file not in ("", "..")
        what = (
            missing_methods(found, ("write", "run"))
            or ("" if self.framework == "torch" else "only torch models are exported by plug-ins")
            or ("" if is_name else f'"{self.file}" is no name for a file in a bundle')
        )
        if what:
            raise PluginError(
                f"{plugin} cannot be used: {what}",
                where=plugin.where,
                fix="its author mends the class; see docs/plugins.md",
            )
        return replace(self, make=plugin.value, distribution=plugin.distribution)


_BUILT_IN = (
    ExportEntry(
        "onnx",
        "ONNX, checked in onnxruntime.",
        "model.onnx",
        libraries=("onnx", "onnxruntime"),
        install="raycompress[onnx]",
    ),
    ExportEntry("tflite", "An int8 model for TensorFlow Lite.", "model.tflite", "tensorflow"),
)

EXPORTS = Catalogue("raycompress.exports", ExportEntry, _BUILT_IN)
"""All forms, those of plug-ins too."""
