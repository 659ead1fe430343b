"""Lightning's Trainer (``lightning.pytorch``, or ``pytorch_lightning``): the extra ``raycompress[lightning]``.

::

    from raycompress.integrations.lightning import compress_trainer

    compression = compress_trainer(trainer, config)
    trainer.fit(module, train, held_out)
    compression.save("small")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycompress.integrations.lightning.compression import TrainerCompression as TrainerCompression
    from raycompress.integrations.lightning.compression import compress_trainer as compress_trainer

_HOMES = {"TrainerCompression": "compression", "compress_trainer": "compression"}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(f"{__name__}.library").loaded(name)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
