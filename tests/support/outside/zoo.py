"""The environment of the networks of other libraries, of `make zoo-dozen`."""

from __future__ import annotations

import pytest

from tests.support.launching import REPOSITORY

ENVIRONMENT = REPOSITORY / ".venv-zoo"
PYTHON = ENVIRONMENT / "bin" / "python"
needs_zoo = pytest.mark.skipif(
    not (ENVIRONMENT / ".installed").exists(), reason="no .venv-zoo: `make zoo-dozen` builds it"
)
