"""``python -m tests.zoo.blocks [all]``: the residual blocks of networks that people have, into docs/search/depth.md."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import raycompress as rc
from raycompress.bundle.example import Example
from raycompress.compressors.depth.finding import ResidualBlock, residual_blocks
from raycompress.compressors.depth.proof import prove
from raycompress.compressors.masking.masks import FirstCall
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.measure.sizes import parameters
from raycompress.errors import RaycompressError
from raycompress.script.config import DEPTH_KEY
from tests.zoo.networks.catalogue import catalogue
from tests.zoo.networks.network import Network

PAGE = Path(__file__).parents[2] / "docs" / "search" / "depth.md"
TITLE = "\n## Which networks have them\n"
HEAD = """
Random weights, one thread. **blocks**: how many were found, and their class; **proof**: L2 norm of the difference
between the outputs as masked and those without any of the blocks, over the norm of the former. Then every second block
is dropped and half of the channels of the rest are cut by `group_l1`: **left** is the share of the parameters that
stays, and **loaded** the same difference between the small network and its bundle, loaded into a fresh network. {count}
networks; {none} of them have no residual block.
Written by `python -m tests.zoo.blocks`.

| network | blocks | class | proof | left | loaded |
| --- | --- | --- | --- | --- | --- |
"""
NAMES = """
torchvision/resnet18 torchvision/resnet50 torchvision/mobilenet_v2 torchvision/mobilenet_v3_small
torchvision/efficientnet_b0 torchvision/regnet_y_400mf torchvision/densenet121 torchvision/convnext_tiny
torchvision/swin_t torchvision/vit_b_16 timm/ecaresnet26t timm/mobilenetv3_small_050 timm/convnext_atto
timm/vit_tiny_patch16_224 timm/swin_tiny_patch4_window7_224 timm/mixer_s16_224
transformers/BertForSequenceClassification transformers/DistilBertModel transformers/AlbertModel
transformers/ElectraModel transformers/GPT2LMHeadModel transformers/LlamaForCausalLM transformers/Qwen2ForCausalLM
transformers/Gemma2ForCausalLM transformers/MixtralForCausalLM transformers/T5ForConditionalGeneration
transformers/ViTModel transformers/ConvNextModel transformers/SwinModel transformers/Wav2Vec2Model
"""
"""The networks of the table; with ``all`` every one of the catalogue."""
MOST = 100e6
"""Parameters of the largest network that is cut as well."""


@dataclass
class Row:
    """What was seen of one network; texts are empty where nothing was."""

    name: str
    blocks: int = 0
    kind: str = ""
    proof: str = ""
    left: str = ""
    loaded: str = ""

    def line(self) -> str:
        """Return the line of the table."""
        cells = (self.name, str(self.blocks), self.kind, self.proof, self.left, self.loaded)
        return f"| {' | '.join(cells)} |"


def row(network: Network) -> Row:
    """Look at one network."""
    torch.manual_seed(0)
    model, seen = network.build().eval(), Row(network.name)
    inputs: list[Example] = []
    watch = FirstCall(inputs.append).watch(model)
    with torch.no_grad():
        network.call(model)
    watch.cancel()
    example = inputs[0]
    try:
        blocks = residual_blocks(model, example)
        seen.blocks, seen.kind = len(blocks), ", ".join(dict.fromkeys(block.type for block in blocks))
        if blocks:
            seen.proof = f"{prove(model, {block.name: block.returns for block in blocks}, example):.0e}"
            if parameters(model) < MOST:
                seen.left, seen.loaded = _halved(model, blocks, example)
    except RaycompressError as error:
        seen.loaded = error.problems[0].what.replace("|", "/")
    return seen


def _halved(model: torch.nn.Module, blocks: Sequence[ResidualBlock], example: Example) -> tuple[str, str]:
    """Drop every second block, halve the rest and load the bundle; return what is left, and the difference."""
    fresh, dense = copy.deepcopy(model), parameters(model)
    config = {
        "compressor": "group_l1",
        "config_list": [{"sparsity": 0.5, "op_types": ["default"]}],
        DEPTH_KEY: {"drop": [block.name for block in blocks[::2]]},
    }
    compressor = rc.create_compressor(model, config)
    compressor.compress()
    example.outputs(model)
    compressor.apply_speedup()
    with tempfile.TemporaryDirectory() as folder:
        compressor.export_model("model.pth", "mask.pth", folder, bundle_path=f"{folder}/bundle")
        loaded = rc.load(f"{folder}/bundle", fresh)
    difference = relative_difference(example.outputs(model.eval()), example.outputs(loaded.eval()))
    return f"{parameters(model) / dense:.2f}", f"{difference:.0e}"


def main(asked: Sequence[str]) -> None:
    """Look at the networks, and write the table."""
    torch.set_num_threads(1)
    rows = []
    for name, network in catalogue().items():
        if asked or name in NAMES.split():
            try:
                rows.append(row(network))
            except Exception as error:  # noqa: BLE001 - a network that its library cannot build or call
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            print(rows[-1].line(), file=sys.stderr, flush=True)
    before = PAGE.read_text().partition(TITLE)[0]
    found = [one for one in rows if one.blocks]
    head = HEAD.format(count=len(rows), none=len(rows) - len(found))
    PAGE.write_text(before + TITLE + head + "\n".join(one.line() for one in found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
