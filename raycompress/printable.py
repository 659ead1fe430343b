"""Text from elsewhere (a file, a script, a journal), made fit to be shown on a terminal."""

from __future__ import annotations


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return `text` with each character that no terminal should be sent as its escape, such as ``\x1b``.

    Those are control characters, which could move the cursor or change what was written before, characters that turn
    the direction of writing, and halves of surrogate pairs, which cannot be encoded.

    Parameters
    ----------
    lines
        Whether line ends and tabs may stay; otherwise the result is one line.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        char if char.isprintable() or char in kept else char.encode("unicode_escape").decode() for char in text
    )
