"""A search of a script with a Trainer, on Ray: one trial is lost and goes on, another is ended in the middle."""

import pytest

from raycompress.results.journal import journal
from raycompress.states import TrialState
from tests.backend.test_checkpoints import launch
from tests.support.launching import number_experiment

transformers = pytest.importorskip("transformers")

SCRIPT = """
import os, sys, time
import psutil, torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
import raycompress as rc
from raycompress.integrations.transformers import compress_trainer

class Losing(TrainerCallback):
    def on_epoch_begin(self, args, state, control, **more):
        print("epoch", round(state.epoch))

    def on_step_end(self, args, state, control, **more):
        is_first = not os.path.exists("../log.start-1.txt")
        if state.global_step == 7 and config["tid"] == 1 and is_first:  # of eight: three epochs are saved
            driver = psutil.Process(int(os.environ["RAYCOMPRESS_TEST_DRIVER"]))
            (actor,) = [one for one in driver.children(recursive=True) if one.name().lower().startswith("ray::trial")]
            actor.kill()
            time.sleep(600)

config = rc.BasicConfig().load(sys.argv[1])
torch.manual_seed(0)
sizes = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(intermediate_size=48, num_key_value_heads=2, **sizes))
rows = [{"input_ids": row, "labels": row} for row in torch.arange(10) + torch.arange(22)[:, None]]
given = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "no", "num_train_epochs": 4}
given |= {"report_to": [], "disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 11}
arguments = TrainingArguments("out", learning_rate=config.lr, **given)
trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:8], callbacks=[Losing()])
compression = compress_trainer(trainer, config)
trainer.train()
compression.save_pretrained("small")
"""


def test_a_lost_trial_goes_on_and_a_bad_one_is_ended_in_the_middle(tmp_path) -> None:
    entries = [{"sparsity": 0.5, "op_types": ["default"]}]
    compression = {"framework": "torch", "type": "pruning", "compressor": "group_l1", "config_list": entries}
    path = number_experiment(
        tmp_path,
        SCRIPT,
        compression=compression,
        parameter_config=[{"name": "lr", "type": "choice", "range": [0.02, 1e-6]}],
        objectives={"eval_loss": "min"},
        proposer="sequence",
        scheduler={"type": "asha"},
        max_iter=4,
    )
    done = launch(tmp_path, path)
    assert done.code == 0, done.err
    record = done.record
    lost, bad = record.searched
    assert (lost.state, lost.starts, lost.continued, lost.steps) == (TrialState.FINISHED, 2, 3, [1, 2, 3, 4])
    log = (record.folder.trial(1) / "log.txt").read_text()
    assert [line for line in log.splitlines() if line.startswith("epoch")] == ["epoch 3"]
    (event,) = [event for event in journal.read(record.folder.journal) if event["event"] == "continued"]
    assert event["at"] == {"epoch": 3.0, "step": 6}
    assert lost.seconds == pytest.approx(event["seconds"] + lost.last_start_seconds)
    assert (bad.state, bad.steps) == (TrialState.ENDED_EARLY, [1])
    assert bad.values["eval_loss"] > lost.values["eval_loss"]
    assert record.best_number == 1
    model = transformers.AutoModelForCausalLM.from_pretrained(record.bundle / "small")
    assert sum(one.numel() for one in model.parameters()) == lost.after["params"]
