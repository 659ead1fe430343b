"""A lost trial goes on from the last checkpoint of its Trainer, and ends as if it had not been lost."""

import shutil
from pathlib import Path

import pytest
import torch

from raycompress.script import context
from tests.support.models import text

transformers = pytest.importorskip("transformers")

DEFAULT = [{"sparsity": 0.5, "op_types": ["default"]}]
SLICED = {"compressor": "group_l1", "config_list": DEFAULT, "arguments": {"round_to": 1}}
LEARNT = {**SLICED, "compressor": "group_taylor", "arguments": {"round_to": 1, "statistics_batch_num": 2}}


class Lost(Exception):
    """The trial's process is gone."""


class Steps:
    """The steps that a training takes, up to the one at which it is lost."""

    def __init__(self, lost_at: int | None) -> None:
        self.taken: list[int] = []
        self._lost_at = lost_at

    def on_step_end(self, args, state, control, **_more) -> None:
        self.taken.append(state.global_step)
        if state.global_step == self._lost_at:
            raise Lost


@pytest.fixture
def train(tmp_path: Path):
    """Train in a process of a trial's, which the disk of an earlier one is not left to."""

    def train(config, lost_at=None, **arguments):
        messages: list[dict] = []
        about = {"mode": "trial", "code": "1", "config": {"compression_slice": None}}
        places = {name: tmp_path / name for name in ("candidate", "checkpoint")}
        context.enter(context.Trial(send=messages.append, **about, **places))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        steps = type("StepsCallback", (Steps, transformers.TrainerCallback), {})(lost_at)
        trainer = text.trainer(text.llama(), tmp_path / "out", [steps], num_train_epochs=3, **arguments)
        from raycompress.integrations.transformers import compress_trainer

        compress_trainer(trainer, config)
        if lost_at is None:
            trainer.train()
        else:
            with pytest.raises(Lost):
                trainer.train()
        return trainer.model, steps.taken, messages

    yield train
    context.enter(None)


@pytest.mark.parametrize(
    ("config", "arguments"), [(SLICED, {}), (LEARNT, {"load_best_model_at_end": True, "save_total_limit": 1})]
)
def test_it_trains_what_came_after_the_checkpoint(train, tmp_path: Path, config, arguments) -> None:
    whole, _, reported = train(config, **arguments)
    (tmp_path / "checkpoint").unlink()
    train(config, lost_at=10, **arguments)
    model, taken, messages = train(config, **arguments)
    assert taken == [9, 10, 11, 12]
    assert (messages[0]["type"], messages[0]["results"], messages[0]["at"]) == ("continued", 2, {"epoch": 2, "step": 8})
    results = [message["values"] for message in reported if message["type"] == "result"]
    assert [*messages[0]["history"], *(one["values"] for one in messages if one["type"] == "result")] == results
    for (name, one), other in zip(whole.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_one_that_was_lost_after_its_last_checkpoint_trains_and_reports_nothing_more(train, monkeypatch) -> None:
    from raycompress.integrations.transformers.compression import TrainerCompression

    with monkeypatch.context() as patch:
        patch.setattr(TrainerCompression, "finish", lambda _self: None)
        train(SLICED)
    _, taken, messages = train(SLICED)
    assert not taken
    assert [message["type"] for message in messages] == ["continued", "candidate"]


def test_a_trainer_that_saves_no_optimizer_keeps_none(train, tmp_path: Path) -> None:
    train(SLICED, lost_at=6, save_only_model=True)
    assert not (tmp_path / "checkpoint").exists()
