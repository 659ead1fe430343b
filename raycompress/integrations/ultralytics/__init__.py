"""The trainers of ultralytics: the extra ``raycompress[ultralytics]``, which is AGPL-3.0 and not part of any other.

::

    from raycompress.integrations.ultralytics import compress_yolo

    compression = compress_yolo(model, config)
    model.train(data="boxes.yaml", epochs=10)

Nothing of ultralytics is imported here: it comes with the model that the script has made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from raycompress.extras import check_installed

if TYPE_CHECKING:
    from raycompress.integrations.ultralytics.compression import YoloCompression as YoloCompression
    from raycompress.integrations.ultralytics.compression import compress_yolo as compress_yolo

__all__ = ["YoloCompression", "compress_yolo"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_installed(("ultralytics",), "raycompress[ultralytics]", name, "import ultralytics")
    return getattr(importlib.import_module(f"{__name__}.compression"), name)
