"""What docs/python.md and docs/python.ipynb show runs as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launching import DIGITS, REPOSITORY

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

PAGE = REPOSITORY / "docs" / "python.md"
NOTEBOOK = REPOSITORY / "docs" / "python.ipynb"


@pytest.mark.night
def test_every_example_of_the_page_runs_one_after_the_other(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) >= 6
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(blocks) + "\n\n    print(len(record.searched), type(model).__name__)\n")
    shipped = json.loads((DIGITS / "auto_l1.json").read_text())
    (tmp_path / "exp.json").write_text(json.dumps({**shipped, "workingdir": str(DIGITS)}))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "4 Net"
    assert "other_results" in {path.name for path in tmp_path.iterdir()}


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    from nbconvert.preprocessors import ExecutePreprocessor

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    ran, _ = ExecutePreprocessor(timeout=500).preprocess(notebook, {"metadata": {"path": str(tmp_path)}})

    shown = {cell["id"]: cell["outputs"] for cell in ran.cells if cell.cell_type == "code"}
    results = [output["data"] for outputs in shown.values() for output in outputs if "data" in output]
    pages = [data["text/html"] for data in results if "text/html" in data]
    assert len(pages) == 3 and "latency" in pages[0] and "best, trial" in pages[1] and "after.params" in pages[2]
    printed = "".join(
        output["text"] for outputs in shown.values() for output in outputs if output.get("name") == "stdout"
    )
    assert all(
        text in printed for text in ("inspecting the model", "group_l1, optuna", "dense model: accuracy", "resumed")
    )
    errors = [output["text"] for outputs in shown.values() for output in outputs if output.get("name") == "stderr"]
    assert "raycompress" not in "".join(errors), "other libraries ask for ipywidgets, which is not installed here"
    accuracy, left, front = eval(results[-1]["text/plain"])
    assert accuracy > 0.9 and left <= 0.5 and front >= 1
