"""A Trainer whose model is compressed: sliced before, or masked through all that a Trainer does."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raycompress.errors import CompressionError, UsageError
from raycompress.script.config import SLICE_KEY
from tests.support.models import text

transformers = pytest.importorskip("transformers")

DEFAULT = [{"sparsity": 0.5, "op_types": ["default"]}]
SLICED = {"compressor": "group_l1", "config_list": DEFAULT, "arguments": {"round_to": 1}}


def compress(trainer, config=SLICED, **more):
    from raycompress.integrations.transformers import compress_trainer

    return compress_trainer(trainer, config, **more)


def parameters(model) -> int:
    return sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_small_model_trains_and_what_the_trainer_saves_is_stock(kind: str, tmp_path: Path, capsys) -> None:
    trainer = text.trainer(getattr(text, kind)(), tmp_path / "out")
    dense = parameters(trainer.model)
    compression = compress(trainer)
    small = parameters(trainer.model)
    assert small < 0.5 * dense
    trainer.train()
    held = {id(one) for group in trainer.optimizer.param_groups for one in group["params"]}
    assert held == {id(one) for one in trainer.model.parameters()}
    first, last = (float(line.split(": ")[1]) for line in capsys.readouterr().out.splitlines() if "eval_loss: " in line)
    assert last < first
    trainer.save_model(str(tmp_path / "saved"))
    loaded = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert torch.allclose(loaded(**text.INPUT).logits, trainer.model.eval()(**text.INPUT).logits)
    assert compression.save_pretrained(tmp_path / "small").is_stock


def test_a_small_model_resumes_where_it_was_and_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = text.trainer(text.llama(), tmp_path / "whole", lr_scheduler_type="constant")
    compress(whole)
    whole.train()
    first = text.trainer(text.llama(), tmp_path / "parts", lr_scheduler_type="constant", num_train_epochs=1)
    compress(first)
    first.train()
    second = text.trainer(text.llama(), tmp_path / "parts", lr_scheduler_type="constant")
    compress(second)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 8
    for (name, one), other in zip(whole.model.named_parameters(), second.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name

    other = text.trainer(text.llama(), tmp_path / "parts")
    compress(other, {**SLICED, "config_list": [{"sparsity": 0.25, "op_types": ["default"]}]})
    with pytest.raises(CompressionError, match="their weights do not fit") as caught:
        other.train(resume_from_checkpoint=True)
    assert "parts/checkpoint-8" in caught.value.problems[0].where


class Average:
    """An exponential moving average of the weights, which the model ends with."""

    def __init__(self) -> None:
        self.zeros: list[int] = []

    def on_train_begin(self, args, state, control, model=None, **_more) -> None:
        self.mean = {name: one.detach().clone() for name, one in model.named_parameters()}

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **_more) -> None:
        self.zeros.append(sum(int((one == 0).sum()) for one in model.parameters()))
        for name, one in model.named_parameters():
            self.mean[name].lerp_(one, 0.5)

    @torch.no_grad()
    def on_train_end(self, args, state, control, model=None, **_more) -> None:
        for name, one in model.named_parameters():
            one.copy_(self.mean[name])


def test_masks_hold_through_accumulation_bfloat16_averages_and_the_best_model(tmp_path: Path, capsys) -> None:
    average = type("AverageCallback", (Average, transformers.TrainerCallback), {})()
    trainer = text.trainer(
        text.llama(),
        tmp_path / "out",
        callbacks=[average],
        bf16=True,
        gradient_accumulation_steps=2,
        load_best_model_at_end=True,
        weight_decay=0.01,
    )
    dense = parameters(trainer.model)
    compression = compress(trainer, {**SLICED, SLICE_KEY: "after"})
    assert parameters(trainer.model) == dense
    trainer.train()
    assert len(average.zeros) == 4 and min(average.zeros) > 0.5 * dense
    assert parameters(trainer.model) < 0.5 * dense
    reported = [float(line.split(": ")[1]) for line in capsys.readouterr().out.splitlines() if "eval_loss: " in line]
    assert reported[-1] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-6)  # of the average, which is sliced
    assert len(reported) == 3
    state = load_file(tmp_path / "out/checkpoint-4/model.safetensors")
    assert sum(int((one == 0).sum()) for one in state.values()) > 0.5 * dense
    assert compression.save_pretrained(tmp_path / "small").is_stock


def test_what_was_chosen_in_training_is_not_chosen_anew(tmp_path: Path) -> None:
    config = {
        "compressor": "group_taylor",
        "config_list": DEFAULT,
        "arguments": {"round_to": 1, "statistics_batch_num": 2},
    }
    first = text.trainer(text.llama(), tmp_path, load_best_model_at_end=True)
    compression = compress(first, config)
    assert not compression.compressor.is_decided
    first.train()
    chosen = json.loads((tmp_path / "checkpoint-4/raycompress.json").read_text())["channels"]
    assert chosen["model.layers.0.mlp.up_proj"]

    second = text.trainer(text.llama(), tmp_path, seed=7, data_seed=7)
    again = compress(second, config)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert {name: list(one) for name, one in again.compressor.decision.channels.items()} == chosen
    assert parameters(second.model) == parameters(first.model)


def test_single_weights_stay_zero_and_are_saved_so(tmp_path: Path) -> None:
    trainer = text.trainer(text.bert(), tmp_path / "out")
    compression = compress(trainer, {"compressor": "level", "config_list": DEFAULT})
    trainer.train()
    compression.save_pretrained(tmp_path / "sparse")
    loaded = type(trainer.model).from_pretrained(tmp_path / "sparse")
    weight = loaded.get_submodule("bert.encoder.layer.0.intermediate.dense").weight
    assert (weight == 0).float().mean() == 0.5


def test_what_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    trainer = text.trainer(text.llama(), tmp_path, eval_strategy="no", save_strategy="no")
    with pytest.raises(UsageError, match=r"takes a transformers.Trainer first, not LlamaForCausalLM"):
        compress(trainer.model)
    anew = transformers.Trainer(model_init=lambda: text.llama(), args=trainer.args, train_dataset=text.Counting(8))
    with pytest.raises(UsageError, match="makes a model anew"):
        compress(anew)
    with pytest.raises(UsageError, match="has no data"):
        compress(transformers.Trainer(text.llama(), trainer.args))
    compress(trainer)
    with pytest.raises(UsageError, match="compressed already"):
        compress(trainer)
