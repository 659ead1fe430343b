"""The section "reproduce": the command, and the versions and files that it depends on."""

from __future__ import annotations

import json
import shlex
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from raycompress.bundle import bundle

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord


def as_html(record: SearchRecord) -> str:
    """Return the command that launches the experiment of `record` again, and what it was launched with."""
    seed = record.header.get("seed")
    facts = {
        "seed": "none was given: another launch proposes other values" if seed is None else str(seed),
        "kept copy of the file": str(record.folder.experiment),
        "launched on": str(record.header.get("host", "–")),
        **_versions(record),
    }
    rows = "".join(
        f'<tr><th scope="row" class="word">{escape(name)}</th><td class="word"><code>{escape(value)}</code></td></tr>'
        for name, value in facts.items()
    )
    why, commands = _commands(record)
    note = f'<p class="quiet">{escape(why)}</p>' if why else ""
    return f'{note}<pre>{escape(commands)}</pre><table class="reproduce"><tbody>{rows}</tbody></table>'


def _commands(record: SearchRecord) -> tuple[str, str]:
    """Return why it takes more than a launch, if it does, and the commands."""
    kept = record.folder.experiment
    launched = Path(record.header.get("file", kept))
    if not kept.exists() or _bytes(launched) == _bytes(kept):
        return "", shlex.join(["raycompress", "launch", str(launched)])
    # beside the first one, since the paths in it are relative to where it stands
    again = launched.with_name(f"{record.id}.json")
    why = "has changed since" if launched.exists() else "is gone"
    return (
        f"The file that was launched, {launched}, {why}; its kept copy stands for it.",
        f"{shlex.join(['cp', str(kept), str(again)])}\n{shlex.join(['raycompress', 'launch', str(again)])}",
    )


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _versions(record: SearchRecord) -> dict[str, str]:
    """Return what the best bundle was made with; nothing without one."""
    if record.bundle is None:
        return {}
    try:
        manifest = json.loads((record.bundle / bundle.MANIFEST).read_text(encoding="utf-8"))
        return {str(name): str(release) for name, release in manifest["versions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # `raycompress best --verify` says what is wrong with it; the report is of the search
