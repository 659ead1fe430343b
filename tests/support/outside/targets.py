"""The environment of the inference runtimes that cannot be installed beside raycompress's own tools."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.launching import REPOSITORY

VARIABLE = "RAYCOMPRESS_TARGETS_PYTHON"
_BUILT = REPOSITORY / ".venv-targets"
PYTHON = os.environ.get(VARIABLE) or str(_BUILT / "bin" / "python")
IS_THERE = Path(PYTHON).exists() and (VARIABLE in os.environ or (_BUILT / ".installed").exists())
"""Whether there is such an environment; one whose installation was broken off does not count."""
needs_targets = pytest.mark.skipif(
    not IS_THERE, reason=f"no .venv-targets: `make targets` builds it, or {VARIABLE} names its Python"
)
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX") or "g++") is None, reason="no C++ compiler, which torch.compile needs"
)
