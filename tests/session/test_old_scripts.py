"""Scripts of the old tool as trials: what they are given, what they may call, and what is left of what they save."""

import json
import textwrap

import pytest
import torch

import raycompress
from raycompress.bundle import bundle
from raycompress.config.experiment import Experiment
from raycompress.config.trial_config import trial_config
from raycompress.runtime.client import TrialSpec, WarmSpec, connect_or_start
from raycompress.runtime.preload import find_imports
from raycompress.session.prepare import centre_config
from raycompress.session.script_run import trial_template
from raycompress.states import TrialState
from tests.support.launching import number_experiment
from tests.support.models.old_scripts import DECORATED, DECORATED_SAVE, NET, OWN_SAVE, PLAIN
from tests.support.trials import run

COMPRESSION = {"compressor": "l1_filter", "compression_framework": "torch", "compression_type": "pruning"}
BUILT = {"parameters": {"lr": 0.1}, "arguments": {}, "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A warm process that has loaded what an old script imports; an `aup` beside it must never be."""
    folder = tmp_path_factory.mktemp("warm")
    (folder / "train.py").write_text(NET)
    (folder / "aup.py").write_text("raise ImportError('the real one')")
    imports = find_imports(folder / "train.py", folder, engine="raycompress.compressors.engines.ranking.engine")
    worker = connect_or_start(WarmSpec("old", str(folder), preload=imports, sys_path=(str(folder),)))
    assert worker.wait_ready().problems == ()
    yield worker
    worker.close()


@pytest.fixture
def old(tmp_path):
    """Make the specification of trial 7 of a script of the old tool."""
    namespace = {}
    exec(NET.replace("import aup\n", ""), namespace)
    torch.manual_seed(0)
    torch.save(namespace["Net"]().state_dict(), tmp_path / "pretrained.pth")

    def old(source, *, saves=True, **more):
        (tmp_path / "train.py").write_text(source)
        (tmp_path / "train.py").chmod(0o644)  # no run bit, and no shebang
        candidate = tmp_path / "trial" / "candidate"
        config = trial_config(COMPRESSION, BUILT, number=7, saves_into=candidate if saves else None)
        given = {"mode": "trial", "seed": 0, "threads": 1, "save_model": saves, "workingdir": str(tmp_path), **more}
        return TrialSpec(script="train.py", config=config, folder=str(tmp_path / "trial"), **given)

    old.net = namespace["Net"]
    return old


def own_files(folder):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return files - set(bundle.RESERVED)


def test_a_script_is_given_a_path_and_what_it_holds(worker, old, tmp_path):
    source = """
    import argparse, json, os, sys
    import aup
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    args, rest = parser.parse_known_args()
    config = aup.BasicConfig().load(sys.argv[-1])
    print(json.dumps([sys.argv[1:], args.epochs, rest, os.getcwd(), os.path.isdir(config.folder_name), __name__]))
    print(json.dumps(config))
    print(repr(os.environ.get("CUDA_VISIBLE_DEVICES")), os.path.exists("./pretrained.pth"))
    aup.print_result(1)
    """
    path = str(tmp_path / "trial" / "config.json")
    for arguments, epochs in (((), 1), (("--epochs", "3"), 3)):
        trial = old(textwrap.dedent(source), script_args=arguments, env={"CUDA_VISIBLE_DEVICES": ""})
        _, ending = run(worker, trial)
        assert ending.state == TrialState.FINISHED, ending.log.read_text()
        seen, config, last = ending.log.read_text().splitlines()
        assert json.loads(seen) == [[*arguments, path], epochs, [path], str(tmp_path), True, "__main__"]
        assert json.loads(config) == {
            **COMPRESSION,
            "config_list": BUILT["config_list"],
            "arguments": {},
            "lr": 0.1,
            "tid": 7,
            "job_id": 7,
            "save_model": True,
            "folder_name": str(tmp_path / "trial" / "candidate"),
        }
        assert last == "'' True"
        assert not (tmp_path / "trial" / "candidate").exists()  # nothing was put into it


def test_without_a_model_to_keep_there_is_no_folder(worker, old):
    source = "import sys, aup\nconfig = aup.BasicConfig().load(sys.argv[1])\naup.print_result(1)\nprint(config)"
    for mode in ("trial", "baseline"):
        _, ending = run(worker, old(source, saves=False, mode=mode))
        config = ending.log.read_text()
        assert "'save_model': False" in config
        assert "folder_name" not in config
        assert not ending.log.with_name("candidate").exists()


def test_the_decorated_form(worker, old, tmp_path):
    messages, ending = run(worker, old(DECORATED.format(save=DECORATED_SAVE)))
    assert ending.state == TrialState.FINISHED, ending.log.read_text()
    assert [message["type"] for message in messages] == ["result", "candidate"]
    assert ending.candidate["after"]["params"] < ending.candidate["before"]["params"]
    assert ending.candidate["notes"] == []
    folder = tmp_path / "trial" / "candidate"
    assert own_files(folder) == {"m.pth"}
    model = raycompress.load(folder, old.net()).eval()
    assert float(model(torch.ones(1, 1, 8, 8)).sum().detach()) == pytest.approx(ending.values["result"], rel=1e-5)


@pytest.mark.parametrize(
    ("save", "files"),
    [
        (
            'compressor.export_model(model_path="m.pth", mask_path="k.pth", save_best_only=True, **config)',
            {"m.pth", "k.pth"},
        ),
        ('compressor.export_model("m.pth", folder_name=config["folder_name"])', {"m.pth"}),
        ('compressor.export_model(os.path.join(config.folder_name, "m.pth"))', {"m.pth"}),
        ('compressor.export_model("m.pth", folder_name="models_7")', {"models_7/m.pth"}),
    ],
)
def test_the_plain_form_and_its_ways_to_save(worker, old, tmp_path, save, files):
    _, ending = run(worker, old(PLAIN.format(save=save)))
    assert ending.state == TrialState.FINISHED, ending.log.read_text()
    assert own_files(tmp_path / "trial" / "candidate") == files
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "trial", "pretrained.pth"}


