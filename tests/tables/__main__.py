"""``python -m tests.tables``: write docs/coming-from-auptimizer.md, run every compressor, write docs/compressors.md."""

from __future__ import annotations

import sys

import torch

from tests.support.models import quantizer_table
from tests.tables import coming
from tests.tables.document import PAGE, page
from tests.tables.matrix import NETWORKS, PRUNERS, Outcome, run
from tests.tables.reloader import Reloader


def main() -> None:
    """Run everything, and write the pages."""
    coming.write()
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
