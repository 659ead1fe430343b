"""Inputs and models as people have them: every kind of call, answer and wrapper, from create_compressor to a bundle."""

from __future__ import annotations

import collections
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm
from torch.utils.data import DataLoader, TensorDataset

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.analysis.inputs import inputs_of
from raycompress.compressors.create import create_compressor
from raycompress.compressors.loaders import calls_in
from raycompress.compressors.masking.masks import FirstCall
from raycompress.compressors.measure import sizes
from raycompress.compressors.quantization.calibration import from_data
from raycompress.errors import BundleError, CompressionError
from tests.support.launching import REPOSITORY


@dataclasses.dataclass
class Answer:
    logits: Tensor
    hidden: list[Tensor]


Pair = collections.namedtuple("Pair", "logits hidden")

ANSWERS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda y: y,
    "dataclass": lambda y: Answer(y, [y.mean()]),
    "named tuple": lambda y: Pair(y, [y * 2]),
    "nested": lambda y: [y, [(y * 2, {"more": y})]],
}


class Net(nn.Module):
    """Two convolutions and a linear layer, the second wrapped, with an answer of some kind."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = lambda layer: layer, answer: str = "tensor") -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), wrap(nn.Conv2d(8, 8, 3, padding=1))
        self.fc = nn.Linear(8, 4)
        self.answer = answer

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return ANSWERS[self.answer](self.fc(self.features(x)))


class Texts(nn.Module):
    """Takes ids and a mask as transformers do, and answers a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv1, self.fc = nn.Embedding(50, 6), nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        x = self.table(input_ids)
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        y = self.fc(torch.relu(self.conv1(x[:, None])).mean((2, 3)))
        return {"logits": y} if labels is None else {"loss": nn.functional.cross_entropy(y, labels), "logits": y}


class Mapped(Net):
    """Takes a dict as its one argument."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return super().forward(batch["image"] * batch["scale"])


class Two(Net):
    """Takes two images."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x + y)


