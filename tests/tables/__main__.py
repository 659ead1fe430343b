"""``python -m tests.tables``: run every pruner on every network, every quantizer, and write docs/compressors.md."""

from __future__ import annotations

import sys

import torch

from tests.compressors import quantizer_table
from tests.tables.document import PAGE, page
from tests.tables.matrix import NETWORKS, PRUNERS, Outcome, run
from tests.tables.reloader import Reloader


def main() -> None:
    """Run everything, and write the page."""
    torch.set_num_threads(1)
    matrix: dict[tuple[str, str], Outcome] = {}
    with Reloader() as reloader:
        for network in NETWORKS:
            for pruner in PRUNERS:
                matrix[pruner, network] = run(pruner, network, reloader)
            print(f"{network} done", file=sys.stderr, flush=True)
    PAGE.write_text(page(matrix, quantizer_table.rows()))


if __name__ == "__main__":
    main()
