"""`transformers.Trainer`, and models that stock ``from_pretrained`` loads: the extra ``raycompress[transformers]``.

::

    from raycompress.integrations.transformers import compress_trainer

    compression = compress_trainer(trainer, config)
    trainer.train()
    compression.save_pretrained("small")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from raycompress.extras import load_extra

if TYPE_CHECKING:
    from raycompress.integrations.transformers.compression import TrainerCompression as TrainerCompression
    from raycompress.integrations.transformers.compression import compress_trainer as compress_trainer
    from raycompress.integrations.transformers.save import Saved as Saved
    from raycompress.integrations.transformers.save import save_pretrained as save_pretrained

_HOMES = {
    "Saved": "save",
    "TrainerCompression": "compression",
    "compress_trainer": "compression",
    "save_pretrained": "save",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    load_extra("transformers", "transformers", name)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
