"""``python -m tests.zoo.minilm [FOLDER [SEARCH ...]]``: the searches, int8 by each way, and docs/minilm.md.

What the searches leave lies in FOLDER, a temporary one by default; a search whose results lie there is not run again.
All are run where none is named.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.zoo.minilm import page
from tests.zoo.minilm.measured import Bench
from tests.zoo.minilm.searched import SEARCHES, searched


def main() -> None:
    """Search, quantize, measure everything in one run, and write the page."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="minilm-")).resolve()
    found = {name: searched(name, folder) for name in sys.argv[2:] or SEARCHES}
    bench = Bench(folder)
    for name, one in found.items():
        bench.add(name, one.bundle)
    for start in ("dense", *found):
        bench.add_int8(start)
    page.write(found, bench.rows())


if __name__ == "__main__":
    main()
