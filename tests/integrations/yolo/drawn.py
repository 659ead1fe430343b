"""The boxes of configs/yolo as data of each task of ultralytics: boxes, outlines, corners, and one box an image."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.launching import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "configs" / "yolo"))
import boxes

SIZE = 64


def draw(folder: Path, task: str, train: int, val: int) -> Path:
    """Draw what ``data=`` of a task takes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            image, labels = boxes.picture(generator, SIZE)
            if task == "classify":
                kind = int(labels[0].split()[0])
                place = folder / split / boxes.NAMES[kind]
                image = np.where(np.arange(SIZE)[:, None, None] // 8 % 3 == kind, 255 - image, image).astype(np.uint8)
            else:
                place, written = folder / "images" / split, folder / "labels" / split
                written.mkdir(parents=True, exist_ok=True)
                (written / f"{index}.txt").write_text("\n".join(_label(one, task) for one in labels) + "\n")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{index}.png")
    if task == "classify":
        return folder
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(boxes.NAMES))
    points = "kpt_shape: [4, 3]\nflip_idx: [1, 0, 3, 2]\n" if task == "pose" else ""
    file = folder / "data.yaml"
    file.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\n{points}names:\n{names}")
    return file


def _label(line: str, task: str) -> str:
    kind, *rest = line.split()
    x, y, width, height = map(float, rest)
    corners = [(x + across * width / 2, y + down * height / 2) for across, down in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    if task == "segment":
        return f"{kind} " + " ".join(f"{one:.5f}" for corner in corners for one in corner)
    return f"{line} " + " ".join(f"{across:.5f} {down:.5f} 2" for across, down in corners) if task == "pose" else line
