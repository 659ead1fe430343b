"""Plug-ins, installed by pip: found, listed, checked, searched with; and what is said of those that are broken."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
import torch

import raycompress as rc
from raycompress.catalog import COMPRESSORS, find
from raycompress.catalog.plugins import require
from raycompress.catalog.proposers import PROPOSERS
from raycompress.config.dimension import Dimension
from raycompress.config.experiment import Experiment
from raycompress.config.objective import Objective
from raycompress.config.plugins import plugins_of
from raycompress.config.search_space import SearchSpace
from raycompress.errors import PluginError
from raycompress.search.proposers.searchers import make_proposer
from tests.support.launching import REPOSITORY, digits_experiment, raycompress
from tests.support.models.networks import DUMMY, MODELS
from tests.support.plugin import PROJECT, broken_project, install, write_wheel


def alike(**changes):
    found = {
        "framework": "torch",
        "type": "pruning",
        "compressor": "alike",
        "config_list": [{"op_types": ["Conv2d"], "sparsity": {"type": "float", "range": [0.2, 0.6]}}],
        "arguments": {"opposite": {"type": "choice", "range": [True, False]}},
    }
    return {**found, **changes}


def messages(launched):
    return re.sub(r"\s+", " ", launched.err)


@pytest.mark.usefixtures("plugin")
class TestPlugin:
    def test_its_names_stand_among_ours(self, tmp_path):
        table = raycompress(tmp_path, "compressors").out
        assert re.search(r"alike .*raycompress-example\s+0\.1", table, re.DOTALL)
        described = raycompress(tmp_path, "compressors", "alike").out
        assert "plug-in    raycompress-example 0.1" in described
        assert "opposite (bool, default false)" in described
        (entry,) = json.loads(raycompress(tmp_path, "compressors", "alike", "--json").out)
        assert entry["distribution"] == "raycompress-example 0.1"
        assert entry["engine"] == "raycompress_example:Alike"
        schema = json.loads(raycompress(tmp_path, "schema").out)
        assert "alike" in schema["$defs"]["CompressionKeys"]["properties"]["compressor"]["enum"]
        assert "halton" in schema["properties"]["proposer"]["enum"]
        assert schema["properties"]["export"]["items"]["enum"] == ["onnx", "tflite", "pt2"]
        assert "unfused" in schema["$defs"]["TargetKeys"]["properties"]["runtime"]["enum"]

    def test_a_model_is_deployed_in_its_runtime(self):
        torch.manual_seed(0)
        found = rc.measure(MODELS["resnet"](), "unfused", example_inputs=DUMMY, seconds=0.5)
        assert found.target == "unfused"
        assert found.version.startswith("onnxruntime")
        assert found.relative_difference < 1e-5

    def test_validate_knows_its_arguments_and_loads_no_torch(self, tmp_path):
        path = digits_experiment(tmp_path, compression=alike(), proposer="halton", export=["pt2"])
        assert raycompress(tmp_path, "validate", path).code == 0
        source = (
            "import sys; from raycompress.config.checks.preflight import load_checked; load_checked(sys.argv[1])\n"
            "print([name for name in ('torch', 'nni', 'ray') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", source, path], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ({"oposite": True}, 'unknown argument "oposite" of alike.*did you mean "opposite"'),
            ({"opposite": 1}, '"opposite" of alike is of type bool, not the number 1'),
            (
                {"others": {"type": "choice", "range": [1, "two"]}},
                '"others" of alike is of type int, not the text "two"',
            ),
        ],
    )
    def test_wrong_arguments_are_told_before_anything_starts(self, tmp_path, arguments, told):
        path = digits_experiment(tmp_path, compression=alike(arguments=arguments))
        refused = raycompress(tmp_path, "validate", path)
        assert refused.code == 2
        assert re.search(told, messages(refused))

    def test_a_misspelled_name_is_recognised(self, tmp_path):
        path = digits_experiment(tmp_path, compression=alike(compressor="alikes"), proposer="haltn", export=["pt3"])
        told = messages(raycompress(tmp_path, "validate", path))
        assert all(f'did you mean "{name}"?' in told for name in ("alike", "halton", "pt2"))

    def test_a_search_with_it_from_file_to_bundle(self, tmp_path):
        """The warm process, its forked trials, the halton points, the proved export: all of it, by the command line."""
        import torch

        path = digits_experiment(
            tmp_path, compression=alike(), proposer="halton", n_samples=2, n_parallel=1, export=["pt2"], random_seed=0
        )
        launched = raycompress(tmp_path, "launch", path)
        assert launched.code == 0, launched.err
        assert "cannot be preloaded" not in launched.err
        record = launched.record
        trials = [trial for number, trial in sorted(record.records.items()) if number]
        assert [trial.state.value for trial in trials] == ["finished"] * 2
        expected = PROPOSERS.load("halton")(_space(), objective=None, seed=0, history=None)
        assert [trial.sample for trial in trials] == [expected.propose(number) for number in (1, 2)]
        (best,) = launched.folder.glob("raycompress_results/*/best")
        manifest = json.loads((best / "manifest.json").read_text())
        assert manifest["compressor"]["name"] == "alike" and "model.pt2" in manifest["files"]
        assert manifest["after"]["params"] < manifest["before"]["params"]
        program = torch.export.load(best / "model.pt2").module()
        assert sum(parameter.numel() for parameter in program.parameters()) == manifest["after"]["params"]

    def test_a_node_without_it_says_so(self, tmp_path):
        experiment = Experiment.load(digits_experiment(tmp_path, compression=alike(), export=["pt2"], target="unfused"))
        needed = [(one.group, one.name, one.distribution) for one in plugins_of(experiment)]
        assert [name for _, name, _ in needed] == ["alike", "pt2", "unfused"]
        require(needed)
        with pytest.raises(PluginError, match=r"pip install raycompress-example==0\.2 on every node"):
            require([(needed[0][0], "alike", "raycompress-example 0.2")])
        source = f"from raycompress.catalog.plugins import require; require({needed!r})"
        bare = {**os.environ, "PYTHONPATH": ""}
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, env=bare)
        assert "has none of the name" in done.stderr


def _space():
    sparsities = (Dimension(f"conv{index}.sparsity", "float", 0.2, 0.6) for index in (1, 2, 3))
    return SearchSpace((*sparsities, Dimension("arguments.opposite", "choice", choices=(True, False))), {})


ENTRY = "from raycompress.catalog.entry import Argument, CompressorEntry\n"
ENGINE = "    def choose(self, request): ...\n"
BROKEN = {
    "fails": ("import no_such_library\n", r"cannot be loaded: ModuleNotFoundError: No module named 'no_such_library'"),
    "leaves": ("raise SystemExit('no')\n", r"cannot be loaded: SystemExit: no"),
    "empty": ("", r"cannot be loaded: AttributeError"),
    "bare": ("class Plugin: ...\n", r"is no class with an entry, a CompressorEntry"),
    "renamed": (
        f"{ENTRY}class Plugin:\n    entry = CompressorEntry('other')\n{ENGINE}",
        r'its entry is called "other"',
    ),
    "foreign": (
        f"{ENTRY}class Plugin:\n    entry = CompressorEntry('foreign', framework='jax')\n{ENGINE}",
        r'its entry has the framework "jax"',
    ),
    "doubled": (
        f"{ENTRY}class Plugin:\n    entry = CompressorEntry('doubled', arguments=[Argument('a', 1, '')] * 2)\n{ENGINE}",
        r'it has two arguments "a"',
    ),
    "wrong": (
        f"{ENTRY}class Plugin:\n    entry = CompressorEntry('wrong', arguments=(Argument('a', 1, '', type='str'),))\n"
        f"{ENGINE}",
        r'the default of its argument "a" is no str',
    ),
    "level": (f"{ENTRY}class Plugin:\n    entry = CompressorEntry('level')\n{ENGINE}", r"taken twice, by raycompress"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder with an installed distribution all of whose plug-ins are broken."""
    folder = tmp_path_factory.mktemp("broken")
    points = {"compressors": {name: f"broken_{name}:Plugin" for name in BROKEN}}
    modules = {f"broken_{name}": text for name, (text, _) in BROKEN.items()}
    install(write_wheel(broken_project(folder / "project", "broken-plugins", points, modules), folder), folder / "site")
    return folder / "site"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_told_by_its_distribution(broken, monkeypatch, name):
    monkeypatch.syspath_prepend(broken)
    with pytest.raises(PluginError, match=BROKEN[name][1]) as caught:
        find(name)
    (problem,) = caught.value.problems
    assert "broken-plugins 2.0" in problem.what
    assert f"{name} = broken_{name}:Plugin" in problem.where
    assert problem.fix


