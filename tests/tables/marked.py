"""Pages that hold prose by hand and parts that are made: ``<!-- name -->`` to ``<!-- end -->``."""

from __future__ import annotations

from collections.abc import Mapping

_END = "<!-- end -->"


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Return the page with what is between the marks of each part made anew.

    Raises
    ------
    ValueError
        The page has no such mark, or no end behind it.
    """
    for name, text in parts.items():
        begin = f"<!-- {name} -->"
        before, mark, rest = page.partition(begin)
        _, end, after = rest.partition(_END)
        if not mark or not end:
            raise ValueError(f"the page has no {begin} with {_END} behind it")
        page = f"{before}{begin}\n{text.strip()}\n{end}{after}"
    return page
