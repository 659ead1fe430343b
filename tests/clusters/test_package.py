"""What goes to a cluster: the working directory, packed, and a wheel of this raycompress."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from raycompress.clusters.run.launch import shared_storage
from raycompress.clusters.ship import package
from raycompress.clusters.ship.package import pack
from raycompress.clusters.ship.wheel import make_wheel
from raycompress.config.experiment import Experiment
from raycompress.errors import ClusterError, ExperimentError
from tests.support.launching import number_experiment


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


def packed(home: Path, tmp_path: Path, **changes: object) -> zipfile.ZipFile:
    path = number_experiment(home, "print(1)")
    path.write_text("// of the paper\n" + json.dumps({**json.loads(path.read_text()), **changes}))
    experiment = Experiment.load(path)
    return zipfile.ZipFile(pack(experiment, tmp_path).archive)


def test_what_the_ignore_file_names_stays_here(home: Path, tmp_path: Path) -> None:
    for name in (
        "data/big.bin",
        "data/keep.bin",
        "notes.log",
        "sub/more.log",
        "raycompress_results/x/y",
        ".git/config",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
    (home / ".raycompressignore").write_text("*.log\ndata/*\n!data/keep.bin\n")
    names = set(packed(home, tmp_path).namelist())
    assert names == {"script.py", "exp.json", ".raycompressignore", "data/keep.bin", ".raycompress-experiment.json"}


def test_the_experiment_is_the_same_where_it_is_unpacked(home: Path, tmp_path: Path) -> None:
    changes = {"workingdir": str(home), "script": f"{home}/script.py --fast 'a b'", "storage": "/srv/x"}
    elsewhere = tmp_path / "elsewhere"
    packed(home, tmp_path, **changes).extractall(elsewhere)
    there = Experiment.load(elsewhere / ".raycompress-experiment.json")
    assert there.script_path == elsewhere / "script.py" and there.workingdir == elsewhere
    assert there.script_args == ("--fast", "a b") and there.storage == Path("/srv/x")


def test_a_module_is_a_module_there_too(home: Path, tmp_path: Path) -> None:
    (home / "pkg").mkdir()
    (home / "pkg" / "train.py").write_text("print(1)\n")
    elsewhere = tmp_path / "elsewhere"
    packed(home, tmp_path, workingdir=str(home), script="-m pkg.train --lr {lr}").extractall(elsewhere)
    there = Experiment.load(elsewhere / ".raycompress-experiment.json")
    assert (there.script_module, there.script_args) == ("pkg.train", ("--lr", "{lr}"))


def test_too_much_is_refused_with_the_largest_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "LIMIT", 1_000_000)
    (home / "weights.bin").write_bytes(os.urandom(1_200_000))
    with pytest.raises(ClusterError) as refused:
        packed(home, tmp_path)
    (problem,) = refused.value.problems
    assert "1.2 MB" in problem.what and "weights.bin" in problem.fix and ".raycompressignore" in problem.fix
    assert refused.value.exit_code == 3


def test_a_script_that_would_not_go_along_is_refused(home: Path, tmp_path: Path) -> None:
    (home / ".raycompressignore").write_text("*.py\n")
    with pytest.raises(ExperimentError, match="leaves out"):
        packed(home, tmp_path)
    (tmp_path / "work").mkdir()
    with pytest.raises(ExperimentError, match="not in the working directory"):
        packed(home, tmp_path, script=str(home / "script.py"), workingdir=str(tmp_path / "work"))


@pytest.mark.parametrize("changes", [{}, {"storage": "results"}, {"proposer": "passive", "storage": "/srv/x"}])
def test_what_cannot_run_on_a_cluster_is_told_before_there_is_one(home: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ExperimentError):
        shared_storage(Experiment.load(number_experiment(home, "print(1)", **changes)))


def test_the_wheel_installs_this_very_code(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    before = wheel.read_bytes()
    assert make_wheel(tmp_path).read_bytes() == before
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(pip, check=True)
    probe = "import json, raycompress; from importlib import metadata; from raycompress.clusters.file import files;"
    probe += "print(json.dumps([raycompress.__file__, metadata.version('raycompress'), sorted(files.shipped())]))"
    said = subprocess.run(
        [sys.executable, "-c", probe],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    file, _, shipped = json.loads(said.stdout)
    assert Path(file).is_relative_to(target) and "local-ssh.yaml" in shipped
