"""The README says what is so."""

import json
import re

from raycompress.catalog.proposers import PROPOSERS
from raycompress.cli.main import VERBS
from tests.support.launching import DIGITS, REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_the_experiment_file_of_the_readme_is_the_one_of_the_demo():
    (block,) = re.findall(r"```jsonc\n(.*?)```", README, re.S)
    plain = re.sub(r"\s//.*", "", block)
    assert json.loads(plain) == json.loads((DIGITS / "auto_l1.json").read_text())


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
    for target in ("demo", "test", "lint", "bench"):
        assert re.search(rf"^{target}:", makefile, re.M)
