"""docs/coming-from-auptimizer.md says what the table of old keys and the command say."""

from __future__ import annotations

import re

from raycompress.cli.main import VERBS
from raycompress.config.text.reader import read
from tests.support.launching import REPOSITORY
from tests.tables.coming import PAGE, filled


def test_the_tables_and_the_output_are_those_of_today() -> None:
    page = PAGE.read_text()
    assert filled(page) == page, "run `make docs`"


def test_what_is_typed_is_there() -> None:
    page = PAGE.read_text()
    verbs = set(re.findall(r"`raycompress (\w+)", page))
    assert {"run", "launch", "migrate", "validate", "best", "exec"} <= verbs
    assert verbs - {"exec"} <= set(VERBS)
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", page):
        assert (PAGE.parent / link).exists(), link


def test_the_example_is_a_file_as_the_old_tool_took_it() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert read(example).flaws == []


def test_the_output_fits_and_the_readme_names_the_page() -> None:
    (output,) = re.findall(r"```\n(\$ raycompress.*?)```", PAGE.read_text(), re.DOTALL)
    assert max(map(len, output.splitlines())) <= 80
    assert "coming-from-auptimizer.md" in (REPOSITORY / "README.md").read_text()
