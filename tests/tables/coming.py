"""docs/coming-from-auptimizer.md: its tables come from the table of old keys, what is printed from a run of `migrate`.

The page holds its own words, and marks where these go: ``<!-- keys -->`` to ``<!-- end -->``.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raycompress.cli.commands.experiment.migrate import text_of
from raycompress.config.migration.report import Migration
from raycompress.config.migration.table import NEW_KEYS, OLD_KEYS, OldKey
from raycompress.config.schema.fields import SEARCH_RANGE, Keys
from raycompress.config.schema.keys import ExperimentKeys, ResourceKeys
from raycompress.config.schema.spelling import inside
from tests.tables import marked
from tests.tables.catalogue import table

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-auptimizer.md"


def filled(page: str) -> str:
    """Return the page with everything between its marks made anew."""
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    parts = {
        "keys": "\n".join(old_keys()),
        "new keys": "\n".join(new_keys()),
        "output": f"```\n$ raycompress migrate exp.json\n{migrated(example)}\n```",
    }
    return marked.filled(page, parts)


def write() -> None:
    """Make the page's tables and output anew."""
    PAGE.write_text(filled(PAGE.read_text()))


def old_keys() -> list[str]:
    """Return the table of old keys; neighbours with the same fate share a row."""
    rows = []
    for (fate, became), group in itertools.groupby(OLD_KEYS, key=lambda key: (key.fate, key.became)):
        rows.append((", ".join(_named(list(group))), fate, became))
    return table(("in an old file", "is", "here"), rows)


def _named(keys: list[OldKey]) -> Iterator[str]:
    """Yield the names of keys of one row; the folder of the first counts for all."""
    for number, key in enumerate(keys):
        if key.value:
            yield f"`{key.path}: []`" if key.value == "[]" else f'`{key.path}: "{key.value}"`'
        else:
            yield f"`{key.path.rpartition('.')[2] if number else key.path}`"


def new_keys() -> list[str]:
    """Return the table of keys that an old file cannot have, with what the schema says of each."""
    told = {f"search range: {key}": value.get("description", "") for key, value in SEARCH_RANGE["properties"].items()}
    told.update(_descriptions(ExperimentKeys, ""), **{f"resource.{k}": v for k, v in _descriptions(ResourceKeys, "")})
    return table(("key", "what it is for"), [(f"`{key}`", told[key]) for key in NEW_KEYS])


def _descriptions(model: type[Keys], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path, field.description or ""
        if inner := inside(model).get(name):
            yield from _descriptions(inner, f"{path}{'[]' if name == 'config_list' else ''}.")


def migrated(example: str) -> str:
    """Return what `raycompress migrate` prints for a file."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        path = Path("exp.json")
        path.write_text(example)
        return text_of(Migration.of(path))
