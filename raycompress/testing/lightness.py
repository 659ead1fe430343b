"""That a catalogue entry is read without the libraries that only the work itself needs."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("nni", "ray", "tensorflow", "torch")


def heavy_imports(catalogue: str, name: str) -> list[str]:
    """Return which of `HEAVY` a fresh process has imported once it has found `name` in a catalogue.

    Parameters
    ----------
    catalogue
        ``module:attribute`` of a `raycompress.catalog.catalogue.Catalogue`.
    """
    module, _, attribute = catalogue.partition(":")
    source = (
        f"import sys; from {module} import {attribute} as catalogue; sys.path[:0] = {sys.path!r}\n"
        f"assert catalogue.find({name!r}), 'not found'\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise AssertionError(f'"{name}" was not found in {catalogue}:\n{done.stderr}')
    return done.stdout.split()
