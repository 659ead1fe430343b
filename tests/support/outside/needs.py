"""Marks of tests that need what is not everywhere, and are left out by name where it is missing."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support.outside.environments import TARGETS, ZOO

needs_zoo = pytest.mark.skipif(not ZOO.is_there, reason=ZOO.missing)
needs_targets = pytest.mark.skipif(not TARGETS.is_there, reason=TARGETS.missing)
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX") or "g++") is None, reason="no C++ compiler, which torch.compile needs"
)
