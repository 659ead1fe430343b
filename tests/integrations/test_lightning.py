"""A Trainer of Lightning whose module is compressed: sliced before, or masked through all that a Trainer does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import raycompress as rc
from raycompress.errors import CompressionError, UsageError
from raycompress.script.config import SLICE_KEY
from tests.support.launching import REPOSITORY
from tests.support.models import lit

callbacks = pytest.importorskip("lightning.pytorch.callbacks")
Callback: Any = callbacks.Callback

DEFAULT = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
SLICED = {"compressor": "group_l1", "config_list": DEFAULT, "arguments": {"round_to": 1}}
LATE = {"compressor": "group_taylor", "config_list": DEFAULT, "arguments": {"round_to": 1, "statistics_batch_num": 2}}


def compress(trainer, config=SLICED, **more):
    from raycompress.integrations.lightning import compress_trainer

    return compress_trainer(trainer, config, **more)


def parameters(model) -> int:
    return sum(one.numel() for one in model.parameters())


def reported(capsys, name: str) -> list[float]:
    lines = capsys.readouterr().out.splitlines()
    return [float(line.split(": ")[1]) for line in lines if line.startswith(f"{name}: ")]


def test_the_small_network_trains_and_loads_where_there_is_no_lightning(tmp_path: Path, capsys) -> None:
    module, trainer = lit.Lit(), lit.trainer(tmp_path)
    dense = parameters(module)
    seen = []
    module.configure_optimizers = lambda: seen.append(parameters(module)) or lit.Lit.configure_optimizers(module)
    compression = compress(trainer)
    trainer.fit(module, *lit.DATA)
    assert seen == [parameters(module)] and seen[0] < 0.5 * dense
    assert {id(one) for group in trainer.optimizers[0].param_groups for one in group["params"]} == {
        id(one) for one in module.parameters()
    }
    losses = reported(capsys, "val_loss")
    assert len(losses) == 2 and losses[-1] < losses[0]
    assert losses[-1] == pytest.approx(float(trainer.callback_metrics["val_loss"]))

    assert compression.save(tmp_path / "small") == tmp_path / "small"
    expected = module.net.eval()(lit.IMAGE)
    torch.save((lit.net().state_dict(), expected), tmp_path / "expected.pth")
    code = (
        "import sys; sys.modules.update({'lightning': None, 'pytorch_lightning': None})\n"
        "import torch, raycompress as rc\n"
        "from torch import nn\n"
        "net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),\n"
        "    nn.MaxPool2d(4), nn.Flatten(), nn.Linear(48, 2))\n"
        f"small = rc.load({str(tmp_path / 'small')!r}, net).eval()\n"
        f"expected = torch.load({str(tmp_path / 'expected.pth')!r})[1]\n"
        "image = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)\n"
        "assert torch.equal(small(image), expected), small(image) - expected\n"
        "assert 'raycompress.integrations' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_small_network_resumes_where_it_was_and_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = lit.Lit()
    one = lit.trainer(tmp_path / "whole")
    compress(one)
    one.fit(whole, *lit.DATA)
    first = lit.trainer(tmp_path / "parts", epochs=1)
    compress(first)
    first.fit(lit.Lit(), *lit.DATA)
    checkpoint = first.checkpoint_callback.best_model_path
    # of another start, in which other channels would be chosen
    module, second = lit.Lit(seed=7), lit.trainer(tmp_path / "parts")
    compress(second)
    second.fit(module, *lit.DATA, ckpt_path=checkpoint)
    assert second.global_step == 16
    for (name, one), other in zip(whole.named_parameters(), module.parameters(), strict=True):
        assert torch.equal(one, other), name

    plain = lit.trainer(tmp_path / "plain", epochs=1)
    plain.fit(lit.Lit(), *lit.DATA)
    other = lit.trainer(tmp_path / "other")
    compress(other)
    path = plain.checkpoint_callback.best_model_path
    with pytest.raises(CompressionError, match="holds a model of full width, and the model here is a small") as caught:
        other.fit(lit.Lit(), *lit.DATA, ckpt_path=path)
    assert caught.value.problems[0].where == path
    with pytest.raises(CompressionError, match=r'the weights do not fit: "net.0.weight" is \(8, 1, 3, 3\)'):
        second.validate(module, lit.DATA[1], ckpt_path=path, verbose=False)


class Zeros(Callback):
    """Counts the zeros that other callbacks find after each batch."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_train_batch_end(self, trainer, module, *more) -> None:
        self.counts.append(sum(int((one == 0).sum()) for one in module.parameters()))


