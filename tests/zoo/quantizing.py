"""int8 of networks that people have: one quantizer on one network, and the section of docs/networks.md about them.

    python -m tests.zoo.quantizing

runs all of them and writes that section; `make zoo` writes the whole page.
"""

from __future__ import annotations

import collections
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import raycompress
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.bundle.structures import tensors_in
from raycompress.errors import RaycompressError
from tests.zoo.attempt import Progress, inputs_of
from tests.zoo.cell import randomize
from tests.zoo.networks.network import Network
from tests.zoo.slicing import answers

QUANTIZERS = ("ptq_dynamic", "ptq_static", "int8_weight_only")
NETWORKS = {
    "torchvision": """
        resnet18 mobilenet_v3_small efficientnet_b0 shufflenet_v2_x0_5 densenet121 convnext_tiny swin_t fcn_resnet50
        lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large ssdlite320_mobilenet_v3_large vit_b_16 r3d_18
        fasterrcnn_mobilenet_v3_large_320_fpn raft_small
    """,
    "timm": """
        convnextv2_atto res2net50_26w_4s xcit_nano_12_p16_224 efficientvit_b0 mobilevit_xxs ghostnet_050 hrnet_w18_small
        regnety_002 edgenext_xx_small poolformer_s12 resnest14d nfnet_l0 deit_tiny_distilled_patch16_224 levit_128s
        mixer_s16_224 coat_lite_tiny halonet26t swinv2_tiny_window8_256 mobileone_s0 sequencer2d_s fastvit_t8
        beit_base_patch16_224
    """,
    "transformers": """
        BertForSequenceClassification DebertaV2Model ModernBertModel GPT2LMHeadModel OPTForCausalLM LlamaForCausalLM
        Qwen3ForCausalLM Gemma3ForCausalLM Phi3ForCausalLM MixtralForCausalLM DeepseekV3ForCausalLM MambaForCausalLM
        RwkvForCausalLM T5ForConditionalGeneration BartForConditionalGeneration ViTForImageClassification SwinModel
        SegformerForSemanticSegmentation CLIPModel Wav2Vec2Model WhisperForConditionalGeneration
        XLNetModel AlbertModel BloomForCausalLM FalconForCausalLM Qwen2MoeForCausalLM Mamba2ForCausalLM
        RecurrentGemmaForCausalLM MarianMTModel M2M100ForConditionalGeneration BeitModel ConvNextModel HubertModel
        WavLMModel ASTModel
    """,
    "smp": "Unet UnetPlusPlus FPN DeepLabV3Plus MAnet UPerNet",
    "ultralytics": "yolov8n yolo11n yolo26n yolov8n-seg yolo11n-pose yolov10n rtdetr-l",
    "torch": "LSTM GRU RNN TransformerEncoder TransformerDecoder",
}
"""One or two of each family."""
CALIBRATION = 8
"""Random inputs that static quantization takes its ranges from; what is compared are others."""
TITLE = "\n## int8\n"
HEAD = """
Each quantizer by its defaults, on {count} networks of transformers and torchvision with random weights. ptq_static
takes its ranges from {calibration} random inputs. A fresh process loads each bundle into a fresh network, and its
outputs are compared with those that were saved.

{summary}

- **cosine**: of the outputs with those of the float network, on inputs that calibration did not see, all numbers of
  one output taken together; the least of several outputs
- **bytes**: of the file to those of the float weights. These networks are small, so that names and graphs weigh more
  than in large ones
- **float**: layers that stay float, of which a note of the bundle says why
"""


def is_quantized(name: str) -> bool:
    """Tell whether a network of the catalogue is quantized too."""
    family, _, rest = name.partition("/")
    return rest in NETWORKS.get(family, "").split()


def quantize(network: Network, quantizer: str, folder: Path, progress: Progress) -> None:
    """Quantize `network` and save it into `folder`; what comes of it is in the cell of `progress`."""
    try:
        _quantize(network, quantizer, folder, progress)
    except RaycompressError as error:
        first = error.problems[0]
        progress.write(result="refused", reason=first.what, where=first.where, fix=first.fix)
    except Exception as error:  # noqa: BLE001 - whatever it raises is its cell
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        progress.write(result="traceback", reason=reason, trace=traceback.format_exc()[-3000:])


