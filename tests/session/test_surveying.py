"""What is kept of a survey, and what becomes of a search whose survey fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycompress.config.experiment import Experiment
from raycompress.forecast.prior import Goal, Prior
from raycompress.model.info import ModelInfo
from raycompress.session.survey import Pace, _caches, is_opposite
from tests.support.launching import Launched, digits_experiment

RESNET = Path(__file__).parents[2] / "configs" / "digits_resnet"
MODEL = ModelInfo((), None, (), 0, 0, 0, None)

SCRIPT = """
import sys
sys.path.insert(0, {home!r})
import torch, train
import raycompress as rc

def evaluate(model):
    raise ValueError("no such data")

@rc.experiment
def main(config):
    model = train.ResNet()
    rc.create_compressor(model, config, evaluator=evaluate, dummy_input=torch.randn(1, 1, 8, 8))

main()
"""


@pytest.mark.parametrize(("each_s", "told"), [(1.0, 0), (30.0, 1)])
def test_a_long_survey_says_so_once(each_s: float, told: int) -> None:
    notes: list[str] = []
    now = 0.0
    pace = Pace(notes.append, lambda: now)
    for done in range(60):
        pace.add(done, 60)
        now += each_s
    assert len(notes) == told
    assert all("30 minutes" in note or "29 minutes" in note for note in notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"script": "train.py --other-data"},
        {"constraints": {"flops": {"max_ratio": 0.3}}},
        {"target": "min"},
        {"parameter_config": [{"name": "lr", "type": "float", "range": [0.1, 0.2]}]},
        {"runtime_args": {"env": {"DATA": "other"}}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_may_change_a_survey_makes_another_one(changes: dict[str, Any], tmp_path: Path) -> None:
    def cached(changes: dict[str, Any]) -> Path:
        path = digits_experiment(tmp_path, "budget.json", RESNET)
        data = {**json.loads(path.read_text()), "target": "max", "constraints": {}, **changes}
        del data["objectives"]
        path.write_text(json.dumps(data))
        return _caches(Experiment.load(path), MODEL)[1]

    assert cached(changes) != cached({})
    assert cached(changes) == cached(changes)


def test_curves_are_those_of_every_budget_and_of_all_times(tmp_path: Path) -> None:
    def cached(model: ModelInfo, **changes: Any) -> tuple[Path, Path]:
        path = digits_experiment(tmp_path, "budget.json", RESNET, **changes)
        return _caches(Experiment.load(path), model)

    half, quarter = ({"flops": {"max_ratio": share}} for share in (0.5, 0.25))
    first, other = cached(MODEL, constraints=half), cached(MODEL, constraints=quarter)
    assert first[0] == other[0] and first[1] != other[1]
    timed, again = (replace(MODEL, dense_ms={"onnxruntime": ms}) for ms in (1.25, 1.5))
    assert cached(timed, constraints=half) == cached(again, constraints=half)
    assert cached(timed, constraints=half)[0] == first[0]
    assert cached(timed, constraints=half)[1] != first[1]  # other sizes are known beforehand
    assert cached(replace(MODEL, weights="others"), constraints=half)[0] != first[0]
    there = cached(MODEL, constraints={"latency_ms": {"max_ratio": 0.5}}, target={"runtime": "onnxruntime"})
    assert there[0] == first[0]
    assert there[1] != cached(MODEL, constraints={"latency_ms": {"max_ratio": 0.5}})[1]


def test_blocks_and_later_stages_make_another_survey(tmp_path: Path) -> None:
    def cached(depth: dict[str, Any], bits: list[int]) -> Path:
        path = digits_experiment(tmp_path, "tenth.json", RESNET)
        data = json.loads(path.read_text())
        data["compression"][0]["depth"] = depth
        data["compression"][1]["config_list"][0]["quant_bits"]["range"] = bits
        path.write_text(json.dumps(data))
        return _caches(Experiment.load(path), MODEL)[1]

    one, *others = [
        cached({"blocks": ["stage1.0"]}, [32, 8]),
        cached({"blocks": ["stage1.1"]}, [32, 8]),
        cached({"blocks": ["stage1.0"]}, [8, 4]),
    ]
    assert one not in others


@pytest.mark.parametrize(("goal", "told"), [("max", False), ("min", True)])
def test_an_evaluator_of_the_opposite_metric_is_noticed(goal: Goal, told: bool) -> None:
    curves = {f"l{place}": [(0.4, 0.8), (0.9, 0.3 + 0.1 * place)] for place in range(4)}
    assert is_opposite(Prior(0.9, curves), goal) is told
    assert not is_opposite(Prior(0.9, {"l": [(0.9, 0.3)]}), goal)
    assert not is_opposite(Prior(0.5, curves), goal)  # of some layers only


def test_a_search_whose_survey_fails_is_told_as_failed(
    tmp_path: Path, launch: Callable[..., Launched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "script.py").write_text(SCRIPT.format(home=str(RESNET)))
    path = digits_experiment(tmp_path, "budget.json", RESNET, workingdir=".", script="script.py", n_samples=1)
    done = launch(path)
    assert done.code != 0
    assert "no such data" in done.err
    assert done.record.state == "failure"
    assert "no such data" in done.record.finished_detail


def test_guided_without_a_dimension_to_measure_is_told(tmp_path: Path, launch: Callable[..., Launched]) -> None:
    path = digits_experiment(tmp_path, "budget.json", RESNET)
    data = json.loads(path.read_text())
    data["compression"]["config_list"][0]["sparsity"] = 0.5
    data["parameter_config"] = [{"name": "lr", "type": "float", "range": [0.1, 0.2]}]
    path.write_text(json.dumps(data))
    done = launch(path)
    assert done.code == 2
    assert "none of these is searched here" in " ".join(done.err.split())


QUANTIZES = """
import sys

