"""Experiment files that went wrong: an error of ours names the file; what loads can be searched."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycompress.config.checks import preflight
from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace
from raycompress.config.text.reader import read
from raycompress.errors import RaycompressError
from raycompress.jsonc import as_json
from raycompress.model.info import Layer, ModelInfo
from raycompress.search.proposers.searchers import make_proposer
from tests.old.conftest import files_of_the_old_tool
from tests.support.commands import run
from tests.support.mutating import broken_files, commented_files

REPOSITORY = Path(__file__).parent.parent.parent
TODAY = {
    f"{path.parent.name}-{path.name}": path.read_text()
    for path in REPOSITORY.glob("configs/*/*.json")
    if path.name != "config.json"
}
BY_THE_OLD_TOOL = {path.name: path.read_text() for path in files_of_the_old_tool("*.json")}
LAYERS = [("conv1", "Conv2d"), ("bn1", "BatchNorm2d"), ("conv2", "Conv2d"), ("conv3", "Conv2d"), ("fc", "Linear")]
MODEL = ModelInfo(
    tuple(Layer(name, kind, 16, 100, 1000, (16, 3, 3, 3)) for name, kind in LAYERS),
    (("conv2", "conv3"),),
    ("fc",),
    *(1000, 10000, 4000, ((1, 1, 8, 8),)),
)


@pytest.fixture(scope="module", autouse=True)
def _scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in a folder that has the scripts which the files name."""
    home = tmp_path_factory.mktemp("files")
    for script in (*REPOSITORY.glob("configs/*/*.py"), *files_of_the_old_tool("*.py")):
        (home / script.name).write_bytes(script.read_bytes())
    with contextlib.chdir(home):
        yield


def told(data: bytes, *words: str) -> tuple[Path, int]:
    """Have a command read a file of these bytes, and check how it tells what it found."""
    path = Path("broken.json")
    path.write_bytes(data)
    code, out, err = run(*words, str(path))
    assert code in (0, 2), err
    assert code == 0 or path.name in out + err
    if "--json" in words:
        json.loads(out)
    return path, code


def sample_all(experiment: Experiment) -> None:
    """Draw samples of what an experiment searches, and make what trials are given of them."""
    problems, _ = preflight.check_model(experiment, MODEL)
    if problems:
        return
    preflight.notes(experiment, 2, 0)
    space = SearchSpace.of(experiment, MODEL)
    assert space.n_samples(experiment) >= 1
    proposer = make_proposer(
        experiment.proposer, space, objective=experiment.objective, seed=experiment.seed, bohb=experiment.bohb
    )
    for sample in (space.centre(), *filter(None, map(proposer.propose, (1, 2)))):
        built = space.build(sample)
        assert json.loads(json.dumps(built)) == built


@given(broken_files(TODAY), st.booleans())
def test_validate_tells_what_is_wrong(file: tuple[str, bytes], as_json: bool) -> None:
    path, code = told(file[1], "validate", *["--json"] * as_json)
    try:
        experiment = preflight.load_checked(path)
    except RaycompressError as error:
        assert code == 2
        for problem in error.problems:
            assert problem.what
            assert path.name in problem.where or problem.where.startswith(str(Path.cwd())), problem
    else:
        assert code == 0
        sample_all(experiment)


@given(commented_files(TODAY | BY_THE_OLD_TOOL))
def test_comments_and_trailing_commas_change_nothing(file: tuple[str, str]) -> None:
    name, text = file
    path, code = told(text.encode(), "validate")
    assert (code, read(text).flaws) == (0, [])
    plain = Experiment.from_text((TODAY | BY_THE_OLD_TOOL)[name], path)
    assert replace(Experiment.load(path), text="") == replace(plain, text="")
    assert json.loads(as_json(text.removeprefix("\ufeff"))) == read(text).value


@given(commented_files(BY_THE_OLD_TOOL), st.booleans())
def test_migrate_keeps_comments_or_says_which_go(file: tuple[str, str], slip: bool) -> None:
    text = file[1] + "# below" * slip
    Path("broken.json.orig").unlink(missing_ok=True)
    path = Path("broken.json")
    path.write_text(text)
    code, out, err = run("migrate", "--write", "--json", str(path))
    assert code == 0, err
    gone = [one for one in json.loads(out)["changes"] if "a comment goes" in one["what"]]
    before, after = ([text[slice(*span)] for span in read(text).comments] for text in (text, path.read_text()))
    assert len(after) == len(before) - len(gone)
    assert read(path.read_text()).flaws == []
    Path("broken.json.orig").unlink(missing_ok=True)
    assert json.loads(run("migrate", "--write", "--json", str(path))[1])["written"] is False
    if not slip and not json.loads(out)["written"]:
        assert path.read_text() == text


@given(broken_files(BY_THE_OLD_TOOL), st.booleans())
def test_migrate_writes_what_loads_or_nothing(file: tuple[str, bytes], as_json: bool) -> None:
    original = Path("broken.json.orig")
    original.unlink(missing_ok=True)
    path, code = told(file[1], "migrate", "--write", *["--json"] * as_json)
    if code == 0:
        sample_all(Experiment.load(path))
    if not original.exists():
        assert path.read_bytes() == file[1]
    else:
        assert (code, original.read_bytes()) == (0, file[1])
