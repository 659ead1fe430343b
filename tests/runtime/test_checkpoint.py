"""Checkpoints of a trial: what goes on from one computes what would have been computed without the loss."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import raycompress as rc
from raycompress.errors import CompressionError, UsageError
from raycompress.script import context, statefile

RANDOM = "random"
LATE = "activation_mean_rank_filter"
ENTRIES = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]


class Lost(Exception):
    """The trial's process is gone."""


@pytest.fixture
def life(tmp_path):
    """Begin a trial, or begin it again, as the process of one does; returns its messages."""

    def life(**changes):
        messages = []
        config = {"folder_name": str(len(messages)), "compression_slice": None, **changes.pop("config", {})}
        facts = {"mode": "trial", "candidate": tmp_path / "candidate", "code": "1", "config": config, **changes}
        context.enter(context.Trial(send=messages.append, checkpoint=tmp_path / "checkpoint", **facts))
        return messages

    yield life
    context.enter(None)


def train(config, life_of, epochs=4, lost_after=None, dummy=True):
    """Train as a script does; a seed of its own for what the compressor draws."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 4
    torch.manual_seed(life_of)
    given = {"dummy_input": images[:1]} if dummy else {}
    given |= {"seed": life_of, "round_to": 1} if config["compressor"] == RANDOM else {}
    compressor = rc.create_compressor(model, config, **given)
    model = compressor.compress()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    state = rc.checkpoint.load(model=model, optimizer=optimizer)
    if state is None:
        torch.manual_seed(7)
    trained = range(0 if state is None else state["epoch"] + 1, epochs)
    for epoch in trained:
        noise = 0.1 * torch.randn(16, 1, 8, 8)
        optimizer.zero_grad()
        F.cross_entropy(model(images + noise), labels).backward()
        optimizer.step()
        rc.report(loss=float(noise.sum()))
        rc.checkpoint(model=model, optimizer=optimizer, epoch=epoch)
        if epoch == lost_after:
            raise Lost
    return model, compressor, trained


def weights(model):
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, 8, 8))  # which applies masks
    return model.state_dict()


@pytest.mark.parametrize(
    ("name", "when", "dummy"),
    [
        (RANDOM, None, True),
        (RANDOM, "before", True),
        (RANDOM, "before", False),
        ("l1_filter", None, False),
        ("level", None, True),
    ],
)
def test_a_lost_trial_has_the_weights_of_one_that_was_not(life, name, when, dummy):
    config = {"compressor": name, "config_list": ENTRIES}
    about = {"config": {"compression_slice": when}}
    life(**about)
    whole, _, _ = train(config, 1, dummy=dummy)
    expected = {key: value.clone() for key, value in weights(whole).items()}
    context.current().checkpoint.unlink()
    before = life(**about)
    with pytest.raises(Lost):
        train(config, 1, lost_after=2, dummy=dummy)
    reported = [message["values"] for message in before if message["type"] == "result"]
    messages = life(**about)
    model, compressor, trained = train(config, 2, dummy=dummy)
    assert [*trained] == [3]
    assert messages[0] == {
        **{"type": "continued", "results": 3, "at": {"epoch": 2}, "unused": ""},
        **{"seconds": messages[0]["seconds"], "values": reported[-1], "history": reported},
    }
    assert [message["type"] for message in messages] == ["continued", "result", "checkpoint"]
    found = weights(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    if name != "level":
        compressor.apply_speedup()
        assert model[0].out_channels == 4


def test_without_restored_decisions_random_pruning_chooses_others(life):
    """That the test above can fail."""
    config = {"compressor": RANDOM, "config_list": ENTRIES}
    masks = []
    for seed in (1, 2):
        life()
        model, _, _ = train(config, seed, epochs=0)
        masks.append(model[0].weight.flatten(1).any(1))
    assert not torch.equal(*masks)


def test_a_model_that_is_whole_at_the_loss_is_reported_and_saved_without_training(life, tmp_path):
    config = {"compressor": "l1_filter", "config_list": ENTRIES}
    life()
    with pytest.raises(Lost):
        train(config, 1, lost_after=3)
    messages = life()
    _, compressor, trained = train(config, 1)
    assert not trained
    compressor.export_model("model.pth")
    for hook in context.current().on_finish:
        hook()  # the saved model is the one of the last report, which the first life made
    assert [message["type"] for message in messages] == ["continued", "candidate"]


def test_what_still_decides_saves_no_checkpoint_and_says_so_and_saves_one_when_it_has(life, tmp_path, capsys):
    config = {"compressor": LATE, "config_list": ENTRIES, "arguments": {"statistics_batch_num": 3}}
    life()
    train(config, 1, epochs=2)
    assert not (tmp_path / "checkpoint").exists()
    assert capsys.readouterr().err.count(f"no checkpoint is saved yet: {LATE} has not decided yet") == 1
    life()
    expected = weights(train(config, 1, epochs=5)[0])
    (tmp_path / "checkpoint").unlink()
    life()
    with pytest.raises(Lost):
        train(config, 1, epochs=5, lost_after=3)
    life()
    model, compressor, trained = train(config, 1, epochs=5)
    assert [*trained] == [4] and compressor.is_decided
    assert all(torch.equal(value, expected[key]) for key, value in weights(model).items())


def test_a_checkpoint_of_another_script_or_configuration_is_left_aside(life, capsys):
    config = {"compressor": "l1_filter", "config_list": ENTRIES}
    life()
    with pytest.raises(Lost):
        train(config, 1, lost_after=2)
    for other in ({"code": "2"}, {"config": {"lr": 1}}):
        messages = life(**other)
        torch.manual_seed(0)
        assert rc.checkpoint.load() is None
        assert messages[0]["type"] == "continued" and "another script" in messages[0]["unused"]
        assert "left aside" in capsys.readouterr().err
    context.current().checkpoint.write_bytes(b"{")
    life()
    assert rc.checkpoint.load() is None


def test_what_does_not_fit_is_an_error_of_ours(life):
    life()
    assert rc.checkpoint.load() is None
    rc.checkpoint(model=nn.Linear(4, 4), epoch=1)
    for objects, what in (
        ({"model": nn.Linear(4, 3)}, "does not fit the Linear: .*size mismatch"),
        ({"ema": nn.Linear(4, 4)}, 'no state of "ema": it holds model'),
    ):
        life()
        with pytest.raises(UsageError, match=what):
            rc.checkpoint.load(**objects)
    life()
    with pytest.raises(UsageError, match="never loads one"):
        rc.checkpoint(epoch=1)
    rc.checkpoint.load()
    with pytest.raises(UsageError, match=r"a slice cannot be kept in a checkpoint: it stands at plain.where\[1\]"):
        rc.checkpoint(where=[1, slice(2)])
    with pytest.raises(UsageError, match="nothing to save"):
        rc.checkpoint()


def test_a_model_that_differs_from_start_to_start_is_an_error(life):
    life()
    config = {"compressor": "l1_filter", "config_list": ENTRIES}
    with pytest.raises(Lost):
        train(config, 1, lost_after=1)
    life()
    other = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten(), nn.Linear(216, 4))
    compressor = rc.create_compressor(other, config, dummy_input=torch.zeros(1, 1, 8, 8))
    with pytest.raises(CompressionError, match="decided for another model"):
        compressor.compress()


def test_the_file_keeps_types_ties_and_versions(tmp_path):
    path, shared = tmp_path / "file", torch.arange(6.0).reshape(2, 3)
    state = OrderedDict(weight=shared, tied=shared)
    state._metadata = {"": {"version": 2}}
    content = {
        "plain": [None, True, 3, 2.5, "text", (1, [2, {3}]), b"bytes", {0: "key", (1, 2): "pair"}],
        "floats": [float("inf"), np.float32(0.5), np.arange(3, dtype=np.int16), np.zeros((0, 2))],
        "tensors": [shared.bfloat16(), shared > 2, torch.tensor(5), torch.empty(0, 3), shared.T, torch.Size([2])],
        "state": state,
    }
    statefile.write(path, {"results": 4}, content)
    assert path.stat().st_size < 3000
    found = statefile.read(path)
    assert statefile.read_about(path) == {"format": 1, "results": 4}
    assert found["plain"] == content["plain"]
    assert found["floats"][0] == float("inf") and found["floats"][2].dtype == np.int16
    for one, other in zip(content["tensors"], found["tensors"], strict=True):
        assert one == other if isinstance(one, tuple) else (one.dtype == other.dtype and torch.equal(one, other))
    assert found["state"]["weight"].data_ptr() == found["state"]["tied"].data_ptr()
    assert found["state"]._metadata == state._metadata
