"""A trial is what was proposed: its configuration rules, and what does not reach the model is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raycompress.backend.fake import FakeRun
from raycompress.compressors.given import differences
from raycompress.config.search_space import SearchSpace
from raycompress.errors import ScriptError
from raycompress.search.findings import Findings
from raycompress.search.ownership import another_sample, check_given
from raycompress.search.unread import unread_notes
from tests.support.experiments import experiment_with
from tests.support.fake_search import Notes, X, search
from tests.support.trials import run

OWN = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.4, "op_names": ["conv1"]}], "arguments": {}}
RANGE = {"sparsity": {"type": "float", "range": [0.1, 0.9]}, "op_names": ["conv1"]}
LOADS = {
    "the decorator": "@rc.experiment\ndef main(config):\n    return config.a\nmain()",
    "a file that it names": "@rc.experiment\ndef main(config):\n    return config.a\nmain('own.json')",
    "BasicConfig": "import sys\nrc.report(a=rc.BasicConfig().load(sys.argv[1]).a)",
    "the script itself": "import json, sys\nrc.report(a=json.load(open(sys.argv[1]))['a'])",
    "an option": "import json, sys\nrc.report(a=json.load(open(sys.argv[3].partition('=')[2]))['a'])",
}


@pytest.mark.parametrize("how", LOADS)
def test_a_trials_configuration_rules_over_another_on_the_command_line(worker, spec, tmp_path, how):
    (tmp_path / "own.json").write_text('{"compressor": "l1_filter", "a": 7, } // mine')
    arguments = ("own.json", "--epochs", "--config=own.json")
    _, ending = run(worker, spec(LOADS[how], script_args=arguments, config={"compressor": "l1_filter", "a": 1}))
    assert ending.values in ({"result": 1}, {"a": 1}), ending.log.read_text()


def test_other_files_of_json_are_the_scripts_own(worker, spec, tmp_path):
    (tmp_path / "data.json").write_text('{"a": 7}')
    source = "import sys\nrc.report(a=rc.BasicConfig().load(sys.argv[1]).a, n=len(sys.argv))"
    _, ending = run(worker, spec(source, script_args=("data.json",)))
    assert ending.values == {"a": 7, "n": 3}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (OWN, []),
        ({**OWN, "config_list": [*OWN["config_list"], {"exclude": True, "op_names": ["fc"]}]}, []),
        ({**OWN, "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}, ["config_list"]),
        ({**OWN, "config_list": []}, ["config_list"]),
        ({**OWN, "compressor": "l2_filter"}, ["compressor"]),
    ],
)
def test_what_a_script_gives_is_compared_with_the_trials(given: dict[str, Any], found: list[str]) -> None:
    assert list(differences(OWN, given, {})) == found


def test_arguments_that_are_not_passed_on_are_a_difference() -> None:
    own = {**OWN, "arguments": {"round_to": 8}}
    assert list(differences(own, OWN, {})) == ["arguments"]
    assert list(differences(own, OWN, {"round_to": 8})) == []


def given(**differs: Any) -> dict[str, Any]:
    return {"type": "given", "differs": differs, "where": "train.py:3"}


def test_a_config_list_of_the_scripts_own_is_an_error(tmp_path: Path) -> None:
    space = SearchSpace.of(experiment_with(tmp_path, [RANGE]))
    own = given(config_list=[{"sparsity": 0.5, "op_types": ["Conv2d"]}])
    with pytest.raises(ScriptError, match="passes create_compressor a `config_list` of its own") as caught:
        check_given([own], space, lambda _sample: [own])
    assert caught.value.problems[0].where == "train.py:3"


def test_a_config_list_that_follows_the_proposal_is_none(tmp_path: Path) -> None:
    space = SearchSpace.of(experiment_with(tmp_path, [RANGE]))
    rounded = [given(config_list=[{"sparsity": value}]) for value in (0.5, 0.7)]
    check_given(rounded[:1], space, lambda _sample: rounded[1:])
    check_given([given(), rounded[0]], space, lambda _sample: rounded[:1])  # one of two compressors is the trial's


def test_the_other_sample_differs_in_every_dimension(tmp_path: Path) -> None:
    parameters = [
        {"name": "lr", "type": "float", "range": [1e-4, 0.1], "log": True},
        {"name": "n", "type": "int", "range": [1, 2]},
        {"name": "how", "type": "choice", "range": ["a", "b"]},
    ]
    space = SearchSpace.of(experiment_with(tmp_path, [RANGE], parameter_config=parameters))
    one, other = space.centre(), another_sample(space)
    assert [name for name in one if one[name] == other[name]] == []


READS_LR = {
    "an attribute": "config.lr",
    "a key": "config['lr']",
    "a parameter": "def main(lr): pass",
    "a composed key": "config[f'l{letter}']",
    "a key by %": "config['l%s' % letter]",
    "an option of the command line": "parser.add_argument('--lr')",
}
LEAVES_LR = {"a keyword": "Adam(lr=0.1)", "a variable": "lr = 0.1", "another key": "config.get('learning_rate', 0.1)"}


@pytest.mark.parametrize("code", [*READS_LR.values(), *LEAVES_LR.values()])
def test_a_hyperparameter_that_the_script_never_reads_is_told(tmp_path: Path, code: str) -> None:
    experiment = experiment_with(tmp_path, parameter_config=[{**X[0], "name": "lr"}])
    (tmp_path / "train.py").write_text("import helper\n")
    (tmp_path / "helper.py").write_text(code)
    notes = unread_notes(experiment, ["learning_rate", "compressor"])
    assert bool(notes) == (code in LEAVES_LR.values())
    assert all('"lr": never read by train.py; it reads "learning_rate"' in note for note in notes)


def test_what_a_script_reads_is_known_at_its_end(worker, spec):
    source = "import sys\nconfig = rc.BasicConfig().load(sys.argv[-1])\nrc.report(a=config.a, b=config.get('b', 1))\n{}"
    more = {"config": {"a": 1, "lr": 0.1}, "parameters": ("a", "lr")}
    for tail, unread in {"": ["lr"], "print(config)": ["lr"], "config['lr']": [], "dict(config)": []}.items():
        _, ending = run(worker, spec(source.format(tail), **more))
        assert ending.left["unread"] == unread, tail


def test_equal_models_of_different_proposals_and_what_none_has_read_are_told(tmp_path: Path) -> None:
    experiment = experiment_with(tmp_path, parameter_config=[{**X[0], "name": "lr"}])
    (tmp_path / "train.py").write_text("group['lr'] = 0.1\n")
    findings = Findings(experiment)
    for number, (x, weights) in enumerate([(0.1, "a"), (0.2, "a"), (0.3, "b")], start=1):
        findings.add(number, {"x": x}, {"unread": ["lr"], "weights": weights, "shared": ["/a/best.pt"]})
    equal, shared, unread = findings.notes()
    assert "trials 1, 2, 3 wrote and read /a/best.pt" in shared
    assert "trials 1, 2 saved one and the same model" in equal
    assert '"lr" of parameter_config was never read' in unread


def test_equal_models_are_no_news_where_the_proposals_are_equal(tmp_path: Path) -> None:
    view = Notes()
    run_of = FakeRun(
        [0.5], before={"params": 2, "flops": 2, "size_bytes": 2}, after={"params": 1, "flops": 1, "size_bytes": 1}
    )
    search(tmp_path, lambda _sample: run_of, parameter_config=X, n_samples=2, script="config.x", view=view)
    assert json.dumps(view.notes).count("one and the same") == 0
