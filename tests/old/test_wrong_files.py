"""Experiment files of the old kind with a mistake in them: line and fix are told, and nothing is run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.shared_ray import run_here

MISTAKES = {
    "a comma is missing": ('"resource": "cpu",', '"resource": "cpu"', 4, "comma"),
    "Python's True": ('"resource": "cpu"', '"baseline": True', 4, "true"),
    "single quotes": ('"resource": "cpu"', "'resource': 'cpu'", 4, '"resource"'),
    "a compressor that there is not": ('"l1_filter"', '"l1_filer"', 8, "l1_filter"),
    "a layer that there is not": ('"conv2"', '"conv_2"', 25, "conv2"),
}
"""Mistake -> what stands in the file, what is written instead, in which line, and what the fix speaks of."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_anything_is_run(mistake: str, home: Path, tmp_path: Path) -> None:
    right, wrong, line, fix = MISTAKES[mistake]
    folder = tmp_path / "experiments"
    shutil.copytree(home, folder)
    file = folder / "one_time_l1_filter.json"
    text = file.read_text()
    assert text.count(right) == 1
    file.write_text(text.replace(right, wrong))
    done = run_here(folder, "run", file.name)
    assert done.code == 2, done.out + done.err
    assert f"{file.name}:{line}" in done.err
    assert fix in done.err
    assert "Traceback" not in done.err
    assert not (folder / "raycompress_results").exists()
