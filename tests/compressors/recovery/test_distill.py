"""`distill`: its terms against torch's, features and maps of attention through the channels that stay, any answer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc
from raycompress.compressors.distillation.survivors import survivors_of
from raycompress.compressors.interface import Compressor
from raycompress.errors import CompressionError, ExperimentError, UsageError
from raycompress.script.config import SLICE_KEY
from tests.support.models.networks import DUMMY, Cnn, Vit, digits, train, trained

HEADS = {"cnn": "fc2", "resnet": "fc", "mobilenet": "fc", "vit": "head", "torch_vit": "head", "sequences": "fc2"}
FEATURES = {"cnn": "conv*", "resnet": "*bn*", "mobilenet": "*", "vit": "blocks.*.fc1", "sequences": ("bn1", "conv2")}


def pruner_of(model: nn.Module, name: str, dummy: Tensor | None = DUMMY, **more: Any) -> Compressor:
    config_list = [{"sparsity": 0.5, "op_types": ["default"]}, {"op_names": [HEADS[name]], "exclude": True}]
    config = {"compressor": "group_l1", "config_list": config_list, "arguments": {"round_to": 2}}
    return rc.create_compressor(model, {**config, **more.pop("config", {})}, dummy_input=dummy, **more)


def batch(number: int = 16) -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[:number], labels[:number]


def test_its_two_terms_are_the_task_and_the_divergence_of_softened_answers() -> None:
    student, teacher = trained("cnn", 5), trained("cnn", 20).requires_grad_(False)
    for model in (student, teacher):
        model.fc2.weight.data *= 5  # answers that differ
    images, labels = batch()
    own, theirs = student(images), teacher(images)
    task = F.cross_entropy(own, labels)
    soft = 9 * F.kl_div(F.log_softmax(own / 3, 1), F.softmax(theirs / 3, 1), reduction="batchmean")
    for weight in (0.0, 0.3, 1.0):
        found = rc.distill(student, teacher, (images, labels), F.cross_entropy, weight=weight, temperature=3.0)
        assert found.item() == pytest.approx(((1 - weight) * task + weight * soft).item(), rel=1e-4)
    teacher.zero_grad()
    found.backward()
    assert student.conv1.weight.grad is not None and teacher.conv1.weight.grad is None
    assert float(rc.distill(teacher, teacher, images, weight=1.0, features="*")) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_compared_on_the_channels_that_stay_masked_and_small_alike(name: str) -> None:
    model = trained(name)
    compressor = pruner_of(model, name)
    teacher = compressor.teacher
    compressor.compress()
    kept = survivors_of(teacher).channels
    assert any(not torch.equal(one, torch.arange(len(one))) for one in kept.values()), "else no place is exchanged"
    losses, gradients = [], []
    for _ in range(2):  # masked, then small
        train(model, 1) if not losses else compressor.apply_speedup()
        model.zero_grad()
        loss = rc.distill(model, teacher, batch(), F.cross_entropy, features=FEATURES[name], feature_weight=2.0)
        loss.backward()
        losses.append(float(loss))
        gradients.append(sum(float(one.grad.abs().sum()) for one in model.parameters() if one.grad is not None))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    plain = rc.distill(model, teacher, batch(), F.cross_entropy)
    assert losses[1] > float(plain) > 0
    assert gradients[1] > 0


def test_what_reads_the_input_itself_answers_as_the_teacher_does_on_the_channels_that_stay() -> None:
    model = trained("resnet")
    compressor = pruner_of(model, "resnet", teacher=True, config={SLICE_KEY: "before"})
    compressor.compress()
    assert model.conv1.out_channels == 8
    dense = float(rc.distill(model, compressor.teacher, batch(), F.cross_entropy))
    hinted = rc.distill(model, compressor.teacher, batch(), F.cross_entropy, features="conv1", feature_weight=1e6)
    assert float(hinted) == pytest.approx(dense, rel=1e-3), "of these channels the weights are the teacher's"


@pytest.mark.parametrize("name", ["vit", "torch_vit"])
def test_maps_of_attention_are_compared_on_the_heads_that_stay(name: str) -> None:
    model = trained(name)
    compressor = pruner_of(model, name)
    teacher = compressor.teacher
    compressor.compress()
    train(model, 1)
    given = {"attention": True, "weight": 1.0, "attention_weight": 3.0}
    masked = float(rc.distill(model, teacher, batch(), **given))
    compressor.apply_speedup()
    small = rc.distill(model, teacher, batch(), **given)
    assert float(small) == pytest.approx(masked, rel=1e-4)
    without = rc.distill(model, teacher, batch(), weight=1.0)
    assert float(small) > float(without)
    one = float(rc.distill(model, teacher, batch(), weight=1.0, attention="blocks.0.attn"))
    two = float(rc.distill(model, teacher, batch(), weight=1.0, attention="blocks.1"))
    both = float(rc.distill(model, teacher, batch(), weight=1.0, attention=True))
    assert (one + two) / 2 == pytest.approx(both, rel=1e-5)
    small.backward()


class Heads(Vit):
    """Its attention computes the softmax by itself, and loses whole heads."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.attn = ByHand(32, 4)


