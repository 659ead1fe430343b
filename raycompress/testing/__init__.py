"""Suites of tests that a plug-in, or another implementation of one of our protocols, must pass.

Subclass one in a test file of your own, say what it is about, and run pytest::

    from raycompress.testing.compressors import CompressorSuite


    class TestSpread(CompressorSuite):
        compressor = "spread"

They need pytest, which raycompress itself does not.
"""

from __future__ import annotations

import pytest

_SUITES = ("backends", "compressors", "exports", "proposers")

# so that a failed assertion shows its values, as in a test file of one's own
pytest.register_assert_rewrite(*(f"{__name__}.{suite}" for suite in _SUITES))
