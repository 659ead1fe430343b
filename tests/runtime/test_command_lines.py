"""Scripts with a command line of their own: argparse, click and Hydra, as files and as ``-m package.module``."""

import subprocess
import sys

import pytest

from raycompress.states import TrialState
from tests.support.trials import run

ARGPARSE = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--name", default="")
parser.add_argument("--config")
given = parser.parse_args()
loaded = rc.BasicConfig().load(given.config) if given.config else {}
rc.report(lr=given.lr, config=loaded.get("a", 0), name=len(given.name))
"""
CLICK = """
import click
@click.command()
@click.option("--lr", type=float, required=True)
def main(lr):
    config = rc.BasicConfig().load()
    rc.report(lr=lr, config=config.a)
if __name__ == "__main__":
    main()
"""
HYDRA = """
import hydra, os
@hydra.main(version_base=None, config_path="conf", config_name="main")
def main(given):
    config = rc.BasicConfig().load()
    open("written", "w").close()
    rc.report(lr=given.lr, config=config.a, depth=given.net.depth)
    if given.net.depth == 4:
        rc.create_compressor(object(), config)
if __name__ == "__main__":
    main()
"""


def values(worker, spec, expects=TrialState.FINISHED):
    _, ending = run(worker, spec)
    assert ending.state == expects, ending.log.read_text()
    return ending.values


@pytest.mark.parametrize(
    ("arguments", "appends", "found"),
    [
        (("--lr", "0.1"), False, (0.1, 0, 0)),
        (("--lr", "{lr}", "--config", "{config}"), True, (0.25, 1, 0)),
        (("--lr={lr}", "--name", "of {kind}, {unknown}"), True, (0.25, 0, 19)),
    ],
)
def test_argparse_takes_values_of_the_trial_and_no_path_that_it_does_not_expect(
    worker, spec, arguments, appends, found
):
    config = {"a": 1, "lr": 0.25, "kind": "plain"}
    trial = spec(ARGPARSE, script_args=arguments, config=config, appends_config=appends)
    assert tuple(values(worker, trial).values()) == found


@pytest.mark.parametrize("module", ["", "pkg.train"])
def test_click_ends_with_an_exit_that_is_no_failure(worker, spec, tmp_path, module):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "part.py").write_text("")
    trial = spec(
        CLICK.replace("import click", "import click\nfrom . import part") if module else CLICK,
        name="pkg/train.py",
        module=module,
        script_args=("--lr", "0.5"),
        appends_config=False,
    )
    assert values(worker, trial) == {"lr": 0.5, "config": 1}


def test_hydra_has_its_overrides_its_folder_and_errors_of_ours(worker, spec, tmp_path):
    pytest.importorskip("hydra", reason="hydra-core is not installed")
    (tmp_path / "conf" / "net").mkdir(parents=True)
    (tmp_path / "conf" / "main.yaml").write_text("defaults:\n  - net: small\n  - _self_\nlr: 1.0\n")
    for name, depth in (("small", 2), ("large", 3)):
        (tmp_path / "conf" / "net" / f"{name}.yaml").write_text(f"depth: {depth}\n")
    for arguments, depth in (((), 2), (("net=large", "hydra.job.chdir=True"), 3)):
        config = {"a": 1, "lr": 0.25}
        trial = spec(HYDRA, script_args=("lr={lr}", *arguments), config=config, own_folder=True)
        assert values(worker, trial) == {"lr": 0.25, "config": 1, "depth": depth}
    assert not (tmp_path / "outputs").exists()  # in the trial's own folder
    assert len([*(tmp_path / "trial" / "files").rglob("written")]) == 2
    _, ending = run(worker, spec(HYDRA, script_args=("net.depth=4",), appends_config=False))
    assert ending.state == TrialState.FAILED
    assert ending.cause.startswith("create_compressor takes a torch.nn.Module")


def test_a_module_runs_by_hand_as_python_runs_it(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "part.py").write_text("WORTH = 3\n")
    (tmp_path / "pkg" / "train.py").write_text(
        "import sys\nimport raycompress as rc\nfrom .part import WORTH\nrc.report(score=WORTH + len(sys.argv))\n"
    )
    command = [sys.executable, "-m", "raycompress", "exec", "-m"]
    done = subprocess.run([*command, "pkg.train", "--lr", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "score: 6\n"), done.stderr
    wrong = subprocess.run([*command, "pkg.trian"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and "there is no module pkg.trian here" in wrong.stderr
