"""A dozen networks that people have, of every kind, followed and compressed; `make zoo` does it with all of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.launching import REPOSITORY
from tests.zoo.generating import NETWORKS

ENVIRONMENT = REPOSITORY / ".venv-zoo"
PYTHON = ENVIRONMENT / "bin" / "python"
needs_environment = pytest.mark.skipif(
    not (ENVIRONMENT / ".installed").exists(), reason="no .venv-zoo: `make zoo-dozen` builds it"
)
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


@needs_environment
@pytest.mark.timeout(900)
def test_a_dozen_networks_are_followed_compressed_trained_on_and_loaded_again(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    command = [PYTHON, "-m", "tests.zoo.run", "--lines", lines, *(f"{name}$" for name in DOZEN)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=840)
    found = {(cell["network"], cell["engine"]): cell for cell in map(json.loads, lines.read_text().splitlines())}
    assert {name for name, _ in found} == set(DOZEN)
    bad = {key: cell for key, cell in found.items() if cell["result"] != "ok" and key[1] != "l1_filter"}
    assert bad == {}
    convolutional = {name for name in DOZEN if found[name, "l1_filter"].get("where") != "config_list[0]"}
    assert {name: found[name, "l1_filter"]["result"] for name in convolutional} == dict.fromkeys(convolutional, "ok")
    assert len(convolutional) >= 6


@needs_environment
@pytest.mark.timeout(300)
def test_decoders_with_grouped_keys_write_the_same_once_they_are_sliced() -> None:
    command = [PYTHON, "-m", "tests.zoo.generating"]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=280)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["network"] for line in found} == set(NETWORKS)
    for line in found:
        assert line["difference"] < 1e-4, line
        assert line["same"], line
        assert line["cached"], line
        assert line["words"] > 5, line  # else any network would write the same
        assert (line["queries"], line["keys"], line["rotated"]) == (4, 2, 16), line
