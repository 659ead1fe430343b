"""A best.pt and the ONNX that is made of it are opened and validated, in a process that has no raycompress.

python -P tests/integrations/yolo/opening.py best.pt DATA SIZE
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor
from ultralytics import YOLO


def picture(size: int) -> Tensor:
    """Return an image of random pixels, always the same."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def numbers(answers: Any) -> list[float]:
    """Return some of the numbers that a network answers."""
    while not isinstance(answers, Tensor):
        answers = answers[0]
    return answers.flatten()[:: max(1, answers.numel() // 200)].tolist()


def main() -> None:
    """Print a line with what they answer and how good they are."""
    sys.modules["raycompress"] = None  # type: ignore[assignment]  # whatever asks for it gets an ImportError
    torch.set_num_threads(1)
    best, data, size = sys.argv[1:]
    arguments = {"data": data, "imgsz": int(size), "device": "cpu", "plots": False, "verbose": False}
    model = YOLO(best)
    facts = {
        "answers": numbers(model.model(picture(int(size)))),
        "parameters": sum(one.numel() for one in model.model.parameters()),
        "best": model.val(**arguments).results_dict,
        "square": YOLO(best).val(**arguments, rect=False).results_dict,  # as what is exported is validated
        "onnx": YOLO(YOLO(best).export(format="onnx", simplify=False), task=model.task).val(**arguments).results_dict,
    }
    print("FACTS " + json.dumps(facts))


if __name__ == "__main__":
    main()
