"""A dozen networks that people have, of every kind, followed and sliced; `make zoo` does it with all of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.launching import REPOSITORY

PYTHON = REPOSITORY / ".venv-zoo" / "bin" / "python"
DOZEN = (
    "torchvision/resnet50",
    "torchvision/vit_b_16",
    "torchvision/swin_t",
    "torchvision/ssdlite320_mobilenet_v3_large",
    "timm/convnextv2_atto",
    "timm/res2net50_26w_4s",
    "timm/xcit_nano_12_p16_224",
    "transformers/LlamaForCausalLM",
    "transformers/MixtralForCausalLM",
    "transformers/T5ForConditionalGeneration",
    "smp/Unet",
    "ultralytics/yolo11n",
)


@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-zoo: `make zoo` builds it")
@pytest.mark.timeout(900)
def test_a_dozen_networks_are_sliced_to_what_the_masked_ones_compute(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    command = [PYTHON, "-m", "tests.zoo.run", "--lines", lines, *DOZEN]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=840)
    found = {cell["network"]: cell for cell in map(json.loads, lines.read_text().splitlines())}
    assert set(DOZEN) <= set(found)
    assert {name: cell for name, cell in found.items() if cell["result"] != "ok"} == {}
