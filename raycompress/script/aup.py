"""The namespace `aup` of Auptimizer's scripts: aliases of our functions, loaded on use.

It is there in the process of a trial and under ``raycompress exec``, and goes before any other module of that name.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES: dict[str, dict[str, str]] = {
    "aup": {
        "BasicConfig": "raycompress.script.config:BasicConfig",
        "aup_args": "raycompress.script.entry:aup_args",
        "aup_flags": "raycompress.script.entry:aup_flags",
        "aup_save_model": "raycompress.script.saving:aup_save_model",
        "print_result": "raycompress.script.report:print_result",
    },
    "aup.compression": {"create_compressor": "raycompress.compressors.create:create_compressor"},
    "aup.compression.counter": {"count_flops_params": "raycompress.compressors.interface:count_flops_params"},
    "aup.compression.mask_conflict": {
        "fix_mask_conflict": "raycompress.compressors.engines.nni.mask_conflict:fix_mask_conflict"
    },
    "aup.compression.sensitivity_analysis": {
        "SensitivityAnalysis": "raycompress.compressors.analysis.sensitivity_analysis:SensitivityAnalysis"
    },
    "aup.compression.shape_dependency": {
        "ChannelDependency": "raycompress.compressors.analysis.shape_dependency:ChannelDependency"
    },
}
"""Module -> its names, each with what it stands for as ``module:attribute``."""


class _Namespace(ModuleType):
    """A module whose names are looked up on use."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "Names of the old tool, see raycompress.script.aup.")
        self.__path__: list[str] = []  # a package, so that its members can be imported
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__all__ = list(NAMES[name])

    def __getattr__(self, name: str) -> Any:
        target = NAMES[self.__name__].get(name)
        if target is None:
            near = difflib.get_close_matches(name, dir(self), n=1)
            hint = f"; did you mean {near[0]!r}?" if near and not name.startswith("_") else ""
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}{hint}")
        module, _, attribute = target.partition(":")
        value = getattr(importlib.import_module(module), attribute)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        own = (name for name in self.__dict__ if not name.startswith("_"))
        return sorted({*own, *NAMES[self.__name__]})


def install() -> None:
    """Put the namespace into ``sys.modules``, in the place of any `aup` that is there."""
    if "aup" in sys.modules:  # to look at thousands of names costs a forked process 4 ms: it copies the pages
        for name in [name for name in sys.modules if name.partition(".")[0] == "aup"]:
            del sys.modules[name]
    modules = {name: _Namespace(name) for name in NAMES}
    for name, module in modules.items():
        above, _, last = name.rpartition(".")
        if above:
            setattr(modules[above], last, module)
    sys.modules.update(modules)


def modules_behind(name: str) -> tuple[str, ...]:
    """Return the modules that an import of `name`, ``aup`` or a part of it, stands for."""
    behind = (target.partition(":")[0] for target in NAMES.get(name, {}).values())
    return (__name__, *dict.fromkeys(behind))
