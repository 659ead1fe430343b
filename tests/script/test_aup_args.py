"""The decorators of old scripts, @aup.aup_args and @aup.aup_flags, and aup.aup_save_model: by hand and in a trial."""

import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from raycompress.errors import ResultError, UsageError
from raycompress.script import context
from raycompress.script.entry import aup_args, aup_flags
from raycompress.script.report import print_result
from raycompress.script.saving import aup_save_model

CONFIG = {
    "compressor": "l1_filter",
    "compression_framework": "torch",
    "compression_type": "pruning",
    "config_list": [{"sparsity": 0.5}],
    "lr": 0.1,
    "tid": 3,
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a configuration into the folder that the test runs in; return its path."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
        return str(tmp_path / "config.json")

    return write


@pytest.fixture
def trial(tmp_path):
    """Make this process a trial that saves into `candidate`."""
    sent = []
    trial = context.Trial("trial", tmp_path / "candidate", lambda message: sent.append(dict(message)))
    trial.sent = sent
    context.enter(trial)
    yield trial
    context.enter(None)


def old_script(folder, body):
    """Write a script of the old tool, and return it; it is run with the namespace in place."""
    (folder / "train.py").write_text(textwrap.dedent(body))
    return folder / "train.py"


def test_the_keys_that_are_parameters_are_passed(write):
    seen = []

    @aup_args
    def main(compression_type, compression_framework, compressor, config_list):
        config = locals()
        config.pop("seen", None)  # of this test, not of a script
        seen.append(config)

    main(write())
    assert seen == [{key: CONFIG[key] for key in inspect.signature(main).parameters}]
    assert type(seen[0]) is dict


def test_all_the_rest_goes_to_other(write):
    @aup_args
    def main(compressor, **other):
        return compressor, other

    with pytest.raises(ResultError):  # a name is no result, and says what came
        main(write())
    seen = []
    aup_args(lambda compressor, *args, epochs=2, **other: seen.append((epochs, other)))(write(epochs=5))
    assert seen == [(5, {key: value for key, value in CONFIG.items() if key != "compressor"})]


def test_a_default_stands_in_for_a_missing_key_and_a_keyword_goes_before_the_file(write):
    seen = []
    main = aup_args(lambda lr, momentum=0.9: seen.append((lr, momentum)))
    main(write())
    main(write(), lr=0.5, momentum=0.1)
    main({"lr": 0.2})
    assert seen == [(0.1, 0.9), (0.5, 0.1), (0.2, 0.9)]


def test_the_command_line_names_the_file_where_the_call_does_not(write, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "3", write()])
    aup_args(lambda lr: seen.append(lr))()
    assert seen == [0.1]


def test_a_missing_parameter_is_named_with_the_file(write):
    def main(compressor, lrr, momentum):
        raise AssertionError("not reached")

    path = write()
    with pytest.raises(UsageError) as raised:
        aup_args(main)(path)
    told = str(raised.value)
    assert "the configuration has no 'lrr', 'momentum', which main() needs" in told
    assert path in told
    assert "did you mean 'lr'?" in told


def test_arguments_of_the_compressor_do_not_get_lost(write):
    with pytest.raises(UsageError, match="takes no `arguments`, so that the compressor would not get dependency_aware"):
        aup_args(lambda compressor: None)(write(arguments={"dependency_aware": True}))
    aup_args(lambda compressor: None)(write(arguments={}))
    aup_args(lambda compressor, arguments: None)(write(arguments={"dependency_aware": True}))
    aup_args(lambda compressor, **other: None)(write(arguments={"dependency_aware": True}))


def test_functions_with_init_in_their_names_are_called_first(write, tmp_path):
    (tmp_path / "helper.py").write_text("def init_of_another_module(config): print('never')\n")
    script = old_script(
        tmp_path,
        """
        import sys
        from helper import init_of_another_module
        from raycompress.script.entry import aup_args
        def init_data(config): print("init_data", config["lr"], config.lr)
        def weights_init(config): print("weights_init")
        def init_without_config(): print("never")
        class Reinit: pass
        @aup_args
        def init_and_run(lr): print("main", lr); return 0.5
        def also_init(config): print("also_init")
        init_and_run(sys.argv[1])
        """,
    )
    done = subprocess.run([sys.executable, script, write()], capture_output=True, text=True, check=True)
    assert done.stdout == "init_data 0.1 0.1\nweights_init\nalso_init\nmain 0.1\nresult: 0.5\n"


