"""Models of ultralytics, pruned by their own trainers on drawn boxes; a line of JSON says what came of each case.

python -m tests.integrations.yolo.cases FOLDER CASE ...
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import YOLO

from raycompress.errors import RaycompressError
from raycompress.integrations.ultralytics import compress_yolo
from raycompress.script import report
from raycompress.script.config import SLICE_KEY
from tests.integrations.yolo.drawn import SIZE, draw
from tests.integrations.yolo.opening import numbers, picture

DEFAULT = [{"sparsity": 0.4, "op_types": ["default"]}]
SLICED = {"compressor": "group_l1", "config_list": DEFAULT}
ARGUMENTS = {"imgsz": SIZE, "batch": 16, "device": "cpu", "plots": False, "verbose": False, "mosaic": 0.0, "seed": 1}
OPENING = Path(__file__).with_name("opening.py")
TASKS = {"detect": "yolo11n", "segment": "yolov8n-seg", "pose": "yolov8n-pose", "classify": "yolov8n-cls"}

Facts = dict[str, Any]


def main() -> None:
    """Run the cases that were named."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        case: Callable[[Path, str], Facts] = CASES[name]
        print("FACTS " + json.dumps({"case": name, **case(folder / name, name)}), flush=True)


def a_task(folder: Path, task: str) -> Facts:
    """Prune and train one epoch, and open what is saved in a process without raycompress."""
    data = draw(folder / "data", task, 48, 16)
    model, seen = YOLO(f"{TASKS[task]}.yaml"), Reports()
    compression = compress_yolo(model, SLICED)
    before: list[dict[str, float]] = []
    model.add_callback("on_train_start", lambda _: before.append(compression.evaluate()))
    model.train(data=str(data), epochs=1, project=str(folder), name="run", **ARGUMENTS)
    best = folder / "run" / "weights" / "best.pt"
    opened = without_raycompress(best, data)
    own = compression.compressor.model
    answers = numbers(own(picture(SIZE)))
    return {
        "dense": parameters(YOLO(f"{TASKS[task]}.yaml").model),
        "small": parameters(own),
        "reports": seen.values,
        "before": before,
        "difference": max(abs(one - other) for one, other in zip(answers, opened["answers"], strict=True)),
        **{name: opened[name] for name in ("parameters", "best", "square", "onnx")},
    }


def masked(folder: Path, how: str) -> Facts:
    """Train with masks, by a choice that is made in training or sliced after it."""
    data = draw(folder / "data", "detect", 48, 16)
    model, averages, steps = YOLO("yolov8n.yaml"), [], []  # type: Any, list[float], list[float]
    config = {"compressor": "group_taylor", "config_list": DEFAULT, "arguments": {"statistics_batch_num": 2}}
    compression = compress_yolo(model, config if how == "in-training" else {**SLICED, SLICE_KEY: "after"})
    model.add_callback("on_train_batch_end", lambda trainer: steps.append(zeros(trainer.model)))
    model.add_callback("on_model_save", lambda trainer: averages.append(zeros(trainer.ema.ema)))
    model.train(data=str(data), epochs=2, project=str(folder), name="run", nbs=16, **ARGUMENTS)
    opened = YOLO(folder / "run" / "weights" / "best.pt").model
    last = torch.load(folder / "run" / "weights" / "last.pt", weights_only=False)["model"]
    hooks = sum(len(one._forward_pre_hooks) for one in last.modules())
    return {
        "dense": parameters(last),
        "small": parameters(compression.compressor.model),
        "opened": parameters(opened),
        "averages": averages,
        "steps": steps,
        "hooks": hooks,
    }


def resumed(folder: Path, how: str) -> Facts:
    """Break a training off after its first epoch, and go on from last.pt in a new YOLO."""
    data = draw(folder / "data", "detect", 48, 16)
    config = SLICED if how == "resumed" else {**SLICED, SLICE_KEY: "after"}
    first = YOLO("yolov8n.yaml")
    before = compress_yolo(first, config, report=False)
    first.add_callback("on_fit_epoch_end", stop)
    with contextlib.suppress(KeyboardInterrupt):
        first.train(data=str(data), epochs=2, project=str(folder), name="run", **ARGUMENTS)
    last = folder / "run" / "weights" / "last.pt"
    second = YOLO(last)
    other = {**config, "config_list": [{"sparsity": 0.2, "op_types": ["default"]}]}  # what went goes all the same
    after = compress_yolo(second, other, report=False)
    started: list[Any] = []
    second.add_callback("on_train_start", lambda trainer: started.append(trainer.start_epoch))
    second.train(resume=True)
    before.compressor.apply_speedup()  # of masks, as the training would have done at its end
    return {
        "started": started,
        "small": parameters(after.compressor.model),
        "same": decided(before) == decided(after),
        "opened": parameters(YOLO(last).model),
        "best": parameters(YOLO(last.with_name("best.pt")).model),
    }


