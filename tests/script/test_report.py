"""print_result, report and save_model, by hand and in a trial."""

import json
import math
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest
import torch

from raycompress.errors import ResultError
from raycompress.script import context
from raycompress.script.report import print_result, report, save_model


@pytest.fixture
def trial(tmp_path):
    """A trial of this process, and the messages that it sent as JSON."""
    sent = []
    trial = context.Trial(
        mode="trial",
        candidate=tmp_path,
        send=lambda message: sent.append(json.loads(json.dumps(message, allow_nan=False))),
        result_labels=("accuracy", "latency_ms"),
    )
    trial.sent = sent
    context.enter(trial)
    yield trial
    context.enter(None)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0.97, 0.97),
        (3, 3),
        ("0.97", 0.97),
        (" 1e-3\n", 0.001),
        (np.float32(0.5), 0.5),
        (np.array(0.5), 0.5),
        (np.array([0.5]), 0.5),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([2]), 2),
        (Decimal("0.5"), 0.5),
        ([0.97], 0.97),
    ],
)
def test_what_is_a_number(trial, value, number):
    print_result(value)
    (message,) = trial.sent
    assert message == {"type": "result", "values": {"accuracy": number}}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "NoneType"),
        (True, "bool"),
        ({"accuracy": 0.9}, "dict"),
        ("high", "str 'high'"),
        (1j, "complex"),
        (np.zeros(3), "ndarray of shape (3,)"),
        (torch.zeros(2, 2), "Tensor of shape (2, 2)"),
        ([0.9, [0.8]], "list"),
        ([0.9, None], "latency_ms is no number"),
        ([], "empty list"),
        (10**400, "int"),
        (object, "type"),
    ],
)
def test_what_is_no_number(trial, value, kind):
    with pytest.raises(ResultError) as raised:
        print_result(value)
    assert kind in str(raised.value)
    assert trial.sent == []


def test_names_of_a_list(trial, capsys):
    print_result((0.9, 4, 7))
    assert trial.sent[-1]["values"] == {"accuracy": 0.9, "latency_ms": 4, "result_2": 7}
    context.enter(None)
    print_result([0.9, 4])
    assert capsys.readouterr().out == "result: 0.9\nresult_1: 4\n"


def test_report_keeps_names_and_order(trial):
    report(loss=0.1, accuracy="0.9")
    assert list(trial.sent[-1]["values"].items()) == [("loss", 0.1), ("accuracy", 0.9)]
    with pytest.raises(ResultError, match="no metric"):
        report()
    with pytest.raises(ResultError, match="loss is no number"):
        report(accuracy=0.9, loss=None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "NaN", np.float32("nan")])
def test_what_is_not_finite_is_sent_as_a_word(trial, value):
    print_result(value)
    assert trial.sent[-1]["values"]["accuracy"] == str(float(value))


def test_hooks_see_every_report_and_results_are_sent_in_trials_only(trial):
    seen = []
    trial.on_report.append(lambda values: seen.append(dict(values)))
    for trial.mode in ("trial", "baseline"):
        report(accuracy=0.9)
    for trial.mode in ("inspect", "verify"):  # there is nothing to learn beyond a result
        with pytest.raises(context.EndOfInspection):
            report(accuracy=0.9)
    assert seen == [{"accuracy": 0.9}] * 4
    assert len(trial.sent) == 2


def test_a_hook_that_raises_keeps_the_result_back(trial):
    def hook(values):
        raise ValueError("changed since")

    trial.on_report.append(hook)
    with pytest.raises(ValueError, match="changed since"):
        report(accuracy=0.9)
    assert trial.sent == []


def test_by_hand_results_are_printed(capsys):
    report(accuracy=0.9731, latency_ms=4)
    assert capsys.readouterr().out == "accuracy: 0.9731\nlatency_ms: 4\n"


def test_save_model_calls_now_unless_no_model_is_kept(trial):
    assert save_model(lambda *a, **k: (a, k), 1, b=2) == ((1,), {"b": 2})
    trial.save_model = False
    assert save_model(pytest.fail) is None
    context.enter(None)
    assert save_model(lambda: 5) == 5


def test_reporting_loads_the_standard_library_only():
    code = """
import sys
before = set(sys.modules)
import raycompress as rc
rc.report(accuracy=0.5)
rc.BasicConfig(a=1)
rc.experiment(lambda config: None)({})
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(loaded - sys.stdlib_module_names)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "accuracy: 0.5\n{'raycompress'}\n"