def test_what_a_script_saves_in_its_own_way_is_kept_beside_the_bundle(worker, old, tmp_path):
    folder = tmp_path / "trial" / "candidate"
    cases = (
        (DECORATED.format(save=OWN_SAVE), "f1/f2/own.pth"),
        (PLAIN.format(save='torch.save(model, os.path.join("aup_models", config.folder_name, "own.pth"))'), "own.pth"),
    )
    for source, name in cases:
        _, ending = run(worker, old(source))
        assert ending.state == TrialState.FINISHED, ending.log.read_text()
        assert ["the script saved no model itself" in note for note in ending.candidate["notes"]] == [True]
        bundle.seal(folder, {"trial": 7})
        assert name in bundle.read(folder).files
        model = raycompress.load(folder, old.net()).eval()
        assert float(model(torch.ones(1, 1, 8, 8)).sum().detach()) == pytest.approx(ending.values["result"], abs=1e-5)
        assert own_files(folder) >= {name, "model.pth", "mask.pth"}


def test_what_a_killed_run_of_the_trial_left_is_gone_when_it_is_run_again(worker, old, tmp_path):
    left = tmp_path / "trial" / "candidate" / "f1"
    left.mkdir(parents=True)
    (left / "half.pth").write_text("")
    _, ending = run(worker, old(DECORATED.format(save=OWN_SAVE)))  # it makes the folder f1
    assert ending.state == TrialState.FINISHED, ending.log.read_text()
    assert own_files(tmp_path / "trial" / "candidate") == {"f1/f2/own.pth", "model.pth", "mask.pth"}


def test_one_that_trains_on_after_its_report_and_saves_nothing_fails(worker, old):
    source = PLAIN.format(save="pass") + "    model = None\n"
    changed = source.replace(
        '    aup.print_result("%f" % score(model))', "    aup.print_result(score(model)); train(model, optimizer)"
    )
    assert changed != source
    _, ending = run(worker, old(source))
    assert ending.state == TrialState.FINISHED
    _, ending = run(worker, old(changed))
    assert ending.state == TrialState.FAILED
    assert "saved no model" in ending.cause


@pytest.mark.parametrize("form", [DECORATED.format(save=DECORATED_SAVE), DECORATED.format(save=OWN_SAVE)])
def test_a_baseline_saves_nothing(worker, old, tmp_path, form):
    _, ending = run(worker, old(form, saves=False, mode="baseline"))
    assert (ending.state, ending.candidate) == (TrialState.FINISHED, None), ending.log.read_text()
    assert not (tmp_path / "trial" / "candidate").exists()
    assert not (tmp_path / "f1").exists()


def test_inspection_learns_the_layers_and_saves_nothing(worker, old, tmp_path):
    messages, ending = run(worker, old(DECORATED.format(save=OWN_SAVE), saves=False, mode="inspect"))
    assert [message["type"] for message in messages] == ["given", "model"], ending.log.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "trial", "pretrained.pth"}


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, ""),
        ({"runtime_args": {"env": {"CUDA_VISIBLE_DEVICES": "1"}}}, "1"),
        ({"resource": {"gpu": 0.5}}, None),
        ({"resource": "gpu", "runtime_args": {"env": {"CUDA_VISIBLE_DEVICES": "1"}}}, "1"),
    ],
)
def test_no_gpu_is_seen_unless_asked_for(tmp_path, changes, devices):
    experiment = Experiment.load(number_experiment(tmp_path, "", **changes))
    assert trial_template(experiment)["env"].get("CUDA_VISIBLE_DEVICES") == devices
    config = centre_config(experiment)
    assert (config["tid"], config["job_id"], config["save_model"]) == (0, 0, False)
    assert "folder_name" not in config
