"""Drawn boxes: images of bright rectangles, squares and bars on noise, as a data set for YOLO."""

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("square", "wide", "tall")
SHAPES = ((1.0, 1.0), (1.8, 0.6), (0.6, 1.8))  # width and height, for a box of one
N_TRAIN, N_VAL = 192, 64


def draw(folder: Path, size: int = 64) -> Path:
    """Draw what is not there yet, and return the YAML that ``data=`` takes."""
    file = folder / "boxes.yaml"
    if not file.exists():
        generator = np.random.default_rng(0)
        for split, count in (("train", N_TRAIN), ("val", N_VAL)):
            for kind in ("images", "labels"):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                image, labels = picture(generator, size)
                Image.fromarray(image).save(folder / "images" / split / f"{index:04}.png")
                (folder / "labels" / split / f"{index:04}.txt").write_text("\n".join(labels) + "\n")
        names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
        file.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return file


def picture(generator: np.random.Generator, size: int) -> tuple[np.ndarray, list[str]]:
    """Return an image [size, size, 3] with a box in one to four of its quarters, and its labels as YOLO reads them."""
    image = generator.integers(0, 60, (size, size, 3), dtype=np.uint8)
    labels = []
    for quarter in generator.permutation(4)[: generator.integers(1, 5)]:
        kind = int(generator.integers(len(NAMES)))
        side = generator.uniform(0.16, 0.25) * size
        width, height = (max(4, round(side * one)) for one in SHAPES[kind])
        left = int(quarter % 2 * size // 2 + generator.integers(0, max(1, size // 2 - width)))
        top = int(quarter // 2 * size // 2 + generator.integers(0, max(1, size // 2 - height)))
        image[top : top + height, left : left + width] = generator.integers(120, 256, 3)
        x, y = (left + width / 2) / size, (top + height / 2) / size
        labels.append(f"{kind} {x:.5f} {y:.5f} {width / size:.5f} {height / size:.5f}")
    return image, labels