def test_masks_hold_through_accumulation_bfloat16_clipping_averages_and_the_best_model(tmp_path: Path, capsys) -> None:
    zeros, average = Zeros(), callbacks.WeightAveraging(avg_fn=lambda mean, one, _: mean.lerp(one, 0.5))
    best = callbacks.ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    module = lit.Lit()
    dense = parameters(module)
    trainer = lit.trainer(
        *(tmp_path, 2, (zeros, average, best)),
        precision="bf16-mixed",
        accumulate_grad_batches=2,
        gradient_clip_val=0.1,
    )
    compress(trainer, {**SLICED, SLICE_KEY: "after"})
    trainer.fit(module, *lit.DATA)
    assert len(zeros.counts) == 16 and min(zeros.counts) > 0.5 * dense
    state = torch.load(best.best_model_path, weights_only=True)
    for weights in (state["state_dict"], state["current_model_state"]):
        assert sum(int((one == 0).sum()) for one in weights.values()) > 0.5 * dense
    assert parameters(module) < 0.5 * dense
    losses = reported(capsys, "val_loss")
    assert len(losses) == 3 and losses[-1] == pytest.approx(min(losses[:2]), rel=1e-3)  # of the average, sliced
    assert float(trainer.validate(module, lit.DATA[1], verbose=False)[0]["val_loss"]) == pytest.approx(losses[-1])


def test_the_best_model_is_the_one_that_is_reported_last_and_kept(tmp_path: Path, capsys) -> None:
    best = callbacks.ModelCheckpoint(tmp_path, monitor="accuracy", mode="min")  # the first one
    trainer = lit.trainer(tmp_path, 3, (best,))
    module = lit.Lit()
    compress(trainer)
    trainer.fit(module, *lit.DATA)
    found = reported(capsys, "accuracy")
    assert len(found) == 4 and found[-1] == min(found) < found[-2]


def test_what_was_chosen_in_training_is_not_chosen_anew_and_the_best_from_before_is_forgotten(tmp_path: Path) -> None:
    saved = callbacks.ModelCheckpoint(
        tmp_path, monitor="val_loss", mode="max", save_top_k=-1, save_on_train_epoch_end=False
    )
    stops = callbacks.EarlyStopping("val_loss", patience=100)
    first = lit.trainer(tmp_path, 1, (saved, stops), val_check_interval=1)
    compression = compress(first, LATE)
    module = lit.Lit()
    first.fit(module, *lit.DATA)
    assert first.global_step == 8 and len(saved.best_k_models) == 7
    checkpoint = torch.load(tmp_path / "epoch=0-step=8.ckpt", weights_only=True)
    chosen = checkpoint["callbacks"]["CompressionCallback"]["channels"]
    assert chosen["0"] and compression.compressor.is_decided
    dense = torch.load(tmp_path / "epoch=0-step=1.ckpt", weights_only=True)["callbacks"]
    assert (
        "CompressionCallback" not in dense and "step=1" not in saved.best_model_path
    )  # though its loss is the highest

    second = lit.trainer(tmp_path / "second")
    again = compress(second, LATE)
    small = lit.Lit(seed=7)
    second.fit(small, *lit.DATA, ckpt_path=str(tmp_path / "epoch=0-step=8.ckpt"))
    assert {name: list(one) for name, one in again.compressor.decision.channels.items()} == chosen
    assert [one.shape for one in small.parameters()] == [one.shape for one in module.parameters()]


DDP = """
import json
import sys
from pathlib import Path

import torch

from raycompress.integrations.lightning import compress_trainer
from tests.support.models import lit

folder, config = Path(sys.argv[1]), json.loads(sys.argv[2])
trainer = lit.trainer(folder, 2, strategy="ddp", devices=2)
module = lit.Lit(seed=trainer.global_rank)  # each process starts with other weights
compression = compress_trainer(trainer, config)
trainer.fit(module, *lit.DATA)
torch.save({"state": module.state_dict(), "kept": compression.record()["kept"]}, folder / f"{trainer.global_rank}.pth")
compression.save(folder / "small")
"""


