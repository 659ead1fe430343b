"""A dozen networks that people have, of every kind, followed and compressed; `make zoo` does it with all of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.launching import REPOSITORY
from tests.support.outside.environments import ZOO
from tests.support.outside.needs import needs_zoo
from tests.zoo.compensated import section, section_of, with_section
from tests.zoo.compensating import ENGINE
from tests.zoo.generating import NETWORKS
from tests.zoo.table import PAGE

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


@needs_zoo
@pytest.mark.timeout(900)
def test_a_dozen_networks_are_followed_compressed_trained_on_and_loaded_again(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    command = [ZOO.python, "-m", "tests.zoo.run", "--lines", lines, *(f"{name}$" for name in DOZEN)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=840)
    found = {(cell["network"], cell["engine"]): cell for cell in map(json.loads, lines.read_text().splitlines())}
    assert {name for name, _ in found} == set(DOZEN)
    bad = {key: cell for key, cell in found.items() if cell["result"] != "ok" and key[1] != "l1_filter"}
    assert bad == {}
    convolutional = {name for name in DOZEN if found[name, "l1_filter"].get("where") != "config_list[0]"}
    assert {name: found[name, "l1_filter"]["result"] for name in convolutional} == dict.fromkeys(convolutional, "ok")
    assert len(convolutional) >= 6


@needs_zoo
@pytest.mark.timeout(300)
def test_decoders_with_grouped_keys_write_the_same_once_they_are_sliced() -> None:
    command = [ZOO.python, "-m", "tests.zoo.generating"]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=280)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["network"] for line in found} == set(NETWORKS)
    for line in found:
        assert line["difference"] < 1e-4, line
        assert line["same"], line
        assert line["cached"], line
        assert line["words"] > 5, line  # else any network would write the same
        assert (line["queries"], line["keys"], line["rotated"]) == (4, 2, 16), line


@needs_zoo
@pytest.mark.timeout(300)
def test_compensated_networks_are_proved_and_no_farther_than_as_pruned(tmp_path: Path) -> None:
    names = (
        "timm/lcnet_050",
        "transformers/LlamaForCausalLM",
        "transformers/FalconForCausalLM",
        "torch/TransformerEncoder",
    )
    lines = tmp_path / "lines"
    command = [ZOO.python, "-m", "tests.zoo.run", "--engine", ENGINE, "--lines", lines, *(f"{name}$" for name in names)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=280)
    found = {cell["network"]: cell for cell in map(json.loads, lines.read_text().splitlines())}
    assert set(found) == set(names)
    assert {cell["result"] for cell in found.values()} <= {"ok", "nothing"}, found
    assert found["transformers/FalconForCausalLM"]["layers"] > 0  # its linear layers have a forward() of their own


def test_the_section_about_compensation_counts_its_cells_and_stays_where_it_is_on_the_page() -> None:
    facts = {"engine": ENGINE, "parameters": 1e6, "proof": 1e-7, "spent": 0.5, "kept": True, "without": 1.0}
    good = {**facts, "network": "torch/RNN", "result": "ok", "by": 0.25, "unfitted": {"a": "why", "b": "why"}}
    bad = {**facts, "network": "torch/GRU", "result": "worse", "by": 1.5}
    text = section([bad, good], ["torch/RNN", "torch/GRU", "torch/LSTM"])
    assert "**1** nearer, or level, **1** farther by more than 2%" in text
    assert "GRU: farther by more than 2%: 1.5 instead of 1" in text and "the largest mostly: *LSTM*" in text
    assert "- 2 in 1 networks: why" in text
    page = PAGE.read_text()
    assert section_of(with_section(page, text)) == text
    assert with_section(with_section(page, text), section_of(page)) == page
