"""``python -m tests.tables.house``, or `make house`: draw the rooms of raycompress/ and what imports what.

Floors stand in the order of the import contract in pyproject.toml. An import of a room above, a circle of modules, or a
folder with more than 15 files is drawn red, and the exit code is 1. Imports inside functions count, those for type
checkers alone do not.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PICTURE = "docs/house.svg"
MOST_FILES = 15
CONTRACT = "a room imports from the rooms below it alone"


@dataclass(frozen=True)
class Folder:
    """A folder with Python files: how many lie in it, not below it, with how many lines."""

    name: str
    files: int
    lines: int


@dataclass(frozen=True)
class Room:
    """A package or module right below raycompress/.

    Attributes
    ----------
    name, purpose
        What it is called, and the first sentence of its docstring.
    folders
        Its own folder, named by the empty text, and all those below; none of a module.
    files, lines
        All of it.
    """

    name: str
    purpose: str
    folders: tuple[Folder, ...]
    files: int
    lines: int


@dataclass
class House:
    """The import graph of a package.

    Attributes
    ----------
    root
        The folder of the package.
    floors
        Names of rooms from the top to the ground, those of one floor together.
    doors
        Modules beside the rooms that stand on no floor: what users import and run.
    """

    root: Path
    floors: list[list[str]]
    doors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, repository: Path) -> House:
        """Read the floors from the contract in pyproject.toml."""
        settings = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["importlinter"]
        (contract,) = (one for one in settings["contracts"] if one["name"] == CONTRACT)
        (package,) = contract["containers"]
        floors = [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
        return cls(repository / package, floors, contract.get("exhaustive_ignores", []))

    @cached_property
    def modules(self) -> dict[str, Path]:
        """Name -> file of every module, packages among them."""
        found = {}
        for file in sorted(self.root.rglob("*.py")):
            parts = file.relative_to(self.root.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
        return found

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Module -> modules of the package that it imports."""
        return {
            name: {target for target in _imported(ast.parse(file.read_text()), self.modules) if target != name}
            for name, file in self.modules.items()
        }

    @cached_property
    def rooms(self) -> dict[str, Room]:
        """The rooms in the order of their floors."""
        return {name: self._room(name) for floor in self.floors for name in floor}

    def _room(self, name: str) -> Room:
        file = self.modules[f"{self.root.name}.{name}"]
        is_module = file.name != "__init__.py"
        every = [file] if is_module else sorted(file.parent.rglob("*.py"))
        inside: dict[str, list[Path]] = {}
        for one in every:
            where = "" if is_module else one.parent.relative_to(self.root / name).as_posix()
            inside.setdefault(where, []).append(one)
        folders = [Folder(where.strip("."), len(files), _lines(files)) for where, files in sorted(inside.items())]
        doc = ast.get_docstring(ast.parse(file.read_text())) or ""
        purpose = doc.split("\n", 1)[0].partition(". ")[0].rstrip(".").replace("`", "")
        return Room(name, purpose, () if is_module else tuple(folders), len(every), _lines(every))

    def room_of(self, module: str) -> str:
        """Return the room that a module is in; empty for the package itself and its doors."""
        name = (*module.split(".", 2), "")[1]
        return name if name in self.rooms else ""

    @cached_property
    def arrows(self) -> dict[tuple[str, str], int]:
        """Importing and imported room -> number of imports, one a pair of modules."""
        found: dict[tuple[str, str], int] = {}
        for module, targets in self.imports.items():
            for target in targets:
                pair = self.room_of(module), self.room_of(target)
                if all(pair) and pair[0] != pair[1]:
                    found[pair] = found.get(pair, 0) + 1
        return found

    def floor(self, room: str) -> int:
        """Return the floor of a room, 0 for the top."""
        return next(number for number, names in enumerate(self.floors) if room in names)

    def goes_down(self, arrow: tuple[str, str]) -> bool:
        """Whether an arrow leads to a lower floor."""
        return self.floor(arrow[0]) < self.floor(arrow[1])

    @cached_property
    def wrong(self) -> list[str]:
        """What should not be, a line each."""
        top = {
            path.name.removesuffix(".py") for path in self.root.iterdir() if path.suffix == ".py" or _is_package(path)
        }
        homeless = sorted(top - set(self.rooms) - set(self.doors) - {"__init__"})
        crowded = [folder for folder in _folders(self.root) if folder.files > MOST_FILES]
        return [
            *(f"{name} stands on no floor of the contract in pyproject.toml" for name in homeless),
            *(f"{a} imports {b}, which is not below it" for a, b in self.arrows if not self.goes_down((a, b))),
            *(f"a circle of imports: {' -> '.join(circle)}" for circle in _circles(self.imports)),
            *(f"{one.name}/ shows {one.files} files, more than {MOST_FILES}" for one in crowded),
        ]


def _is_package(path: Path) -> bool:
    return path.is_dir() and (path / "__init__.py").is_file()


def _lines(files: list[Path]) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in files)


def _folders(root: Path) -> Iterator[Folder]:
    for folder in sorted({file.parent for file in root.rglob("*.py")}):
        files = list(folder.glob("*.py"))
        yield Folder(folder.relative_to(root.parent).as_posix(), len(files), _lines(files))


def _imported(node: ast.AST, modules: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules that code imports, wherever in it, but for what only type checkers read."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.If) and "TYPE_CHECKING" in ast.dump(inner.test):
            for other in inner.orelse:
                yield from _imported(other, modules)
        elif isinstance(inner, ast.Import):
            yield from (name.name for name in inner.names if name.name in modules)
        elif isinstance(inner, ast.ImportFrom) and inner.module is not None:
            for name in inner.names:
                full = f"{inner.module}.{name.name}"
                yield from (found for found in [full if full in modules else inner.module] if found in modules)
        else:
            yield from _imported(inner, modules)


def _circles(imports: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Yield circles of modules until none is left, each broken at one import."""
    left = {name: set(targets) for name, targets in imports.items()}
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = list(reversed(error.args[1]))  # an edge of the sorter leads from what is imported
            yield circle
            left[circle[0]].discard(circle[1])
        else:
            return


def main(repository: Path = REPOSITORY) -> int:
    """Draw the house into docs/; return 1 where something in it is wrong."""
    from tests.tables.drawing import drawn

    house = House.of(repository)
    (repository / PICTURE).write_text(drawn(house), encoding="utf-8")
    for line in house.wrong:
        print(f"error: {line}", file=sys.stderr)
    print(f"{PICTURE}: {len(house.rooms)} rooms, {len(house.arrows)} arrows, {len(house.wrong)} of it wrong")
    return 1 if house.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