def test_broken_plugins_leave_other_experiments_alone(broken, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(broken))
    assert raycompress(tmp_path, "validate", digits_experiment(tmp_path)).code == 0
    listed = raycompress(tmp_path, "compressors")
    assert listed.code == 0 and "l1_filter" in listed.out
    assert listed.err.count("broken-plugins 2.0") == len(BROKEN)
    compression = alike(compressor="fails", arguments={})
    refused = raycompress(tmp_path, "validate", digits_experiment(tmp_path, compression=compression))
    assert refused.code == 2
    assert re.search(
        r'"fails" of broken-plugins 2\.0 cannot be loaded.*exp\.json:\d+ compression\.compressor', messages(refused)
    )
    compression = alike(compressor="level", config_list=[{"op_types": ["Conv2d"], "sparsity": 0.5}], arguments={})
    taken = raycompress(tmp_path, "validate", digits_experiment(tmp_path, compression=compression))
    assert taken.code == 2 and "pip uninstall broken-plugins" in messages(taken)


def test_two_distributions_with_one_name(broken, installed, monkeypatch, tmp_path):
    points = {"compressors": {"alike": "second:Plugin"}}
    project = broken_project(tmp_path / "project", "second-plugin", points, {"second": ""})
    install(write_wheel(project, tmp_path), tmp_path / "site")
    for site in (installed, tmp_path / "site"):
        monkeypatch.syspath_prepend(site)
    with pytest.raises(PluginError, match=r"taken twice, by \S+ \S+ and by "):
        COMPRESSORS.find("alike")


