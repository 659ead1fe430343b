"""Prune a YOLO11n that finds drawn boxes, by ultralytics' own training.

::

    python train.py config.json              by hand: prints the metrics, and leaves best.pt and best.onnx in runs/
    raycompress launch yolo.json             a search

ultralytics is AGPL-3.0: so is a program that is made with it, unless its makers have sold you another licence.
"""

import sys
from pathlib import Path

import boxes
from ultralytics import YOLO

import raycompress as rc
from raycompress.integrations.ultralytics import compress_yolo

USUAL = {"imgsz": 64, "batch": 16, "device": "cpu", "plots": False, "verbose": False, "mosaic": 0.0, "nbs": 16}


def dense(epochs: int) -> bytes:
    """Return best.pt of a dense YOLO, trained from a random start."""
    data = boxes.draw(Path("boxes"))
    model = YOLO("yolo11n.yaml")
    model.train(data=str(data), epochs=epochs, project=str(Path.cwd() / "runs"), name="dense", exist_ok=True, **USUAL)
    return Path(model.trainer.best).read_bytes()


def main(config: rc.BasicConfig) -> None:
    data = boxes.draw(Path("boxes"))
    start = Path("dense.pt")
    start.write_bytes(rc.shared(dense, config.get("dense_epochs", 30)))  # trained once, for all trials
    model = YOLO(start)

    compression = compress_yolo(model, config)
    model.add_callback("on_train_start", lambda _: print("before fine-tuning:", compression.evaluate()))
    model.train(data=str(data), epochs=config.get("epochs", 10), **USUAL)
    print(model.trainer.best, model.export(format="onnx", simplify=False))  # YOLO(...) opens both, without raycompress


if __name__ == "__main__":
    main(rc.BasicConfig().load(sys.argv[1]))
