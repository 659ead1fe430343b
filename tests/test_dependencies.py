"""What the code imports is declared in pyproject.toml, and what only an extra brings is imported on use."""

import ast
import importlib.util
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from raycompress.errors import MissingDependencyError
from raycompress.extras import check_installed, load_extra, unavailable
from tests.support.launching import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
BY_NAME = {"import_module", "load_extra", "find_spec"}
DECLARED_FOR_OTHERS = {"cloudpickle", "hyperopt", "tensorboard"}  # Ray Tune and NNI import them


class Import(NamedTuple):
    """An import of a module of somebody else's, and where it stands."""

    module: str
    place: str
    deferred: bool


class _Imports(ast.NodeVisitor):
    """The imports of one file; what is for type checkers alone is left out."""

    def __init__(self, path: Path) -> None:
        self.path = path.relative_to(REPOSITORY)
        self.depth = 0
        self.found: list[Import] = []

    def add(self, module: str, line: int) -> None:
        root = module.partition(".")[0]
        if root and root not in sys.stdlib_module_names and root != "raycompress":
            self.found.append(Import(root, f"{self.path}:{line}", self.depth > 0))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        for each in node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else [node.test, *node.body, *node.orelse]:
            self.visit(each)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0:
            self.add(node.module or "", node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in BY_NAME and node.args and isinstance(node.args[0], ast.Constant):
            self.add(str(node.args[0].value), node.lineno)
        self.generic_visit(node)


def imports(folder: Path) -> Iterator[Import]:
    for path in sorted(folder.rglob("*.py")):
        visitor = _Imports(path)
        visitor.visit(ast.parse(path.read_text()))
        yield from visitor.found


IMPORTS = [each for each in imports(REPOSITORY / "raycompress") if each.module != "__main__"]  # a script of the user's


def libraries(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


CORE = libraries(PROJECT["dependencies"])
EXTRAS = {name: libraries(lines) for name, lines in PROJECT["optional-dependencies"].items()}


def distributions() -> dict[str, set[str]]:
    """Module -> the distributions that bring it, as installed here."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, names in metadata.packages_distributions().items():
        found[module] = {canonicalize_name(name) for name in names}
    return found


def test_what_is_imported_is_declared() -> None:
    brought = distributions()
    declared = CORE.union(*(EXTRAS[name] for name in EXTRAS if name != "dev"))
    undeclared = [each for each in IMPORTS if not (brought[each.module] or {canonicalize_name(each.module)}) & declared]
    assert IMPORTS
    assert not undeclared


def test_what_is_declared_is_imported() -> None:
    brought = distributions()
    imported = {name for each in IMPORTS for name in (*brought[each.module], canonicalize_name(each.module))}
    assert not CORE - imported - DECLARED_FOR_OTHERS


def test_what_an_extra_brings_is_imported_on_use() -> None:
    brought = distributions()
    # a suite of tests is read by pytest alone
    at_once = [each for each in IMPORTS if not each.deferred and "raycompress/testing/" not in each.place]
    assert not [each for each in at_once if not (brought[each.module] or {canonicalize_name(each.module)}) & CORE]


@pytest.mark.parametrize(
    ("folder", "extra"),
    [
        ("digits", "demo"),
        ("digits_resnet", "demo"),
        ("digits_ddp", "demo"),
        ("digits_accelerate", "transformers"),
        ("digits_keras", "tensorflow"),
        ("digits_lightning", "lightning"),
        ("text", "transformers"),
        ("yolo", "ultralytics"),
    ],
)
def test_what_the_examples_need_is_the_core_and_the_extra_demo(folder: str, extra: str) -> None:
    brought = distributions()
    brought["keras"].add("tensorflow")  # which asks for it
    for library in ("transformers", "lightning", "ultralytics"):  # which may not be installed
        brought[library].add(library)
    brought["PIL"].add("ultralytics")  # which asks for it
    own = {path.stem for path in (REPOSITORY / "configs" / folder).glob("*.py")}
    found = [each for each in imports(REPOSITORY / "configs" / folder) if each.module not in own]
    assert not [each for each in found if not brought[each.module] & (CORE | EXTRAS["demo"] | EXTRAS[extra])]
    assert any(brought[each.module] & (EXTRAS["demo"] | EXTRAS[extra]) for each in found)


def test_pythons_are_named_alike_everywhere() -> None:
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert named == [version for version in (f"3.{minor}" for minor in range(8, 20)) if allowed.contains(version)]


@pytest.fixture
def extra_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an extra that has a library for another Python only, and one for every Python."""
    other = "3.12" if sys.version_info[:2] == (3, 11) else "3.11"
    folder = tmp_path / "raycompress-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: raycompress\nVersion: 0.1.0\nProvides-Extra: fancy\n"
        f"Requires-Dist: no-such-thing>=1; python_version == '{other}' and extra == 'fancy'\n"
        "Requires-Dist: such-a-thing>=1; extra == 'fancy'\nRequires-Dist: click\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return other


def test_what_an_extra_cannot_bring_on_this_python_is_told_by_name(extra_without: str) -> None:
    assert unavailable("fancy") == {"no-such-thing": (extra_without,)}
    with pytest.raises(MissingDependencyError) as caught:
        check_installed(("no_such_thing",), "raycompress[fancy]", "the picture", where="exp.json:3")
    (problem,) = caught.value.problems
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert problem.what == f"the picture needs no_such_thing, which the extra fancy cannot bring on Python {running}"
    assert problem.where == "exp.json:3"
    assert f"Python {extra_without}" in problem.fix


def test_what_it_could_bring_says_how_to_get_it(extra_without: str) -> None:
    for ask in (
        lambda: check_installed(("such_a_thing",), "raycompress[fancy]", "the picture"),
        lambda: load_extra("such_a_thing.part", "fancy", "the picture"),
    ):
        with pytest.raises(MissingDependencyError, match="needs such_a_thing, which is not installed") as caught:
            ask()
        assert caught.value.problems[0].fix == "pip install 'raycompress[fancy]'"
    assert importlib.util.find_spec("such_a_thing") is None
