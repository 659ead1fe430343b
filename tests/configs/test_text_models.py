"""The shipped examples of `transformers.Trainer`, by hand and as a search, save what stock transformers loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raycompress.bundle import bundle
from raycompress.jsonc import as_json
from tests.support.commands import run
from tests.support.launching import REPOSITORY, raycompress

transformers = pytest.importorskip("transformers")

TEXT = REPOSITORY / "configs" / "text"
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}


@pytest.mark.parametrize(("name", "auto"), [("llama", "AutoModelForCausalLM"), ("bert", "AutoModelForMaskedLM")])
def test_a_script_by_hand_prints_its_losses_and_saves_what_stock_transformers_loads(
    name: str, auto: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(TEXT / f"{name}.py"), str(TEXT / "config.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    half, last = (float(line.split(": ")[1]) for line in done.stdout.splitlines() if line.startswith("eval_loss: "))
    assert last < half < 4
    model = getattr(transformers, auto).from_pretrained(tmp_path / "small")
    assert {size: getattr(model.config, size) for size in SIZES} == SIZES
    assert model(input_ids=torch.arange(65, 97)[None]).logits.shape == (1, 32, 128)


def test_a_search_reports_each_evaluation_and_its_best_model_is_stock(tmp_path: Path) -> None:
    keys = {"script": str(TEXT / "llama.py"), "proposer": "passive", "n_samples": 1}  # in a process, without Ray
    experiment = {**json.loads(as_json((TEXT / "llama.json").read_text())), **keys}
    (tmp_path / "exp.json").write_text(json.dumps(experiment))
    launched = raycompress(tmp_path, "launch", "exp.json")
    assert launched.code == 0, launched.err
    best = launched.record.best
    assert best is not None and best.values["eval_loss"] < 4
    (small,) = launched.record.folder.root.rglob("small")
    model = transformers.AutoModelForCausalLM.from_pretrained(small)
    assert sum(one.numel() for one in model.parameters()) == best.after["params"]


def test_the_example_of_a_tenth_of_the_bytes_passes_validate() -> None:
    code, out, err = run("validate", str(TEXT / "tenth.json"))
    assert code == 0, out + err


@pytest.mark.night
@pytest.mark.timeout(900)
def test_the_example_of_a_tenth_of_the_bytes_loses_at_most_a_point(tmp_path: Path) -> None:
    shutil.copytree(TEXT, tmp_path / "text")
    launched = raycompress(tmp_path / "text", "launch", "tenth.json", timeout=600)
    assert launched.code == 0, launched.err
    best, dense, manifest = launched.record.best, launched.record.baseline, bundle.read(launched.record.bundle)
    assert best is not None and best.values and dense is not None and dense.values
    assert dense.values["accuracy"] > 0.6 and best.values["accuracy"] >= dense.values["accuracy"] - 0.01
    assert manifest.after.size_bytes <= 0.1 * manifest.before.size_bytes
