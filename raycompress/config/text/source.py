"""The text of an experiment file, and how a place in it is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raycompress.config.text.reader import JsonPath
from raycompress.errors import ExperimentError
from raycompress.text import did_you_mean, dotted


def text_of(path: Path) -> str:
    """Return what an experiment file says to the letter; raise an ExperimentError where it cannot be read."""
    where = str(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        files = path.parent.iterdir() if path.parent.is_dir() else ()
        beside = sorted(file.name for file in files if file.suffix in (".json", ".jsonc"))
        fix = did_you_mean(path.name, beside) or "write the path of an experiment file"
        raise ExperimentError("there is no such file", where=where, fix=fix) from None
    except IsADirectoryError:
        raise ExperimentError("this is a folder", where=where, fix="write the path of a file in it") from None
    except UnicodeDecodeError as error:
        fix = "save the file as UTF-8"
        raise ExperimentError(f"the file is no UTF-8 text (byte {error.start})", where=where, fix=fix) from None
    except OSError as error:
        raise ExperimentError(f"the file cannot be read: {error.strerror}", where=where) from None


def where_in(file: str, lines: Mapping[JsonPath, int], path: JsonPath) -> str:
    """Return file, line and path of what stands at `path`; of a key left out the line it belongs under."""
    known = path
    while known and known not in lines:
        known = known[:-1]
    return f"{file}:{lines.get(known, 1)}  {dotted(path)}".rstrip()