def _quantize(network: Network, quantizer: str, folder: Path, progress: Progress) -> None:
    torch.manual_seed(0)
    with progress.phase("build"):
        model = network.build().eval()
        randomize(model)
    with progress.phase("plain pass"):
        dummy = inputs_of(network, model)
        expected = _answers(network, model)
    example = Example.from_dummy(dummy)
    more: dict[str, Any] = {}
    if quantizer == "ptq_static":
        others = [example.random(seed) for seed in range(1, CALIBRATION + 1)]
        more["calibration_data"] = [(other.kwargs or other.args, 0) for other in others]
    with progress.phase("create"):
        made = raycompress.create_compressor(model, {"compressor": quantizer}, dummy_input=dummy, **more)
    with progress.phase("compress"):
        made.compress()
    progress.write(cosine=cosine(expected, _answers(network, model)))
    with progress.phase("save"):
        made.export_model("model.pth", folder_name=str(folder), bundle_path=str(folder / "bundle"))
    manifest = bundle.read(folder / "bundle")
    notes = list(manifest.notes)
    left = [note.partition(" stays float")[0] for note in notes if " stays float" in note]
    left += [name.split(" ")[0] for note in notes if note.startswith("left float") for name in _named(note)]
    share = round(manifest.after.size_bytes / max(1, manifest.before.size_bytes), 3)
    progress.write(result="saved", bytes=share, float=left, notes=notes)


def _answers(network: Network, model: nn.Module) -> list[Tensor]:
    """Return all outputs: a hook on a part would see nothing, since an int8 file computes the whole of a network."""
    return answers(model, lambda one: tensors_in(network.call(one)))


def _named(note: str) -> list[str]:
    return note.rpartition(": ")[2].split(", ")


def cosine(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float | None:
    """Return the least cosine of two lists of outputs; None where they have other shapes, as sorted boxes may have."""
    if [one.shape for one in expected] != [one.shape for one in found]:
        return None
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if a.is_floating_point() and a.numel()]
    cosines = [torch.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0) for a, b in pairs]
    return min(map(float, cosines), default=None)


def section(cells: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return the section of the page.

    Parameters
    ----------
    cells
        Quantizer -> network -> its cell.
    """
    names = list(dict.fromkeys(name for of_one in cells.values() for name in of_one))
    if not names:
        return ""
    summary = "\n".join(f"- {_summary(quantizer, list(of_one.values()))}" for quantizer, of_one in cells.items())
    text = TITLE + HEAD.format(count=len(names), calibration=CALIBRATION, summary=summary)
    text += _refusals([cell for of_one in cells.values() for cell in of_one.values()])
    columns = ["network", *(column for name in cells for column in (name, "bytes", "float"))]
    families: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        families[name.partition("/")[0]].append(name)
    for family, members in families.items():
        rows = [columns, ["---"] * len(columns), *(_row(name, cells) for name in members)]
        text += f"\n### {family}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return text


def section_of(page: str) -> str:
    """Return the section of a page that has one; empty where it has none."""
    _, title, rest = page.partition(TITLE)
    return title + rest


def _summary(quantizer: str, cells: Sequence[Mapping[str, Any]]) -> str:
    good = [cell for cell in cells if cell["result"] == "ok"]
    cosines = sorted(cell["cosine"] for cell in good if cell.get("cosine") is not None)
    shares = sorted(cell["bytes"] for cell in good)
    text = f"**{quantizer}**: {len(good)} of {len(cells)} ok"
    if cosines:
        near = sum(one >= 0.99 for one in cosines)
        text += f"; cosine at least .99 on {near}, the least is {cosines[0]:.3f}"
    return text + (f"; {shares[len(shares) // 2]:.0%} of the bytes (median)" if shares else "")


def _refusals(cells: Sequence[Mapping[str, Any]]) -> str:
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for cell in cells:
        if cell["result"] != "ok":
            text = f"{cell['result']}: {cell.get('reason', '')}".replace("|", "/").replace("*", "\\*")
            kinds[text.replace("<", "&lt;").replace("\n", " ")].append(
                f"{cell['network'].partition('/')[2]}, {cell['engine']}"
            )
    lines = [f"- {reason} *({'; '.join(names)})*" for reason, names in kinds.items()]
    return "\nWhat is not ok:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _row(name: str, cells: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    row = [name.partition("/")[2]]
    for of_one in cells.values():
        cell = of_one.get(name, {"result": ""})
        if cell["result"] != "ok":
            row += [cell["result"], "", ""]
            continue
        likeness = "other boxes" if cell.get("cosine") is None else f"{cell['cosine']:.4f}"
        row += [likeness, f"{cell['bytes']:.0%}", str(len(cell["float"]) or "")]
    return row


def main() -> None:
    """Run every quantizer, and write the section into the page."""
    from tests.zoo.run import cells
    from tests.zoo.table import PAGE

    found: dict[str, dict[str, Mapping[str, Any]]] = {quantizer: {} for quantizer in QUANTIZERS}
    for cell in cells((), QUANTIZERS):
        found[cell["engine"]][cell["network"]] = cell
    PAGE.write_text(PAGE.read_text().partition(TITLE)[0] + section(found))


if __name__ == "__main__":
    main()
