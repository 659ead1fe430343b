"""docs/house.svg shows the rooms and the imports of today, and what should not be is found and drawn red."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.tables.drawing import drawn
from tests.tables.house import CONTRACT, PICTURE, REPOSITORY, House, main

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def house() -> House:
    return House.of(REPOSITORY)


def ids(picture: str) -> set[str]:
    return {found for element in ElementTree.fromstring(picture).iter() if (found := element.get("id"))}


def test_every_import_runs_down_and_no_folder_is_crowded(house: House) -> None:
    assert house.wrong == []
    assert {"cli", "backend", "compressors", "script", "errors"} <= set(house.rooms)
    assert ("cli", "session") in house.arrows


def test_no_folder_of_the_project_shows_more_than_15_files() -> None:
    crowded = {}
    for top in ("raycompress", "configs", "cluster", "docs", "tests"):
        for folder in (REPOSITORY / top, *(path for path in (REPOSITORY / top).rglob("*") if path.is_dir())):
            files = [path for path in folder.iterdir() if path.is_file() and path.suffix not in (".pyc", ".pth")]
            if len(files) > 15:
                crowded[str(folder)] = len(files)
    assert crowded == {}


def test_the_picture_has_the_rooms_and_the_arrows_of_today(house: House) -> None:
    """Lines and files may be some commits old; rooms and arrows may not."""
    picture = (REPOSITORY / PICTURE).read_text(encoding="utf-8")
    assert ids(picture) == ids(drawn(house)), "run `make house`"
    assert ids(picture) == {*(f"room-{name}" for name in house.rooms), *(f"arrow-{a}-{b}" for a, b in house.arrows)}
    (shown,) = re.findall(r"files, ([\d,]+) lines; a folder", picture)
    lines = sum(room.lines for room in house.rooms.values())
    assert int(shown.replace(",", "")) == pytest.approx(lines, rel=0.05), "run `make house`"


def test_the_picture_stands_alone_in_light_and_dark(house: House) -> None:
    picture = drawn(house)
    assert "prefers-color-scheme: dark" in picture
    assert not re.findall(r"(?:href|src|url\()", picture)
    assert "none runs up" in picture and 'class="wrong"' not in picture


MODULES = {
    "__init__.py": "",
    "door.py": "import tiny.top\n",
    "top/__init__.py": '"""The top."""\n',
    "top/a.py": "from tiny.ground import low\nfrom tiny import middle\n",
    "middle.py": "def late():\n    from tiny.ground.low import x\n",
    "ground/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tiny import top\n",
    "ground/low.py": "x = 1\n",
}


def built(folder: Path, **changes: str) -> House:
    layers = ["top", "middle", "ground"]
    contract = f'name = "{CONTRACT}"\ncontainers = ["tiny"]\nexhaustive_ignores = ["door"]\nlayers = {layers}'
    (folder / "pyproject.toml").write_text(f"[[tool.importlinter.contracts]]\n{contract}\n")
    for name, text in {**MODULES, **changes}.items():
        (folder / "tiny" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tiny" / name).write_text(text)
    (folder / "docs").mkdir()
    return House.of(folder)


def test_imports_in_functions_count_and_those_for_checkers_do_not(tmp_path: Path) -> None:
    house = built(tmp_path)
    assert house.arrows == {("top", "ground"): 1, ("top", "middle"): 1, ("middle", "ground"): 1}
    assert house.wrong == []
    assert main(tmp_path) == 0
    assert 'class="line up"' not in (tmp_path / PICTURE).read_text()


def test_an_arrow_that_runs_up_is_red(tmp_path: Path) -> None:
    house = built(tmp_path, **{"ground/low.py": "def late():\n    import tiny.middle\n"})
    assert "ground imports middle, which is not below it" in house.wrong
    assert any(line.startswith("a circle of imports: tiny.") for line in house.wrong)  # each calls the other
    picture = drawn(house)
    assert 'id="arrow-ground-middle" class="head up"' in picture
    assert 'class="line up"' in picture and "1 run up" in picture
    assert main(tmp_path) == 1


def test_a_circle_inside_a_room_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low, other = "def late():\n    from tiny.ground import other\n", "from tiny.ground import low\n"
    built(tmp_path, **{"ground/low.py": low, "ground/other.py": other})
    assert main(tmp_path) == 1
    assert "a circle of imports: tiny.ground." in capsys.readouterr().err
    assert 'class="wrong"' in (tmp_path / PICTURE).read_text()


def test_a_crowded_folder_and_a_room_without_a_floor_are_told(tmp_path: Path) -> None:
    files = {f"ground/m{number}.py": "" for number in range(15)}
    house = built(tmp_path, **files, **{"attic.py": ""})
    assert house.wrong == [
        "attic stands on no floor of the contract in pyproject.toml",
        "tiny/ground/ shows 17 files, more than 15",
    ]
