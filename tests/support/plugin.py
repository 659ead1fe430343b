"""The plug-in of tests/plugin, made into a wheel and installed by pip, as a user would have it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent / "plugin"


def write_wheel(project: Path, into: Path) -> Path:
    """Write the wheel of a project of single modules, as its build backend would, which need not be installed."""
    facts = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    name, version = facts["name"].replace("-", "_"), facts["version"]
    points = [
        line
        for group, items in facts["entry-points"].items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in items.items()), "")
    ]
    home = f"{name}-{version}.dist-info"
    files = {
        f"{home}/METADATA": f"Metadata-Version: 2.1\nName: {facts['name']}\nVersion: {version}\n",
        f"{home}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{home}/entry_points.txt": "\n".join(points),
        **{module.name: module.read_text() for module in project.glob("*.py")},
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{home}/RECORD"])
    wheel = into / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{home}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel


def install(wheel: Path, into: Path) -> None:
    """Have pip install a wheel into a folder of its own."""
    words = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet", "--target", str(into), str(wheel)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def broken_project(folder: Path, name: str, points: dict[str, dict[str, str]], modules: dict[str, str]) -> Path:
    """Write a project of its own, with these entry points and modules."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = ["[project]", f'name = "{name}"', 'version = "2.0"']
    for group, items in points.items():
        lines += [
            f'[project.entry-points."raycompress.{group}"]',
            *(f'{key} = "{value}"' for key, value in items.items()),
        ]
    (folder / "pyproject.toml").write_text("\n".join(lines))
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    return folder


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-in of tests/plugin installed in it."""
    folder = tmp_path_factory.mktemp("plugin")
    install(write_wheel(PROJECT, folder), folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def plugin(installed: Path) -> Iterator[Path]:
    """The same, on the path of this process and of those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")])))
        yield installed
        sys.modules.pop("raycompress_example", None)
