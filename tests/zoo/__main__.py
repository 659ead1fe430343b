"""``python -m tests.zoo``: every network of the catalogue, and docs/networks.md.

    python -m tests.zoo FILE ...

writes the page from lines that `tests.zoo.run` wrote before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.zoo import table
from tests.zoo.cell import TOLERANCE
from tests.zoo.run import cells


def main() -> None:
    """Run everything, or read what was run, and write the page."""
    files = [Path(name) for name in sys.argv[1:]]
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()] or list(cells(()))
    table.write(found, TOLERANCE)


if __name__ == "__main__":
    main()
