"""The body of a trial: the digits script, run by hand, in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[3] / "configs" / "digits" / "train.py"


def score_in(output: str) -> float:
    """Return the score that the script printed."""
    return float(next(line for line in output.splitlines() if line.startswith("score: ")).removeprefix("score: "))


def run_body(config: dict[str, Any]) -> float:
    """Run the script's main function on `config` and return the score; the first call imports torch."""
    if str(SCRIPT.parent) not in sys.path:
        sys.path.insert(0, str(SCRIPT.parent))
    import torch
    import train  # type: ignore[import-not-found]

    import raycompress as rc

    torch.set_num_threads(1)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        train.main(rc.BasicConfig(config))
    return score_in(output.getvalue())