class ByHand(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.width = dim // heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.width)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        shares = (q @ k.transpose(-2, -1) / self.width**0.5).softmax(-1)
        return self.out((shares @ v).transpose(1, 2).flatten(2))


def test_heads_that_go_are_left_out_of_the_teachers_maps() -> None:
    torch.manual_seed(0)
    model = Heads()
    train(model, 20)
    compressor = pruner_of(model, "vit")
    teacher = compressor.teacher
    compressor.compress()
    left = [survivors_of(teacher).heads_of(f"blocks.{place}.attn", 4) for place in range(2)]
    assert [None if one is None else len(one) for one in left] == [2, 2]
    masked = float(rc.distill(model, teacher, batch(), weight=1.0, attention=True))
    compressor.apply_speedup()
    assert model.blocks[0].attn.query.out_features == 16
    assert float(rc.distill(model, teacher, batch(), weight=1.0, attention=True)) == pytest.approx(masked, rel=1e-4)


# ---- the teacher


def test_the_teacher_is_frozen_and_outlives_the_speed_up_and_one_that_is_asked_for_late_is_an_error() -> None:
    model = trained("cnn")
    dense = copy.deepcopy(model)(DUMMY)
    compressor = pruner_of(model, "cnn")
    teacher = compressor.teacher
    compressor.compress()
    compressor.apply_speedup()
    assert compressor.teacher is teacher and not teacher.training
    assert torch.equal(teacher(DUMMY), dense) and not any(one.requires_grad for one in teacher.parameters())

    late = pruner_of(other := trained("cnn"), "cnn")
    late.compress()
    with pytest.raises(CompressionError, match="no copy of the dense one was kept") as caught:
        _ = late.teacher
    assert caught.value.problems[0].fix.startswith("create_compressor(..., teacher=True)")
    kept = pruner_of(trained("cnn"), "cnn", teacher="bfloat16")
    kept.compress()
    assert next(kept.teacher.parameters()).dtype == torch.bfloat16 and next(other.parameters()).dtype == torch.float32
    with pytest.raises(ExperimentError, match="True or a floating type"):
        pruner_of(trained("cnn"), "cnn", teacher="int8")


def test_it_trains_in_autocast_with_a_teacher_in_bf16_and_no_input_known_beforehand() -> None:
    model = trained("cnn")
    compressor = pruner_of(model, "cnn", dummy=None, teacher=torch.bfloat16)
    compressor.compress()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = rc.distill(model, compressor.teacher, batch(64), F.cross_entropy, features=("conv2", "fc1"))
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


def test_inspection_refuses_a_teacher_that_is_asked_for_late(enter: Callable[..., Any]) -> None:
    enter("inspect")
    late, early = (pruner_of(trained("cnn"), "cnn", dummy=None, teacher=teacher) for teacher in (None, True))
    late.compress()
    early.compress()
    with pytest.raises(CompressionError, match="no copy of the dense one was kept"):
        _ = late.teacher
    assert not early.teacher.training


def test_in_a_trial_the_teachers_calls_are_no_evaluations(enter: Callable[..., Any]) -> None:
    trial, _ = enter("trial", config_path="exp.json", save_model=True)
    compressor = pruner_of(model := trained("cnn"), "cnn", teacher=True)
    compressor.compress()
    compressor.apply_speedup()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with torch.no_grad():
        model.eval()(DUMMY)
    rc.distill(model, compressor.teacher, batch(), F.cross_entropy).backward()
    optimizer.step()
    with torch.no_grad():
        model(DUMMY)
    rc.distill(model, compressor.teacher, batch(), F.cross_entropy)
    for hook in trial.on_report:
        hook({"accuracy": 0.9})
    compressor.export_model("model.pth")
    for finish in trial.on_finish:
        finish()


# ---- whatever a model takes and answers


@dataclass
class Answer:
    loss: Tensor | None
    logits: Tensor


class Answering(Cnn):
    """Takes its inputs by name, and answers as transformers' models do."""

    form = "dataclass"

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> Any:  # type: ignore[override]
        logits = super().forward(pixels)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        if self.form == "dataclass":
            return Answer(loss, logits)
        return {"loss": loss, "logits": logits} if self.form == "dict" else (logits, logits.exp())


@pytest.mark.parametrize("form", ["dataclass", "dict", "tuple"])
def test_answers_of_any_form_and_batches_by_name(form: str) -> None:
    images, labels = batch()
    plain, teacher = trained("cnn", 5), trained("cnn")
    student, master = Answering(), Answering()
    student.form = master.form = form
    student.load_state_dict(plain.state_dict())
    master.load_state_dict(teacher.state_dict())
    expected = float(rc.distill(plain, teacher, (images, labels), F.cross_entropy))
    by_name = {"pixels": images, "labels": labels, "idle": labels}
    if form == "tuple":
        found = rc.distill(student, master, by_name, lambda outputs, given: F.cross_entropy(outputs[0], given))
        with pytest.raises(CompressionError, match="has no loss of the task"):
            rc.distill(student, master, by_name)
    else:
        found = rc.distill(student, master, by_name)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    apart = rc.distill(student, master, [{"pixels": images}, labels], lambda *_: F.cross_entropy(plain(images), labels))
    assert float(apart) == pytest.approx(expected, rel=1e-6)


def test_positions_that_the_task_ignores_do_not_count_and_a_single_output_is_compared_as_it_is() -> None:
    torch.manual_seed(0)
    student, teacher = nn.Linear(4, 6), nn.Linear(4, 6)
    x, labels = torch.randn(2, 3, 4), torch.tensor([[1, 2, -100], [-100, 0, 5]])
    found = rc.distill(student, teacher, (x, labels), weight=1.0)
    told = rc.distill(student, teacher, x[labels != -100], weight=1.0)
    assert float(found) == pytest.approx(float(told), rel=1e-6)
    one, other = nn.Linear(4, 1), nn.Linear(4, 1)
    assert float(rc.distill(one, other, x, weight=1.0)) == pytest.approx(float(F.mse_loss(one(x), other(x))))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"weight": 1.5}, "share from 0 to 1"),
        ({"temperature": 0}, "above 0"),
        ({"features": "convs"}, 'names no layer "convs"'),
        ({"attention": True}, "no module that computes attention"),
    ],
)
def test_mistakes_say_what_and_how_to_mend_it(given: dict[str, Any], what: str) -> None:
    model = trained("cnn", 1)
    with pytest.raises(UsageError, match=what) as caught:
        rc.distill(model, copy.deepcopy(model), batch(), F.cross_entropy, **given)
    assert caught.value.problems[0].fix and caught.value.problems[0].where == "rc.distill"


def test_what_is_no_model_is_named() -> None:
    model = trained("cnn", 1)
    with pytest.raises(UsageError, match="not list"):
        rc.distill(model, [model], batch(), F.cross_entropy)  # type: ignore[arg-type]


def test_a_teacher_of_another_cut_is_no_silent_mistake() -> None:
    model = trained("cnn")
    compressor = pruner_of(model, "cnn")
    compressor.compress()
    compressor.apply_speedup()
    with pytest.raises(CompressionError, match='"conv1" answers'):
        rc.distill(model, trained("cnn"), batch(), F.cross_entropy, features="conv1")


def test_a_function_that_fine_tunes_for_compress_has_the_teacher_too(tmp_path: Path) -> None:
    steps = []

    def finetune(model: nn.Module, compressor: Compressor) -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for _ in range(3):
            optimizer.zero_grad()
            loss = rc.distill(model, compressor.teacher, batch(), F.cross_entropy, features="conv2")
            loss.backward()
            optimizer.step()
            steps.append(loss.item())

    made = rc.compress(trained("cnn"), DUMMY, "group_l1", folder=tmp_path / "out", finetune=finetune, teacher=True)
    assert len(steps) == 3 and made.after["params"] < made.before["params"]
