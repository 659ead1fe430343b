"""Every path, module, class and function of ours that a page names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import raycompress
from tests.support.launching import REPOSITORY

ROOT = REPOSITORY / "raycompress"
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
OUTSIDE = {
    *(
        "BatchNorm",
        "LayerNorm",
        "GroupNorm",
        "HyperBandForBOHB",
        "TuneBOHB",
        "OptunaSearch",
        "NetAdapt",
        "ModelSpeedup",
    ),
    *("BasePruner", "HyperBand", "BaseException", "TensorBoard", "PyTorch", "DataFrame"),
}
"""Names of other libraries on the page about the architecture."""


@cache
def names() -> dict[str, set[str]]:
    """Module, by its last name, or class -> what is defined in it; the empty text -> everything."""
    found: dict[str, set[str]] = {"": set()}
    for file in ROOT.rglob("*.py"):
        stem = file.parent.name if file.name == "__init__.py" else file.stem
        here = found.setdefault(stem, set())
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                here.add(node.name)
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(_members(node))
        found[""] |= here
    found["raycompress"] = {*raycompress.__all__, *(path.stem for path in ROOT.iterdir())}
    found["Experiment"] |= found["SearchRecord"]  # of the two, `raycompress.Experiment` is the latter
    return found


def _members(node: ast.ClassDef) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef):
            yield inner.name
        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            yield inner.target.id
        elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "self":
            yield inner.attr


def quoted(page: Path) -> list[str]:
    """Return what a page has in backticks, outside its blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [found.strip() for found in re.findall(r"`([^`]+)`", text)]


def is_ours(path: str) -> bool:
    """Whether a path starts in the repository, or in a room of raycompress/."""
    first = path.split("/", 1)[0]
    made = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()
    return (
        bool(re.fullmatch(r"[\w./-]+", path))
        and "/" in path
        and first not in made
        and any((home / first).is_dir() for home in (REPOSITORY, ROOT))
    )


def exists(path: str) -> bool:
    return any((home / path).exists() for home in (REPOSITORY, ROOT))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_is_there(page: Path) -> None:
    assert [path for path in quoted(page) if is_ours(path) and not exists(path)] == []


def test_every_file_and_folder_of_the_architecture_is_there() -> None:
    """Whatever looks like one; in the table of compressors/ they start in that room."""
    paths = [text for text in quoted(ARCHITECTURE) if re.fullmatch(r"[\w./-]+(?:\.py|/)", text)]
    assert len(paths) > 60
    homes = (REPOSITORY, ROOT, ROOT / "compressors")
    assert [path for path in paths if not any((home / path).exists() for home in homes)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_dotted_name_is_there(page: Path) -> None:
    """A module and a name in it, or a class of ours and what it has."""
    missing = []
    for text in quoted(page):
        match = re.match(r"(?:raycompress\.)?(?:\w+\.)*(\w+)\.(\w+)(?:\(|$)", text)
        if match is None or text.endswith((".py", ".json", ".md")) or text.startswith("aup."):
            continue
        home, name = match.groups()
        is_known = home in names() and (text.startswith("raycompress.") or home[0].isupper() or home in _modules())
        if is_known and name not in names()[home] and not _is_module(text):
            missing.append(text)
    assert missing == []


def _modules() -> set[str]:
    """Modules that the page about the architecture calls by their last names."""
    return {Path(path).stem for path in quoted(ARCHITECTURE) if path.endswith(".py")}


def _is_module(text: str) -> bool:
    path = Path(*text.split("."))
    return any((home / path).is_dir() or (home / path).with_suffix(".py").is_file() for home in (REPOSITORY, ROOT))


def test_every_class_of_the_architecture_is_there() -> None:
    classes = [text.split("(")[0] for text in quoted(ARCHITECTURE)]
    classes = [name for name in classes if re.fullmatch(r"[A-Z][a-z0-9]+(?:[A-Z]\w+)?|[A-Z]\d[A-Z]\w+", name)]
    assert len(classes) > 15
    assert {name for name in classes if name not in names()[""]} - OUTSIDE == set()


def test_the_names_of_before_are_gone() -> None:
    text = ARCHITECTURE.read_text()
    old = ("Past", "Standing", "Watch", "Course", "Choice", "Witness", "Heard", "take_up", "encore", "excursion")
    assert [name for name in old if f"`{name}`" in text] == []


def test_the_glossary_has_twenty_words_and_decisions_are_numbered_once() -> None:
    text = ARCHITECTURE.read_text()
    glossary = text.split("## Twenty words")[1].split("## ")[0]
    assert len(re.findall(r"^\| \*\*", glossary, re.M)) == 20
    decisions = text.split("## Decisions")[1].split("## ")[0]
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", decisions, re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "](house.svg)" in text


def test_every_room_is_on_the_page() -> None:
    rooms = ARCHITECTURE.read_text().split("## The rooms")[1].split("### ")[0]
    for path in ROOT.iterdir():
        if (path / "__init__.py").is_file() or path.suffix == ".py":
            name = f"{path.name}/" if path.is_dir() else path.name
            assert f"`{name}`" in rooms, name