def again(folder: Path, _name: str) -> Facts:
    """Prune best.pt of a pruned network further, in a YOLO of its own; and what stock ultralytics makes of it."""
    data = draw(folder / "data", "detect", 32, 16)
    sizes = []
    model = YOLO("yolov8n.yaml")
    for turn in range(2):
        compression = compress_yolo(model, SLICED, report=False)
        model.train(data=str(data), epochs=1, project=str(folder), name=f"run{turn}", **ARGUMENTS)
        sizes.append(parameters(compression.compressor.model))
        best = folder / f"run{turn}" / "weights" / "best.pt"
        model = YOLO(best)
    model.train(data=str(data), epochs=1, project=str(folder), name="stock", **ARGUMENTS)
    return {"sizes": sizes, "opened": parameters(YOLO(best).model), "stock": parameters(model.model)}


def refused(folder: Path, _name: str) -> Facts:
    """Ask for what cannot be."""
    data = draw(folder / "data", "detect", 16, 16)

    def asking(config: Any = SLICED, **arguments: Any) -> None:
        model = YOLO("yolov8n.yaml")
        compress_yolo(model, config)
        model.train(**{"data": str(data), "epochs": 1, "project": str(folder), **ARGUMENTS, **arguments})

    def twice() -> None:
        model = YOLO("yolov8n.yaml")
        compress_yolo(model, SLICED)
        compress_yolo(model, SLICED)

    tries: dict[str, Callable[[], Any]] = {
        "module": lambda: compress_yolo(YOLO("yolov8n.yaml").model, SLICED),
        "twice": twice,
        "quantizer": lambda: asking({"compressor": "naive", "config_list": DEFAULT}),
        "data": lambda: asking(data=[str(data)]),
        "int8": lambda: asking(quantize=8),
        "compile": lambda: asking(compile=True),
        "rounds": lambda: asking(
            {"compressor": "lottery_ticket", "config_list": [{**DEFAULT[0], "prune_iterations": 3}]}
        ),
        "early": lambda: compress_yolo(YOLO("yolov8n.yaml"), SLICED).evaluate(),
    }
    return {name: message(one) for name, one in tries.items()}


CASES: dict[str, Callable[[Path, str], Facts]] = {
    **dict.fromkeys(TASKS, a_task),
    **dict.fromkeys(("in-training", "after"), masked),
    **dict.fromkeys(("resumed", "resumed-masked"), resumed),
    "again": again,
    "refused": refused,
}


class Reports:
    """What is reported from now on."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []
        deliver = report._deliver

        def watched(values: Any) -> None:
            self.values.append(dict(values))
            deliver(values)

        report._deliver = watched


def without_raycompress(best: Path, data: Path) -> Facts:
    """Open best.pt and its ONNX in a process that has no raycompress, and validate both."""
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [sys.executable, "-P", str(OPENING), str(best), str(data), str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=best.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FACTS ")]
    return dict(json.loads(line.removeprefix("FACTS ")))


def parameters(model: nn.Module) -> int:
    """Return how many a network has."""
    return sum(one.numel() for one in model.parameters())


def zeros(model: nn.Module) -> float:
    """Return the share of a network's convolutional weights that are zero."""
    weights = [one for one in model.parameters() if one.dim() == 4]
    return sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)


def decided(compression: Any) -> dict[str, list[int]]:
    """Return the shapes of a network, by which what went is known."""
    return {name: list(one.shape) for name, one in compression.compressor.model.state_dict().items()}


def stop(trainer: Any) -> None:
    """End the process's training after an epoch, as Ctrl-C does."""
    raise KeyboardInterrupt


def message(attempt: Callable[[], Any]) -> str:
    """Return what an attempt is refused with."""
    try:
        attempt()
    except RaycompressError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
