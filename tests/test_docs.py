"""The README says what is so."""

import json
import re
import shutil

from raycompress.catalog.proposers import PROPOSERS
from raycompress.cli.main import VERBS
from raycompress.config.text.reader import read
from tests.support.launching import DIGITS, REPOSITORY, raycompress

README = (REPOSITORY / "README.md").read_text()


def test_the_experiment_file_of_the_readme_runs_as_it_stands_and_is_the_one_of_the_demo(tmp_path):
    (block,) = re.findall(r"```jsonc\n(.*?)```", README, re.S)
    assert block.count("//") > 10
    for file in ("train.py", "pretrained.pth"):
        shutil.copy(DIGITS / file, tmp_path)
    (tmp_path / "exp.json").write_text(block)
    done = raycompress(tmp_path, "validate", "exp.json")
    assert (done.code, done.err) == (0, "")
    assert read(block).value == json.loads((DIGITS / "auto_l1.json").read_text())


def test_the_readme_names_every_verb():
    table = README.split("## The commands")[1].split("## ")[0]
    assert {verb for verb in VERBS if f"`{verb}`" in table or f"`raycompress {verb}" in table} == set(VERBS)


def test_the_readme_names_the_proposers():
    (line,) = [line for line in README.splitlines() if '"proposer": "optuna"' in line]
    assert all(proposer in line for proposer in PROPOSERS.names() if proposer != "tpe")


def test_every_linked_file_is_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (REPOSITORY / link).exists(), link


def test_what_the_makefile_offers():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in ("demo", "test", "unit", "lint", "bench", "house"):
        assert re.search(rf"^{target}:", makefile, re.M)
        assert f"make {target}" in README
