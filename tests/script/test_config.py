"""BasicConfig: a dictionary with attribute access, from a JSON file or an experiment file."""

import copy
import json
import pickle

import pytest

from raycompress.errors import UsageError
from raycompress.script import context
from raycompress.script.config import BasicConfig

ENTRY = {"sparsity": 0.5, "op_types": ["Conv2d"], "expand_op_names": False}
EXPERIMENT = {
    "name": "digits",
    "script": "train.py",
    "compression": {
        "framework": "torch",
        "type": "pruning",
        "compressor": "l1_filter",
        "config_list": [ENTRY],
        "arguments": {"dependency_aware": True},
    },
    "proposer": "random",
}


@pytest.fixture
def write(tmp_path):
    def write(data, name="config.json"):
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return path

    return write


def test_attributes_are_keys():
    config = BasicConfig(compressor="slim")
    config.lr = 0.1
    assert config == {"compressor": "slim", "lr": 0.1}
    assert config.lr == 0.1
    del config.lr
    assert not hasattr(config, "lr")
    with pytest.raises(AttributeError, match="no 'lr'; it has compressor"):
        _ = config.lr
    with pytest.raises(AttributeError):
        del config.lr


def test_a_config_can_be_copied_and_pickled():
    config = BasicConfig(config_list=[{"sparsity": 0.5}])
    assert copy.deepcopy(config) == config
    back = pickle.loads(pickle.dumps(config))  # noqa: S301
    assert isinstance(back, BasicConfig)
    assert back == config


def test_load_returns_itself_and_save_is_its_inverse(tmp_path):
    config = BasicConfig(compressor="slim", config_list=[{"sparsity": 0.5}])
    config.save(tmp_path / "c.json")
    loaded = BasicConfig()
    assert loaded.load(tmp_path / "c.json") is loaded
    assert loaded == config


@pytest.mark.parametrize("action", ["load", "save"])
def test_pickles_are_refused_with_the_reason(tmp_path, action):
    with pytest.raises(UsageError, match="loading one runs whatever code it holds"):
        getattr(BasicConfig(), action)(tmp_path / "config.pkl")


@pytest.mark.parametrize(
    ("text", "what"),
    [("{'a': 1}", "no JSON"), ("[1]", "a JSON list, not an object"), ("", "no JSON")],
)
def test_a_file_that_holds_no_object(write, text, what):
    path = write(text)
    with pytest.raises(UsageError, match=what) as raised:
        BasicConfig().load(path)
    assert str(path) in str(raised.value)


def test_comments_and_trailing_commas_are_read(tmp_path):
    path = tmp_path / "config.json"
    text = '// by hand\n{"lr": 0.1, /* of the\npaper */ "url": "s3://a/*b*/,]", "layers": ["conv1", ], // all\n}\n'
    path.write_text("\ufeff" + text)
    assert BasicConfig().load(path) == {"lr": 0.1, "url": "s3://a/*b*/,]", "layers": ["conv1"]}


@pytest.mark.parametrize(
    ("text", "place", "fix"),
    [
        ('{"a": 1, // x\n "b": 2 # why\n}', "2, column 9", "// instead of #"),
        ('{"a": [1,], /* x */ "b": /* y\n}', "1, column 26", r"close the comment with \*/"),
        ('{"a": 1 /* x /* y */ z */ }', "1, column 22", "validate"),
        ("{/* x\n */'a': 1}", "2, column 4", "double quotes"),
        ('{"a": 1 */ }', "1, column 9", "comments do not nest"),
        ("[,]", "1, column 2", "validate"),
        ('{"a": 1,,}', "1, column 9", "validate"),
    ],
)
def test_what_is_neither_json_nor_jsonc_is_told_with_its_place(write, text, place, fix):
    with pytest.raises(UsageError, match=fix) as raised:
        BasicConfig().load(write(text))
    assert f"config.json:{place}" in str(raised.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        BasicConfig().load(tmp_path / "none.json")


def test_what_json_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        BasicConfig(value=object()).save(tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


def test_an_experiment_file_becomes_its_only_trials_config(write):
    assert BasicConfig().load(write(EXPERIMENT)) == {
        "compressor": "l1_filter",
        "compression_framework": "torch",
        "compression_type": "pruning",
        "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}],
        "arguments": {"dependency_aware": True},
    }


RANGE = {"range": [0.1, 0.9], "type": "float"}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (
            {"compression": {**EXPERIMENT["compression"], "config_list": [{"sparsity": RANGE}]}},
            "config_list[0].sparsity",
        ),
        ({"compression": {**EXPERIMENT["compression"], "arguments": {"a": {"b": RANGE}}}}, "arguments.a.b"),
        ({"parameter_config": [{"name": "lr", **RANGE}]}, "parameter_config[0]"),
    ],
)
def test_an_experiment_with_a_search_range_is_for_launch(write, change, place):
    path = write({**EXPERIMENT, **change})
    with pytest.raises(UsageError) as raised:
        BasicConfig().load(path)
    assert place in str(raised.value)
    assert f"raycompress launch {path}" in str(raised.value)


def test_values_are_assigned_to_the_flags_of_their_names():
    class Flags:
        lr = 0.1

        def __contains__(self, name):
            return name == "lr"

    flags = Flags()
    BasicConfig(lr=0.5, epochs=3).to_flags(flags)
    assert flags.lr == 0.5
    assert not hasattr(flags, "epochs")


def test_an_experiment_file_says_whether_to_save(write):
    assert BasicConfig().load(write({**EXPERIMENT, "resource_args": {"save_model": True}})).save_model is True
    assert "save_model" not in BasicConfig().load(write({**EXPERIMENT, "resource_args": {}}))


def test_a_trials_configuration_run_by_hand_does_not_save_among_the_trials_files(write, tmp_path):
    trial = tmp_path / "0007"
    trial.mkdir()
    path = write({"save_model": True, "folder_name": str(trial / "candidate")}, "0007/config.json")
    assert BasicConfig().load(path).folder_name == "trial-0007"
    assert BasicConfig().load(write({"folder_name": "models_3"})).folder_name == "models_3"
    context.enter(context.Trial("trial", trial / "candidate", print))
    try:
        assert BasicConfig().load(path).folder_name == str(trial / "candidate")
    finally:
        context.enter(None)
