"""What an export must do; subclass `ExporterSuite`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.bundle.manifest import RESERVED
from raycompress.catalog.exports import EXPORTS, ExportEntry
from raycompress.compressors.create import create_compressor
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.saving.exporters import export_by_plugin, prove
from raycompress.testing import models
from raycompress.testing.lightness import heavy_imports


class ExporterSuite:
    """Tests of an export of torch models.

    Attributes
    ----------
    export
        Its name.
    networks
        Name -> a function that makes a model of inputs (n, 3, 8, 8).
    """

    export: ClassVar[str]
    networks: ClassVar[Mapping[str, Callable[[], nn.Module]]] = models.NETWORKS

    @pytest.fixture(params=["plain", "residual"])
    def model(self, request: pytest.FixtureRequest) -> nn.Module:
        """One of `networks`, with seeded weights; of other names than these two override this fixture."""
        return models.fresh(self.networks[request.param])

    @property
    def entry(self) -> ExportEntry:
        """What the catalogue says of it."""
        found = EXPORTS.find(self.export)
        assert found, f'no export is called "{self.export}": is its distribution installed?'
        return found[0]

    def exporter(self) -> Any:
        """Return a new one."""
        return EXPORTS.load(self.export)()

    def test_its_entry_is_read_without_heavy_libraries(self) -> None:
        """A command that only asks for names must not wait for torch."""
        assert heavy_imports("raycompress.catalog.exports:EXPORTS", self.export) == []

    def test_its_file_is_one_of_its_own(self) -> None:
        """A plain name, which no other file of a bundle has."""
        entry = self.entry
        assert entry.summary.endswith(".")
        assert PurePosixPath(entry.file).name == entry.file and entry.file not in RESERVED

    def test_the_file_computes_what_the_model_computes(self, model: nn.Module, tmp_path: Path) -> None:
        """On the example and on other inputs of its shapes."""
        path = tmp_path / self.entry.file
        assert prove(self.exporter(), model, Example.from_dummy(models.images()), path) <= TOLERANCE
        assert path.stat().st_size > 0

    def test_another_model_gives_another_file(self, model: nn.Module, tmp_path: Path) -> None:
        """Running a file runs that file, and not the model that was written last."""
        example = Example.from_dummy(models.images())
        other = models.fresh(type(model), seed=1)
        exporter = self.exporter()
        for name, one in (("first", model), ("second", other)):
            exporter.write(copy.deepcopy(one), example, tmp_path / name)
        outputs = list(self.exporter().run(tmp_path / "first", example))
        assert relative_difference(example.outputs(model), outputs) <= TOLERANCE

    def test_writing_leaves_the_model_as_it_was(self, model: nn.Module, tmp_path: Path) -> None:
        """The trial goes on with it."""
        before = copy.deepcopy(model.state_dict())
        prove(self.exporter(), model, Example.from_dummy(models.images()), tmp_path / self.entry.file)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    def test_a_small_model_is_written(self) -> None:
        """What a bundle gets is the model that channels were taken from."""
        model = models.fresh(models.PlainNet)
        config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}
        made = create_compressor(model, config, dummy_input=models.images(), round_to=1)
        made.compress()
        made.apply_speedup()
        files = export_by_plugin(self.export, model, Example.from_dummy(models.images()))
        assert list(files) == [self.entry.file] and files[self.entry.file]