PROPOSER = """
from raycompress.catalog.proposers import ProposerEntry
class Plugin:
    entry = ProposerEntry("stray", "Strays.")
    repeats, note = True, ""
    def __init__(self, space, **options):
        pass
    def propose(self, number):
        return {"x": 7.0} if number == 1 else {} if number == 2 else 1 / 0
    def learn(self, *args):
        pass
"""


def test_a_proposer_that_strays_is_told_by_its_distribution(monkeypatch, tmp_path):
    points = {"proposers": {"stray": "stray_plugin:Plugin"}}
    install(
        write_wheel(broken_project(tmp_path / "p", "stray", points, {"stray_plugin": PROPOSER}), tmp_path),
        tmp_path / "s",
    )
    monkeypatch.syspath_prepend(tmp_path / "s")
    space = SearchSpace((Dimension("x", "float", 0.0, 1.0),), {})
    proposer = make_proposer("stray", space, objective=Objective.of_score("max"), seed=0)
    for number, told in ((1, 'proposed 7.0, which "x" cannot be'), (2, 'lacks "x"'), (3, "ZeroDivisionError")):
        with pytest.raises(PluginError, match=rf"of stray 2\.0 .*{told}"):
            proposer.propose(number)


def test_the_documentation_shows_the_plugin_that_is_tested():
    page = (REPOSITORY / "docs" / "plugins.md").read_text()
    source = (PROJECT / "raycompress_example.py").read_text()
    shown = re.findall(r"<!-- (\w+) -->\n```python\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in shown] == ["Alike", "Halton", "ExportedProgram", "Unfused"]
    assert all(text in source for _, text in shown)
    (declared,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert tomllib.loads(declared)["project"].items() <= project.items()
