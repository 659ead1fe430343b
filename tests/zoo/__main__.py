"""``python -m tests.zoo``: every network of the catalogue, and docs/networks.md.

    python -m tests.zoo FILE ...

prints the page's summary for lines that `tests.zoo.run` wrote before, and leaves the page as it is.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.zoo import table
from tests.zoo.run import EVERY, cells


def main() -> None:
    """Run everything and write the page, or tell what was run."""
    if len(sys.argv) > 1:
        lines = [json.loads(line) for file in sys.argv[1:] for line in Path(file).read_text().splitlines()]
        print(table.page(lines).partition("\n## Followed")[0])
        return
    started = time.monotonic()
    table.write(cells((), EVERY))
    print(f"{table.PAGE} is written, after {(time.monotonic() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
