"""Scripts that are modules of a package: ``python -m pkg.train``, and files with relative imports."""

from __future__ import annotations

import ast
from importlib.machinery import PathFinder
from pathlib import Path


def module_file(module: str, folder: Path) -> Path | None:
    """Return the file that ``python -m module``, run in `folder`, would run; None where there is none.

    Nothing is imported. A package stands for its ``__main__``.
    """
    places: list[str] | None = [str(folder)]
    found = None
    for last, part in enumerate(module.split("."), 1 - len(module.split("."))):
        # installed ones as well: they are looked for after the folder
        found = PathFinder.find_spec(part, places) or (PathFinder.find_spec(part) if places == [str(folder)] else None)
        if found is None or (last and found.submodule_search_locations is None):
            return None
        places = list(found.submodule_search_locations or ())
    if found is not None and places:
        found = PathFinder.find_spec("__main__", places)
    return None if found is None or found.origin is None else Path(found.origin)


def place_of(script: Path, source: bytes, module: str = "") -> tuple[Path, str]:
    """Return the folder that a script's imports start from, and the package that it is a member of.

    By hand that is the script's own folder and no package. A script with relative imports, which Python refuses then,
    is a member of the packages that it lies in, and so is one that is named as a `module`.
    """
    if module:
        package = (
            module if script.name == "__main__.py" and not module.endswith("__main__") else module.rpartition(".")[0]
        )
        depth = len(package.split(".")) if package else 0
    else:
        levels = _levels(source)
        depth = max(levels, _packages(script.parent)) if levels else 0
        package = ".".join(part for part in script.parent.parts[len(script.parent.parts) - depth :] if depth)
    home = script.parent
    for _ in range(depth):
        home = home.parent
    return home, package


def _packages(folder: Path) -> int:
    """Return how many packages `folder` and those above it are, one inside the other."""
    count = 0
    while (folder / "__init__.py").is_file():
        folder, count = folder.parent, count + 1
    return count


def _levels(source: bytes) -> int:
    """Return the most dots that a relative import of a script begins with."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # told, with its line, when the script runs
        return 0
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)
