"""The environment of the inference runtimes that cannot be installed beside raycompress's own tools."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.launching import REPOSITORY

VARIABLE = "RAYCOMPRESS_TARGETS_PYTHON"
PYTHON = os.environ.get(VARIABLE) or str(REPOSITORY / ".venv-targets" / "bin" / "python")
needs_targets = pytest.mark.skipif(
    not Path(PYTHON).exists(), reason=f"no .venv-targets: `make targets` builds it, or {VARIABLE} names its Python"
)
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX") or "g++") is None, reason="no C++ compiler, which torch.compile needs"
)
