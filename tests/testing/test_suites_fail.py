"""The suites find what is wrong: each plug-in here breaks one promise, and one test says so."""

import pytest

from raycompress.errors import CompressionError, PluginError
from raycompress.testing import models
from raycompress.testing.compressors import CompressorSuite
from raycompress.testing.exports import ExporterSuite
from raycompress.testing.proposers import ProposerSuite
from tests.support.plugin import broken_project, install, write_wheel

COMPRESSORS = """
import torch
from raycompress.catalog.entry import CompressorEntry
from raycompress.catalog.exports import ExportEntry
from raycompress.catalog.proposers import ProposerEntry

def entry(name, **more):
    return CompressorEntry(name, summary="Removes channels.", layer_types=("Conv2d",), **more)

class Base:
    def channels(self, request, name, count):
        return tuple(range(count))
    def choose(self, request):
        from raycompress.compressors.engine import PruningDecision
        found = {}
        for name, target in request.targets.items():
            weight = request.model.get_submodule(name).weight
            found[name] = self.channels(request, name, int(len(weight) * target.sparsity))
        return PruningDecision(channels=found)

class Right(Base):
    entry = entry("right")

class Changes(Base):
    entry = entry("changes")
    def channels(self, request, name, count):
        request.model.get_submodule(name).weight.data[:count] = 0
        return tuple(range(count))

class Outside(Base):
    entry = entry("outside")
    def channels(self, request, name, count):
        return tuple(range(100, 100 + count))

class Fewer(Base):
    entry = entry("fewer")
    def channels(self, request, name, count):
        return tuple(range(count - 1))

class Chance(Base):
    entry = entry("chance")
    def channels(self, request, name, count):
        import os
        return (int.from_bytes(os.urandom(4)) % 12,)

class Proposer:
    repeats, note = True, ""
    def __init__(self, space, *, objective, seed, history):
        import random
        self.random = random.Random(self.seed(seed))
        self.dimensions = space.dimensions
    def seed(self, seed):
        return seed
    def value(self, dimension):
        if dimension.choices is not None:
            return dimension.choices[self.random.randrange(3)]
        value = self.random.uniform(dimension.low, dimension.high)
        return round(value) if dimension.kind == "int" else value
    def propose(self, number):
        return {one.name: self.value(one) for one in self.dimensions}
    def learn(self, *args):
        pass

class Shares(Proposer):
    entry = ProposerEntry("shares", "Hands out the choices themselves.")

class Unseeded(Proposer):
    entry = ProposerEntry("unseeded", "Has no seed.")
    def seed(self, seed):
        return None

class Strict(Proposer):
    entry = ProposerEntry("strict", "Knows of no failures.")
    def learn(self, number, score, *more):
        score + 1

class Doubles:
    entry = ExportEntry("doubles", "Writes another function.", file="model.txt")
    def write(self, model, example, path):
        torch.save(model, path)
    def run(self, path, example):
        return [2 * output for output in example.outputs(torch.load(path, weights_only=False))]
"""
POINTS = {
    "compressors": {name.lower(): f"several:{name}" for name in ("Right", "Changes", "Outside", "Fewer", "Chance")},
    "proposers": {name.lower(): f"several:{name}" for name in ("Shares", "Unseeded", "Strict")},
    "exports": {"doubles": "several:Doubles"},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    project = broken_project(folder / "project", "several", POINTS, {"several": COMPRESSORS})
    install(write_wheel(project, folder), folder / "site")
    return folder / "site"


@pytest.fixture(autouse=True)
def _on_the_path(site, monkeypatch):
    monkeypatch.syspath_prepend(site)


def suite(kind, **about):
    return type("Suite", (kind,), about)()


@pytest.fixture
def model():
    return models.fresh(models.PlainNet)


ENGINE_TESTS = (
    "test_deciding_leaves_the_model_as_it_was",
    "test_it_decides_of_its_targets_alone",
    "test_each_layer_loses_its_share",
    "test_equal_models_are_compressed_alike",
)


@pytest.mark.parametrize(
    ("name", "broken"),
    [("right", None), ("changes", 0), ("outside", 1), ("fewer", 2), ("chance", 3)],
)
def test_what_an_engine_must_not_do(model, name, broken):
    for place, test in enumerate(ENGINE_TESTS):
        run = getattr(suite(CompressorSuite, compressor=name), test)
        if place == broken:
            with pytest.raises(AssertionError):
                for _ in range(20 if name == "chance" else 1):
                    run(model)
        elif broken is None:
            run(model)


def test_a_module_that_imports_torch_is_found_out():
    with pytest.raises(AssertionError, match="torch"):
        suite(CompressorSuite, compressor="right").test_its_entry_is_read_without_heavy_libraries()


@pytest.mark.parametrize(
    ("name", "test", "error"),
    [
        ("shares", "test_a_proposal_is_the_callers", (AssertionError, PluginError)),
        ("unseeded", "test_equal_seeds_give_equal_proposals", AssertionError),
        ("strict", "test_failed_and_early_ended_trials_are_learnt_of", PluginError),
    ],
)
def test_what_a_proposer_must_not_do(name, test, error):
    with pytest.raises(error):
        getattr(suite(ProposerSuite, proposer=name), test)()


def test_an_export_of_another_function_is_refused(model):
    with pytest.raises(CompressionError, match="computes something else"):
        suite(ExporterSuite, export="doubles").test_a_small_model_is_written()