@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.night)])
def test_two_processes_slice_alike_and_give_the_weights_of_one_with_twice_the_batch(tmp_path: Path, when: str) -> None:
    (tmp_path / "ddp.py").write_text(DDP)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "ddp.py", str(tmp_path), json.dumps(SLICED if when == "before" else LATE)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("val_loss: ")]) == 2
    first, second = (torch.load(tmp_path / name) for name in ("0.pth", "1.pth"))
    alone, trainer = lit.Lit(), lit.trainer(tmp_path)
    compression = compress(trainer, SLICED if when == "before" else LATE)
    trainer.fit(alone, lit.loader(64, 16, mixed=True), lit.DATA[1])
    assert first["kept"] == second["kept"] != {}
    for name, weights in first["state"].items():
        assert torch.equal(weights, second["state"][name]), name
    if when == "before":  # later each process chooses by its own batches
        assert first["kept"] == compression.record()["kept"]
        for name, weights in alone.state_dict().items():
            assert torch.allclose(weights, first["state"][name], atol=1e-5), name
    small = rc.load(tmp_path / "small", lit.net())
    assert torch.equal(small.get_parameter("0.weight"), first["state"]["net.0.weight"])


class Asking(Callback):
    """Asks for the metric of another network in the midst of a training."""

    def on_train_batch_start(self, trainer, module, _batch, index) -> None:
        from raycompress.integrations.lightning.evaluation import Evaluator
        from raycompress.integrations.lightning.inputs import FitData

        if index == 3:
            evaluator = Evaluator(
                trainer, module, module.net, FitData.of(*lit.DATA, None), sys.modules["lightning.pytorch"]
            )
            self.metric = evaluator(lit.Lit(seed=7).net)
            assert module.trainer is trainer and module.training


def test_another_network_is_evaluated_in_the_midst_of_a_training_which_does_not_see_it(tmp_path: Path) -> None:
    weights = []
    for asking in ((), (Asking(),)):
        module, trainer = lit.Lit(), lit.trainer(tmp_path, 1, asking)
        compress(trainer)
        trainer.fit(module, *lit.DATA)
        weights.append(module.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*map(dict.values, weights), strict=True))
    alone = lit.trainer(tmp_path).validate(lit.Lit(seed=7), lit.DATA[1], verbose=False)[0]
    assert asking[0].metric == pytest.approx(alone["val_loss"])


class OwnLayers(lit.LightningModule):
    """A module whose layers are its own, without a validation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = torch.nn.Conv2d(1, 8, 3), torch.nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(images.unsqueeze(1)).relu().mean((2, 3)))

    def training_step(self, batch, _index):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_with_layers_of_its_own_is_compressed_itself(tmp_path: Path, capsys) -> None:
    module, trainer = OwnLayers(), lit.trainer(tmp_path, 1)
    compression = compress(trainer)
    trainer.fit(module, lit.DATA[0])
    assert compression.compressor.model is module and module.first.out_channels == 4
    assert not reported(capsys, "train_loss")
    compression.save(tmp_path / "small")
    image = lit.IMAGE[:, 0]
    assert torch.equal(rc.load(tmp_path / "small", OwnLayers()).eval()(image), module.eval()(image))


class TwoParts(lit.Lit):
    """A module with two networks, the second of which reads the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(2, 2)

    def training_step(self, batch, index):
        return self.head(self.net(batch[0].unsqueeze(1))).sum()


def test_a_part_is_named_and_what_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes a Trainer of Lightning first, not Lit"):
        compress(lit.Lit())
    trainer = lit.trainer(tmp_path, 1)
    compression = compress(trainer, network="net")
    with pytest.raises(UsageError, match="compresses already"):
        compress(trainer)
    with pytest.raises(UsageError, match=r"nothing is compressed before trainer.fit\(\)"):
        compression.save(tmp_path)
    module = TwoParts()
    trainer.fit(module, *lit.DATA)
    assert compression.compressor.model is module.net and module.net[0].out_channels == 4
    other = lit.trainer(tmp_path, 1)
    compress(other, network="nett")
    with pytest.raises(UsageError, match='TwoParts has no network "nett"') as caught:
        other.fit(TwoParts(), *lit.DATA)
    assert caught.value.problems[0].fix == "name one of its parts: net, head"
    with pytest.raises(CompressionError, match="end with fit"):
        compress(lit.trainer(tmp_path, strategy="ddp_spawn", devices=2))
