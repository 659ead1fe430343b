"""The picture of the house: an SVG that stands alone, in light and dark.

Left the rooms, a band for each floor. Right the imports, as a staircase: from the step of a room a line runs down, with
an arrowhead on each floor that it imports from. What runs up is red.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from html import escape

from tests.tables.house import MOST_FILES, Folder, House, Room

_WIDTH, _BOX, _STEP = 1080, 640, 22
_LEFT = 24
_STAIRS = _BOX + 34
_CHIP, _LETTER = 20, 6.7
_WRAP = 100


def drawn(house: House) -> str:
    """Return the picture of a house."""
    tops: dict[str, float] = {}
    bands: list[str] = []
    y = 92.0
    for number, names in enumerate(house.floors):
        height = sum(_height(house.rooms[name]) for name in names)
        bands.append(
            f'<rect class="band b{number % 2}" x="8" y="{y:g}" width="{_WIDTH - 16}" height="{height:g}" rx="8"/>'
        )
        for name in names:
            tops[name] = y
            bands.extend(_room(house.rooms[name], y, number))
            y += _height(house.rooms[name])
        y += 6
    wrong = [line for text in house.wrong for line in textwrap.wrap(text, 140)]
    notes = [
        f'<text class="wrong" x="{_LEFT}" y="{y + 20 + 18 * at:g}">{escape(text)}</text>'
        for at, text in enumerate(wrong)
    ]
    height = y + 10 + (18 * len(wrong) + 14 if wrong else 0)
    parts = [*_head(house, height), *bands, *_stairs(house, tops), *notes]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _head(house: House, height: float) -> Iterator[str]:
    files, lines = (sum(getattr(room, what) for room in house.rooms.values()) for what in ("files", "lines"))
    up = sum(not house.goes_down(arrow) for arrow in house.arrows)
    label = "The rooms of raycompress, floor by floor, and their imports"
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{label}">'
    yield f"<style>{_style(len(house.floors))}</style>"
    yield f'<rect class="page" width="{_WIDTH}" height="{height:g}" rx="10"/>'
    yield f'<text class="title" x="{_LEFT}" y="38">The house of raycompress</text>'
    about = (
        f"{len(house.rooms)} rooms, {files} files, {_rounded(lines)} lines; a folder shows {MOST_FILES} files at most"
    )
    yield f'<text class="purpose" x="{_LEFT}" y="60">{about}</text>'
    yield f'<text class="purpose" x="{_STAIRS}" y="38">what a room imports: down from its step,</text>'
    yield f'<text class="purpose" x="{_STAIRS}" y="54">an arrowhead on each floor it takes from</text>'
    state = f"{up} run up" if up else "none runs up"
    yield f'<text class="purpose" x="{_STAIRS}" y="70">{len(house.arrows)} arrows, {state}</text>'


def _rounded(lines: int) -> str:
    """Return a number of lines to the hundred, so that the picture is not another one after each commit."""
    return f"{max(round(lines, -2), 100):,}" if lines >= 100 else "under 100"


def _chips(room: Room) -> Iterator[list[Folder]]:
    """Yield the folders in a room, line by line, as many as there is room for."""
    line: list[Folder] = []
    width = 0.0
    for folder in room.folders:
        if not folder.name or (folder.files == 1 and any(_holds(folder, other) for other in room.folders)):
            continue
        width += _chip_width(folder) + 6
        if line and width > _BOX - _LEFT - 16:
            yield line
            line, width = [], _chip_width(folder) + 6
        line.append(folder)
    if line:
        yield line


def _holds(folder: Folder, other: Folder) -> bool:
    return other.name.startswith(f"{folder.name}/")


def _chip_width(folder: Folder) -> float:
    return (len(folder.name) + len(str(folder.files)) + 1) * _LETTER + 16


def _height(room: Room) -> float:
    if not room.folders:
        return 28 + 16 * (len(_purpose(room)) - 1)
    return 36 + 16 * len(_purpose(room)) + (_CHIP + 4) * len(list(_chips(room)))


def _purpose(room: Room) -> list[str]:
    return textwrap.wrap(room.purpose, _WRAP if room.folders else 66)


def _room(room: Room, top: float, number: int) -> Iterator[str]:
    yield f'<g id="room-{room.name}">'
    edge = 5 if room.folders else 2
    size = f'y="{top + edge:g}" width="5" height="{_height(room) - 2 * edge:g}"'
    yield f'<rect class="f{number}" x="8" {size} rx="2.5"/>'
    name = f"{room.name}/" if room.folders else f"{room.name}.py"
    y = top + 22 if room.folders else top + 18
    yield f'<text class="name" x="{_LEFT}" y="{y:g}">{name}</text>'
    own = next((folder.files for folder in room.folders if not folder.name), 0)
    counted = f"{room.files} files, {own} of them here, {_rounded(room.lines)} lines" if len(room.folders) > 1 else ""
    counted = counted or (f"{room.files} files, " if room.folders else "") + f"{_rounded(room.lines)} lines"
    yield f'<text class="number" x="{_BOX}" y="{y:g}">{counted}</text>'
    x = _LEFT if room.folders else _LEFT + 100
    for line in _purpose(room):
        y += 16 if room.folders else 0
        yield f'<text class="purpose" x="{x}" y="{y:g}">{escape(line)}</text>'
        y += 0 if room.folders else 16
    y += 8
    for line in _chips(room):
        yield from _chip_line(line, y, number)
        y += _CHIP + 4
    yield "</g>"


def _chip_line(folders: list[Folder], top: float, number: int) -> Iterator[str]:
    x = float(_LEFT)
    for folder in folders:
        width = _chip_width(folder)
        crowded = " crowded" if folder.files > MOST_FILES else ""
        size = f'x="{x:g}" y="{top:g}" width="{width:g}" height="{_CHIP}"'
        yield f'<rect class="chip c{number}{crowded}" {size} rx="10"/>'
        text = f'{folder.name} <tspan class="count">{folder.files}</tspan>'
        yield f'<text class="folder" x="{x + 8:g}" y="{top + 14:g}">{text}</text>'
        x += width + 6


def _stairs(house: House, tops: dict[str, float]) -> Iterator[str]:
    importing = [name for name in house.rooms if any(name == a for a, _ in house.arrows)]
    step = min(_STEP, (_WIDTH - _STAIRS - 80) / max(len(importing) - 1, 1))
    for column, name in enumerate(importing):
        x, y = round(_STAIRS + 6 + column * step, 1), _middle(house.rooms[name], tops)
        number = house.floor(name)
        targets = [b for a, b in house.arrows if a == name]
        yield f'<circle class="d{number}" cx="{x:g}" cy="{y:g}" r="4"/>'
        yield f'<text class="step" x="{x + 9:g}" y="{y + 4:g}">{name}</text>'
        for up in (True, False):
            ends = [target for target in targets if house.goes_down((name, target)) is not up]
            yield from _line(house, name, ends, (x, y), tops, "up" if up else f"l{number}")


def _middle(room: Room, tops: dict[str, float]) -> float:
    return tops[room.name] + (17 if room.folders else 13)


def _line(
    house: House, name: str, targets: list[str], start: tuple[float, float], tops: dict[str, float], style: str
) -> Iterator[str]:
    x, y = start
    heights = {target: _middle(house.rooms[target], tops) for target in targets}
    if not heights:
        return
    end = max(heights.values(), key=lambda height: abs(height - y))
    yield f'<path class="line {style}" d="M{x:g} {y:g}V{end:g}"/>'
    for target, height in sorted(heights.items(), key=lambda pair: pair[1]):
        tip = 5 if height > y else -5
        many = house.arrows[name, target]
        title = f"{name} imports {target}, {many} {'time' if many == 1 else 'times'}"
        shape = f"M{x - 4.5:g} {height - tip:g}h9l-4.5 {1.8 * tip:g}z"
        yield f'<path id="arrow-{name}-{target}" class="head {style}" d="{shape}"><title>{title}</title></path>'


def _style(floors: int) -> str:
    light, dark = ([_hue(number, floors, *shades) for number in range(floors)] for shades in ((62, 40), (58, 66)))
    return _CSS + _colours(light) + "@media (prefers-color-scheme: dark){" + _DARK + _colours(dark) + "}"


def _hue(number: int, floors: int, saturation: int, lightness: int) -> str:
    return f"hsl({250 - round(number * 220 / max(floors - 1, 1)) % 360},{saturation}%,{lightness}%)"


def _colours(hues: list[str]) -> str:
    return "".join(
        f".f{n},.d{n},.head.l{n}{{fill:{hue}}}.line.l{n},.c{n}{{stroke:{hue}}}" for n, hue in enumerate(hues)
    )


_CSS = """
text{font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328}
.page{fill:#fff}.band{fill:#f6f8fa}.b1{fill:#eef1f4}
.title{font-size:20px;font-weight:600}.name{font-size:15px;font-weight:600}
.purpose,.number,.step{font-size:12px;fill:#59636e}.number{text-anchor:end}.step{font-size:11px}
.folder{font-size:11px;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.count{fill:#59636e}.chip{fill:#fff;stroke-opacity:.45}
.line{fill:none;stroke-width:1.6;stroke-opacity:.75}.crowded,.line.up{stroke:#d1242f;stroke-opacity:1;stroke-width:2.5}
.head.up,.wrong{fill:#d1242f}.wrong{font-size:13px;font-weight:600}
"""
_DARK = """
text{fill:#e6edf3}.page{fill:#0d1117}.band{fill:#151b23}.b1{fill:#1b222c}.chip{fill:#0d1117}
.purpose,.number,.step,.count{fill:#9198a1}.crowded,.line.up{stroke:#ff6b6b}.head.up,.wrong{fill:#ff6b6b}
"""