class Detector(Net):
    """Takes a list of images of any size, and answers as many dicts."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        return [{"boxes": self.fc(self.features(image[None]))} for image in images]


class Pyramid(Net):
    """Takes the levels of a pyramid, which are a list as well, and answers for each sample."""

    def forward(self, levels: list[Tensor]) -> Any:
        fine, coarse = levels
        return self.fc(self.features(fine[None]) + self.features(coarse[None]))


IDS, MASK = torch.randint(0, 50, (4, 6)), torch.ones(4, 6, dtype=torch.long)
IMAGES = torch.rand(4, 3, 8, 8)
LIST = [torch.rand(3, 8, 8), torch.rand(3, 6, 10)]
NAMED = {"input_ids": IDS, "attention_mask": MASK}
Way = tuple[Callable[[], nn.Module], Any, Callable[[nn.Module], Any]]

WAYS: dict[str, Way] = {
    "dict": (Texts, NAMED, lambda model: model(**NAMED)),
    "tokenizer's": (Texts, collections.UserDict(NAMED), lambda model: model(**NAMED)),
    "arguments and keywords": (Texts, (IDS, {"attention_mask": MASK}), lambda model: model(IDS, attention_mask=MASK)),
    "as torch.export has them": (
        Texts,
        ((IDS,), {"attention_mask": MASK}),
        lambda model: model(IDS, attention_mask=MASK),
    ),
    "several": (Two, (IMAGES, IMAGES), lambda model: model(IMAGES, IMAGES)),
    "a dict as argument": (
        Mapped,
        {"image": IMAGES, "scale": torch.ones(4, 1, 1, 1)},
        lambda model: model({"image": IMAGES, "scale": torch.ones(4, 1, 1, 1)}),
    ),
    "images": (Detector, LIST, lambda model: model(LIST)),
    "one image": (Detector, LIST[:1], lambda model: model(LIST[:1])),
    "levels": (Pyramid, LIST, lambda model: model(LIST)),
    **{kind: (lambda kind=kind: Net(answer=kind), IMAGES, lambda model: model(IMAGES)) for kind in ANSWERS},
    "weight_norm": (lambda: Net(weight_norm), IMAGES, lambda model: model(IMAGES)),
    "weight_norm, new": (lambda: Net(parametrizations.weight_norm), IMAGES, lambda model: model(IMAGES)),
    "compiled": (lambda: torch.compile(Net(), backend="eager"), IMAGES, lambda model: model(IMAGES)),
    "compiled in place": (lambda: _compiled(Net()), IMAGES, lambda model: model(IMAGES)),
    "parallel": (lambda: nn.DataParallel(Net()), IMAGES, lambda model: model(IMAGES)),
}


def _compiled(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def _plain_weight(model: nn.Module) -> Tensor:
    return next(tensor for name, tensor in model.named_parameters() if name.endswith("conv1.weight"))


@pytest.mark.parametrize("early", [True, False], ids=["dummy", "first call"])
@pytest.mark.parametrize("name", WAYS)
def test_a_model_is_pruned_trained_sliced_saved_and_loaded(name: str, early: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, dummy, call = WAYS[name]
    model = make()
    call(model)  # compiled before there are masks
    config = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_names": ["conv1"]}]}
    compressor = create_compressor(model, config, **({"dummy_input": dummy} if early else {}))
    masked = compressor.compress()
    assert masked is model
    optimizer = torch.optim.SGD(masked.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        sum(one.float().square().mean() for one in _floats(call(masked))).backward()
        optimizer.step()
    call(masked)
    assert int((_plain_weight(masked).flatten(1).abs().sum(1) == 0).sum()) == 4  # what is masked stays so
    small = compressor.apply_speedup()
    assert small is model and len(_plain_weight(small)) == 4
    call(small)
    compressor.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    assert not any("module." in key or "_orig_mod" in key for key in torch.load(tmp_path / "model.pth"))
    fresh = rc.load(tmp_path / "bundle", make()).eval()
    example, outputs = bundle.reference(tmp_path / "bundle")
    assert all(torch.equal(one, other) for one, other in zip(example.outputs(fresh), outputs, strict=True))


def _floats(answer: Any) -> list[Tensor]:
    from raycompress.bundle.structures import tensors_in

    return [one for one in tensors_in(answer) if one.is_floating_point()]


@pytest.mark.parametrize("quantizer", ["ptq_static", "qat"])
@pytest.mark.parametrize(
    "name", ["dict", "several", "a dict as argument", "dataclass", "images", "weight_norm", "compiled in place"]
)
def test_quantizers_take_them_too(name: str, quantizer: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    make, dummy, call = WAYS[name]
    model = make()
    entry = {"op_types": ["default"]} if quantizer == "ptq_static" else {"op_names": ["conv1", "fc"]}
    more = {"quant_types": ["weight", "input"], "quant_bits": 8} if quantizer == "qat" else {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    given = {"optimizer": optimizer} if quantizer == "qat" else {"calibration_data": [dummy]}
    config = {"compressor": quantizer, "config_list": [{**entry, **more}]}
    compressor = create_compressor(model, config, dummy_input=dummy, **given)
    made = compressor.compress()
    for _ in range(3 if quantizer == "qat" else 0):
        optimizer.zero_grad()
        sum(one.square().mean() for one in _floats(call(made))).backward()
        optimizer.step()
    compressor.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    fresh = rc.load(tmp_path / "bundle", make())
    example, outputs = bundle.reference(tmp_path / "bundle")
    assert all(
        torch.allclose(one, other, atol=1e-5) for one, other in zip(example.outputs(fresh), outputs, strict=True)
    )


def test_the_batch_of_a_detector_is_its_list() -> None:
    model = Detector()
    example = Example.for_model(LIST, model)
    assert (example.batch, example.least, example.lists) == (2, 1, True)
    assert [image.shape for image in example.first().args[0]] == [LIST[0].shape]
    assert sizes.flops(model, example) == sizes.flops(model, Example.for_model(LIST[:1], model))
    assert not Example.for_model(LIST, Pyramid()).lists
    seen: list[Example] = []
    FirstCall(seen.append).watch(model)
    model(LIST)
    assert [image.shape for image in seen[0].args[0]] == [LIST[0].shape]


@pytest.mark.parametrize(
    ("model", "items", "expected"),
    [
        (Net(), [(IMAGES, torch.zeros(4))], ((IMAGES,), {})),
        (Net(), [IMAGES], ((IMAGES,), {})),
        (Texts(), [{**NAMED, "labels": IDS[:, 0]}], ((), NAMED)),
        (Texts(), [({**NAMED}, IDS[:, 0])], ((), NAMED)),
        (Texts(), DataLoader(TensorDataset(IDS, MASK, IDS[:, 0]), batch_size=4), ((IDS, MASK), {})),
        (Two(), [(IMAGES, IMAGES, torch.zeros(4))], ((IMAGES, IMAGES), {})),
        (Two(), [((IMAGES, IMAGES), torch.zeros(4))], ((IMAGES, IMAGES), {})),
        (Two(), [(IMAGES, IMAGES)], ((IMAGES, IMAGES), {})),
        (Detector(), [(LIST, [{"boxes": IMAGES}] * 2)], ((LIST,), {})),
        (Detector(), [LIST], ((LIST,), {})),
        (Mapped(), [{"image": IMAGES, "scale": 1.0, "labels": 1}], (({"image": IMAGES, "scale": 1.0},), {})),
    ],
    ids=["pair", "alone", "named", "named, label", "masks", "two", "nested", "no label", "images", "list", "a dict"],
)
def test_what_of_a_loaders_item_are_inputs(model: nn.Module, items: Any, expected: Any) -> None:
    (call,) = calls_in(items, model)
    assert repr((call.args, call.kwargs)) == repr(expected)
    (calibrating,) = from_data(items, model)
    (surveyed,) = inputs_of(model, items, lambda: [])
    assert repr(calibrating.args) == repr(surveyed.args) == repr(call.args)
    call.outputs(model)


def test_a_whole_data_set_of_named_tensors_is_calibrated_with() -> None:
    many = {"input_ids": IDS.repeat(20, 1), "attention_mask": MASK.repeat(20, 1)}
    found = from_data(many, Texts())
    assert [call.batch for call in found] == [32, 32, 16]
    assert torch.equal(torch.cat([call.kwargs["input_ids"] for call in found]), many["input_ids"])


# ---- what cannot be, and why


class Holder:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class Held(Net):
    def forward(self, holder: Holder) -> Tensor:
        return super().forward(holder.x)


class ByAttribute(Net):
    def forward(self, pair: Any) -> Tensor:
        return super().forward(pair.logits)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3))), "is TorchScript, whose layers are fixed"),
        (torch.jit.trace(nn.Sequential(nn.Conv2d(3, 8, 3)), IMAGES), "is TorchScript, whose layers are fixed"),
        (
            nn.DataParallel(torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3)))),
            "is TorchScript, whose layers are fixed",
        ),
        (torch.export.export(nn.Sequential(nn.Conv2d(3, 8, 3)), (IMAGES,)).module(), "is a program of torch.export"),
    ],
)
def test_models_of_which_no_layer_is_left(model: nn.Module, what: str) -> None:
    for name, entry in (("l1_filter", {"sparsity": 0.5}), ("ptq_dynamic", {})):
        with pytest.raises(CompressionError, match=what) as error:
            create_compressor(model, {"compressor": name, "config_list": [{**entry, "op_types": ["default"]}]})
        assert "compress the module that it was made from" in error.value.problems[0].fix
    with pytest.raises(CompressionError, match=what):
        rc.compress(model, IMAGES)


@pytest.mark.parametrize(
    ("model", "argument", "what"),
    [
        (Held(), Holder(IMAGES), "is called with a Holder, which cannot be stored without pickle"),
        (ByAttribute(), Pair(IMAGES, []), "is called with a Pair, and cannot be called with what is stored of it"),
    ],
)
def test_an_input_that_no_bundle_holds_is_refused_before_the_training(
    model: nn.Module, argument: Any, what: str, enter: Any
) -> None:
    enter("trial")
    config = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_names": ["conv1"]}]}
    compressed = create_compressor(model, config).compress()
    with pytest.raises(BundleError, match=what):
        compressed(argument)


COMPILED = """
import torch
from raycompress import create_compressor
from tests.compressors.test_inputs import IMAGES, Net

runs = []


def backend(graph, _inputs):
    runs.append(1)
    return graph.forward


model = torch.compile(Net(), backend=backend)
config = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_names": ["conv1"]}]}
compressor = create_compressor(model, config, dummy_input=IMAGES)
compressor.compress()(IMAGES)
assert not runs
compressor.apply_speedup()(IMAGES)
assert runs
"""


def test_the_compiler_is_at_work_again_once_the_model_is_small() -> None:
    # in a process of its own: while a compressor of another test lives, nothing is compiled
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=REPOSITORY, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
