"""Bundles are loaded into fresh networks, in a process that has made none of them.

    python -m tests.zoo.reloading FILE

FILE holds a JSON list of ``[network, folder of the bundle]``; a line of JSON is printed for each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

import raycompress
from raycompress.bundle import bundle
from raycompress.compressors.measure.difference import relative_difference
from tests.zoo.networks.catalogue import catalogue


def main() -> None:
    """Load what the file names."""
    torch.set_num_threads(1)
    networks = catalogue()
    for name, folder in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps(reload(networks[name], Path(folder))), flush=True)


def reload(network: Any, folder: Path) -> dict[str, Any]:
    """Return the difference of the reloaded network's answers from those that were saved, or why there are none."""
    torch.manual_seed(1)  # other weights than the compressed network began with
    try:
        model = raycompress.load(folder, network.build())
        example, expected = bundle.reference(folder)
        return {"reloaded": relative_difference(expected, example.outputs(model))}
    except Exception as error:  # noqa: BLE001 - whatever it raises is in the table
        return {"reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


if __name__ == "__main__":
    main()
