"""What a compressor must do; subclass `CompressorSuite`."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.catalog import COMPRESSORS, CompressorEntry, find
from raycompress.catalog.plugins import is_of
from raycompress.catalog.rounding import removable
from raycompress.compressors.create import create_compressor
from raycompress.compressors.engine import PruningDecision, PruningSchedule, Request
from raycompress.compressors.interface import Compressor
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from raycompress.compressors.measure.sizes import parameters
from raycompress.compressors.targets.torch import Target, select
from raycompress.errors import ExperimentError
from raycompress.script.config import SLICE_KEY
from raycompress.testing import models
from raycompress.testing.lightness import heavy_imports


class CompressorSuite:
    """Tests of a pruner of torch models.

    Attributes
    ----------
    compressor
        Its name.
    arguments
        What is passed to `create_compressor` beside the model; the defaults where left out.
    networks
        Name -> a function that makes a model of inputs (n, 3, 8, 8) with layers that the compressor takes.
    sparsity
        What each layer is asked to lose.
    """

    compressor: ClassVar[str]
    arguments: ClassVar[Mapping[str, Any]] = {}
    networks: ClassVar[Mapping[str, Callable[[], nn.Module]]] = models.NETWORKS
    sparsity: ClassVar[float] = 0.5

    @pytest.fixture(params=["plain", "residual"])
    def model(self, request: pytest.FixtureRequest) -> nn.Module:
        """One of `networks`, with seeded weights; of other names than these two override this fixture."""
        return models.fresh(self.networks[request.param])

    @property
    def entry(self) -> CompressorEntry:
        """What the catalogue says of it."""
        entry = find(self.compressor)
        assert entry is not None, f'no compressor is called "{self.compressor}": is its distribution installed?'
        return entry

    def config(self, model: nn.Module, sparsity: float | None = None) -> dict[str, Any]:
        """Return the config for all layers of a model that the compressor takes, but for the last one."""
        types = self.entry.layer_types
        names = [
            name
            for name, module in model.named_modules()
            if (type(module).__name__ in types if types else hasattr(module, "weight"))
        ]
        last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
        asked = self.sparsity if sparsity is None else sparsity
        chosen = [name for name in names if name not in last or not self.entry.removes_channels]
        return {"compressor": self.compressor, "config_list": [{"sparsity": asked, "op_names": chosen}]}

    def compressed(self, model: nn.Module) -> Compressor:
        """Return the compressor after ``compress()``, and after some training where it acts then."""
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        given = {"dummy_input": models.images(), "optimizer": optimizer, **self.arguments}
        made: Compressor = create_compressor(model, self.config(model), **given)
        made.compress()
        if self.entry.acts != "in compress()":
            for epoch in range(3):
                made.update_epoch(epoch)
                models.train(model, optimizer, seed=epoch)
        return made

    def decision(self, model: nn.Module) -> tuple[Mapping[str, Target], PruningDecision]:
        """Return what its engine decides for a model; skips the test where that takes training."""
        entry = self.entry
        module, _, name = entry.engine.partition(":")
        targets = select(model, self.config(model)["config_list"], entry)
        defaults = {argument.name: argument.default for argument in entry.arguments}
        example = Example.from_dummy(models.images())
        engine = getattr(importlib.import_module(module), name)()
        if not hasattr(engine, "choose"):
            pytest.skip("it is no engine: it has no choose()")
        given = {key: value for key, value in self.arguments.items() if key in defaults}
        found = engine.choose(Request(entry, model, targets, {**defaults, **given}, example))
        if isinstance(found, PruningSchedule):
            pytest.skip("it decides while the model trains")
        assert isinstance(found, PruningDecision), f"choose() returned a {type(found).__name__}"
        return targets, found

    def test_its_entry_is_read_without_heavy_libraries(self) -> None:
        """A command that only asks for names and arguments must not wait for torch."""
        assert heavy_imports("raycompress.catalog:COMPRESSORS", self.compressor) == []

    def test_its_entry_says_what_people_need(self) -> None:
        """A summary, arguments with a text each, and defaults that a file can hold."""
        entry = self.entry
        assert self.compressor in COMPRESSORS.names()
        assert entry.summary.endswith(".") and "\n" not in entry.summary
        assert len({argument.name for argument in entry.arguments}) == len(entry.arguments)
        for argument in entry.arguments:
            assert argument.summary, argument.name
            assert argument.from_script or json.loads(json.dumps(argument.default)) == argument.default
            assert argument.default is None or is_of(argument.type, argument.default), argument.name

    def test_an_unknown_argument_is_refused(self, model: nn.Module) -> None:
        """A misspelled argument must not be passed over."""
        with pytest.raises(ExperimentError, match="no_such_argument"):
            create_compressor(model, self.config(model), no_such_argument=1)

    def test_deciding_leaves_the_model_as_it_was(self, model: nn.Module) -> None:
        """An engine says what goes; it changes neither weights nor modes nor hooks."""
        before = copy.deepcopy(model.state_dict())
        modes = [module.training for module in model.modules()]
        hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
        self.decision(model)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert modes == [module.training for module in model.modules()]
        assert hooks == [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]

    def test_it_decides_of_its_targets_alone(self, model: nn.Module) -> None:
        """Channels are indices of the layer's, each once, and some stay; masks have the weight's shape."""
        targets, decided = self.decision(model)
        assert set(decided.channels) | set(decided.weights) <= set(targets)
        assert bool(decided.weights) != self.entry.removes_channels or not decided.weights
        for name, gone in decided.channels.items():
            count = len(model.get_parameter(f"{name}.weight"))
            assert len(set(gone)) == len(gone) < count, name
            assert all(isinstance(channel, int) and 0 <= channel < count for channel in gone), name
        for name, mask in decided.weights.items():
            assert mask.dtype == torch.bool and mask.shape == model.get_parameter(f"{name}.weight").shape, name

    def test_each_layer_loses_its_share(self, model: nn.Module) -> None:
        """``per_layer`` promises what `raycompress.catalog.rounding.removable` says: sizes are forecast by it."""
        entry = self.entry
        if not entry.per_layer or not entry.removes_channels or entry.takes_groups:
            pytest.skip("it does not promise a share of each layer")
        targets, decided = self.decision(model)
        if type(decided) is not PruningDecision:
            pytest.skip("it decides once an input is known")
        for name, target in targets.items():
            count = len(model.get_parameter(f"{name}.weight"))
            assert len(decided.channels[name]) == removable(count, target.sparsity), name

    def test_equal_models_are_compressed_alike(self, model: nn.Module) -> None:
        """The same weights and seed give the same decision."""
        other = copy.deepcopy(model)
        torch.manual_seed(0)
        (_, first) = self.decision(model)
        torch.manual_seed(0)
        (_, second) = self.decision(other)
        assert first.channels == second.channels
        assert all(torch.equal(mask, second.weights[name]) for name, mask in first.weights.items())

    def test_what_is_pruned_stays_pruned_while_the_script_trains(self, model: nn.Module) -> None:
        """The masks that its decision became hold under an optimizer's steps."""
        made = self.compressed(model)
        zeros = {name: parameter == 0 for name, parameter in model.named_parameters()}
        assert any(zero.any() for zero in zeros.values())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        models.train(model, optimizer, seed=9)
        model(models.images())
        state = dict(model.named_parameters())
        assert all((state[name][zero] == 0).all() for name, zero in zeros.items())
        assert made.model is model

    def test_the_small_model_is_the_masked_one(self, model: nn.Module) -> None:
        """Slicing is proved: fewer parameters, the same function."""
        if not self.entry.removes_channels:
            pytest.skip("it masks single weights")
        before = parameters(model)
        made = self.compressed(model)
        masked = Example.from_dummy(models.images(seed=5)).outputs(model)
        small = made.apply_speedup()
        assert parameters(small) < before
        assert relative_difference(masked, Example.from_dummy(models.images(seed=5)).outputs(small)) <= TOLERANCE

    def test_sliced_first_the_small_model_trains(self, model: nn.Module) -> None:
        """``"slice": "before"`` cuts in ``compress()``, which needs a decision then; an optimizer of before follows."""
        if not self.entry.removes_channels or self.entry.trains:
            pytest.skip("it masks single weights, or its entry says that it trains to choose")
        before = parameters(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        config = {**self.config(model), SLICE_KEY: "before"}
        create_compressor(model, config, dummy_input=models.images(), **self.arguments).compress()
        small = [parameter.detach().clone() for parameter in model.parameters()]
        models.train(model, optimizer, seed=1)
        assert sum(parameter.numel() for parameter in small) < before
        assert any(not torch.equal(old, new) for old, new in zip(small, model.parameters(), strict=True))

    def test_a_bundle_gives_the_model_back(self, model: nn.Module, tmp_path: Path) -> None:
        """What is saved loads into a fresh instance of the class, and computes the same."""
        kind = type(model)
        made = self.compressed(model)
        if self.entry.removes_channels:
            made.apply_speedup()
        made.export_model(str(tmp_path / "model.pth"), str(tmp_path / "mask.pth"), bundle_path=str(tmp_path / "bundle"))
        loaded = bundle.load(tmp_path / "bundle", kind())
        example = Example.from_dummy(models.images(seed=6))
        assert relative_difference(example.outputs(model), example.outputs(loaded)) <= TOLERANCE