def test_what_is_returned_is_reported_after_what_the_script_reported_itself(write, trial):
    @aup_args
    def main(lr):
        print_result(0.1)
        return [0.9, 4]

    assert main(write()) == [0.9, 4]
    assert [list(message["values"].values()) for message in trial.sent] == [[0.1], [0.9, 4]]
    aup_args(lambda lr: None)(write())
    assert len(trial.sent) == 2


def saving_main(seen):
    """Return a main that registers a function; what is seen when it is called goes to `seen`."""

    def save(*args, **kwargs):
        Path("saved.txt").write_text("model")
        seen.append((args, kwargs, Path.cwd()))

    @aup_args
    def main(lr):
        aup_save_model(print, "replaced by the later one")
        aup_save_model(save, "model", path="m.pth")
        assert not seen, "it is called when main has returned"
        return 0.5

    return main


def test_a_trial_saves_in_its_candidate_folder_once_the_result_is_told(write, trial, tmp_path):
    seen = []
    main = saving_main(seen)
    main(write())
    assert seen == [(("model",), {"path": "m.pth"}, tmp_path / "candidate")]
    assert (tmp_path / "candidate" / "saved.txt").exists()
    assert Path.cwd() == tmp_path
    assert len(trial.sent) == 1
    aup_args(lambda lr: None)(write())  # registered for one run only
    assert len(seen) == 1


@pytest.mark.parametrize(("mode", "save_model"), [("trial", False), ("baseline", True), ("analyze", True)])
def test_a_trial_that_keeps_no_model_saves_none(write, trial, mode, save_model, tmp_path):
    seen = []
    trial.mode, trial.save_model = mode, save_model
    saving_main(seen)(write(save_model=True, folder_name="models_3"))
    assert not seen
    assert not (tmp_path / "candidate").exists()


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ({"save_model": True, "folder_name": "models_3"}, "aup_models/models_3"),
        ({"save_model": True}, "aup_models"),
        ({"save_model": False, "folder_name": "models_3"}, None),
        ({}, None),
    ],
)
def test_by_hand_the_configuration_says_whether_and_where(write, tmp_path, config, folder):
    seen = []
    saving_main(seen)(write(**config))
    assert [where for _, _, where in seen] == ([] if folder is None else [tmp_path / folder])


def test_a_failing_save_leaves_the_working_folder_as_it_was(write, trial, tmp_path):
    @aup_args
    def main(lr):
        aup_save_model(Path("none/none").read_text)

    with pytest.raises(FileNotFoundError):
        main(write())
    assert Path.cwd() == tmp_path


FLAGS = """
from absl import app, flags
from raycompress.script.entry import aup_flags
from raycompress.script.saving import aup_save_model
flags.DEFINE_float("lr", 1.0, "")
flags.DEFINE_integer("epochs", 1, "")
flags.DEFINE_list("config_list", [], "")
FLAGS = flags.FLAGS

@aup_flags(FLAGS)
def main({parameters}):
    print(FLAGS.lr, FLAGS.epochs, FLAGS.config_list, {shown})
    aup_save_model(print, "saving")
    return FLAGS.lr

if __name__ == "__main__":
    app.run(main)
"""


@pytest.mark.parametrize(("parameters", "shown"), [("argv", "len(argv)"), ("", "2")])
def test_flags_of_absl(write, tmp_path, parameters, shown):
    script = old_script(tmp_path, FLAGS.format(parameters=parameters, shown=shown))
    command = [sys.executable, str(script), "--epochs=3", write(save_model=True)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0.1 3 [{'sparsity': 0.5}] 2\nresult: 0.1\nsaving\n"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert "the script was started without a configuration" in done.stderr
    assert done.returncode == 1


def test_flags_of_a_script_that_calls_main_itself(write, monkeypatch, capsys):
    from absl import flags

    values = flags.FlagValues()
    flags.DEFINE_float("lr", 1.0, "", flag_values=values)
    main = aup_flags(values)(lambda: values.lr)
    assert main(write()) is None
    monkeypatch.setattr(sys, "argv", ["train.py", write(lr=0.2)])
    main()
    assert capsys.readouterr().out == "result: 0.1\nresult: 0.2\n"
