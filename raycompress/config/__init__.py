"""What the user wrote, understood.

The name ``raycompress.config`` is this package and the decorator of scripts as well: a module can be callable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class _DecoratorToo(ModuleType):
    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        from raycompress.script.entry import experiment

        return experiment(function)


sys.modules[__name__].__class__ = _DecoratorToo
