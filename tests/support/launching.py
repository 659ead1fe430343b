"""Launches of experiments as a user would: each command a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycompress.jsonc import as_json
from raycompress.results.record import SearchRecord

REPOSITORY = Path(__file__).parent.parent.parent
DIGITS = REPOSITORY / "configs" / "digits"
RESNET = REPOSITORY / "configs" / "digits_resnet"


@dataclass
class Launched:
    """A command that has ended."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def record(self) -> SearchRecord:
        (only,) = self.folder.glob("raycompress_results/*/")
        return SearchRecord.open(only)


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "raycompress", *map(str, words)]


def raycompress(folder: Path, *words: str | Path, timeout: float = 240) -> Launched:
    """Run the command line in `folder`, to its end."""
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, timeout=timeout, env=environment)
    return Launched(done.returncode, done.stdout, done.stderr, folder)


def digits_experiment(folder: Path, name: str = "auto_l1.json", home: Path = DIGITS, **changes: Any) -> Path:
    """Write a shipped experiment into `folder`, changed; its script stays where it is.

    Unless it is said otherwise trials run one after the other: each slot costs the start of an actor.
    """
    data = {**json.loads(as_json((home / name).read_text())), "workingdir": str(home), "n_parallel": 1, **changes}
    path = folder / "exp.json"
    path.write_text(json.dumps(data, indent=2))
    return path


def with_fewer_images(home: Path, to: Path) -> Path:
    """Copy a shipped example whose script trains on a fifth of the images and is measured on a third of the others."""
    shutil.copytree(home, to, ignore=shutil.ignore_patterns("raycompress_results", "__pycache__"))
    script = to / "train.py"
    text = script.read_text()
    for was, now in (("N_TRAIN = 1197", "N_TRAIN = 240"), ("order[N_TRAIN:]", "order[-200:]")):
        assert text.count(was) == 1
        text = text.replace(was, now)
    script.write_text(text)
    return to


_COMPRESSIONS = {
    "torch": {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]},
    # the one whose engine loads fastest
    "tensorflow": {"compressor": "level", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2D"]}]},
}


def number_experiment(folder: Path, script: str, framework: str = "", **changes: Any) -> Path:
    """Write an experiment whose script, given here, reports numbers; most of them compress nothing."""
    (folder / "script.py").write_text(script)
    framework = framework or ("torch" if "torch" in script or "create_compressor" in script else "tensorflow")
    data = {
        "name": "numbers",
        "script": "script.py",
        "compression": {"framework": framework, "type": "pruning", **_COMPRESSIONS[framework]},
        "baseline": False,
        **changes,
    }
    path = folder / "exp.json"
    path.write_text(json.dumps(data, indent=2))
    return path