sys.path[:0] = [{home!r}]
import torch
import train

import raycompress as rc


@rc.experiment
def main(config):
    images, labels = train.load_data()[1]
    model = train.ResNet()
    model.load_state_dict(torch.load(train.WEIGHTS, weights_only=True))
    evaluate = lambda model: train.evaluate(model, images[:200], labels[:200])
    compressor = rc.create_compressor(
        model, config, dummy_input=images[:1], evaluator=evaluate, calibration=images[200:].split(64)
    )
    rc.report(accuracy=evaluate(compressor.compress()))
    rc.save_model(compressor.export_model, model_path="model.pth")


if __name__ == "__main__":
    main()
"""


def test_bits_alone_by_what_each_layer_bears(
    tmp_path: Path, launch: Callable[..., Launched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "script.py").write_text(QUANTIZES.format(home=str(RESNET)))
    path = tmp_path / "exp.json"
    entry = {"op_types": ["Conv2d"], "quant_bits": "sensitivity", "expand_op_names": False}
    path.write_text(
        json.dumps(
            {
                "name": "bits",
                "script": "script.py",
                "compression": {
                    **{"framework": "torch", "type": "quantization", "compressor": "ptq_static"},
                    "config_list": [entry],
                },
                "objectives": {"size_bytes": "min"},
                "constraints": {"accuracy": {"max_drop": 0.05}},
                **{"proposer": "guided", "n_samples": 2, "random_seed": 0},
            }
        )
    )
    done = launch(path)
    assert done.code == 0, done.err
    record = done.record
    (name,) = record.header["dimensions"]
    prior = Prior.from_json(json.loads(record.folder.prior.read_text()))
    assert [bits for bits, _ in prior.curves[name]] == [8, 4]
    assert "bytes of a quantized file are predicted" in " ".join(done.err.split())
    assert record.best_number is not None
    best = record.records[record.best_number]
    assert best.sample[name] == 4 and best.values["accuracy"] > 0.9
