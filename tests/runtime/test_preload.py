"""What a script will import, found by reading it."""

import os
import subprocess
import sys

import pytest

from raycompress.runtime.preload import find_imports
from raycompress.runtime.protocol import Import


@pytest.fixture
def read(tmp_path):
    """Write files, the first of them the script; return the imports as (module, names, required)."""

    def read(files, **more):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        found = find_imports(tmp_path / next(iter(files)), tmp_path, **more)
        return [(item.module, item.names, item.required) for item in found]

    return read


def test_imports_at_module_level_in_their_order(read):
    source = """
from __future__ import annotations
import numpy as np, json
import torch.nn.functional as F
from sklearn.datasets import load_digits, make_blobs
from os.path import *
class A:
    import decimal
with open("x") as file:
    import csv
print("never run", 1 / 0)
"""
    modules = [item for item in read({"train.py": source}) if item[2]]
    assert modules == [
        ("numpy", (), True),
        ("json", (), True),
        ("torch.nn.functional", (), True),
        ("sklearn.datasets", ("load_digits", "make_blobs"), True),
        ("os.path", (), True),
        ("decimal", (), True),
        ("csv", (), True),
    ]


def test_what_may_fail_and_what_never_runs(read):
    source = """
import typing
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import pandas
elif typing.TYPE_CHECKING:
    import polars
else:
    import wave
try:
    import tensorflow
except ImportError:
    import fallback
else:
    import after
if __name__ == "__main__":
    import argparse
for _ in ():
    import looped
def f():
    import late
async def g():
    import later
"""
    optional = [module for module, _, required in read({"train.py": source}) if not required]
    assert optional == ["wave", "tensorflow", "after", "argparse", "looped"]


def test_local_modules_are_read_not_listed(read):
    files = {
        "train.py": "import helper\nfrom net.blocks import Block\nfrom net import heads\ntry:\n    import extra\n"
        "except ImportError:\n    pass\nfrom data import load",
        "helper.py": "import train\nimport scipy",
        "net/__init__.py": "import math",
        "net/blocks.py": "from . import layers\nfrom .deep.down import thing\nimport torch",
        "net/layers.py": "import numpy",
        "net/heads.py": "import statistics",
        "net/deep/__init__.py": "",
        "net/deep/down.py": "from ..layers import x\nimport fractions",
        "extra.py": "import pandas",
        "data/load.py": "import csv",
    }
    found = read(files)
    ours = next(i for i, (module, _, _) in enumerate(found) if module.startswith("raycompress."))
    assert found[:ours] == [
        ("scipy", (), True),
        ("math", (), True),
        ("numpy", (), True),
        ("fractions", (), True),
        ("torch", (), True),
        ("statistics", (), True),
        ("pandas", (), False),
        ("csv", (), True),
    ]


def test_modules_beside_the_script_and_in_the_working_folder(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("import beside\nimport above")
    (tmp_path / "src" / "beside.py").write_text("import csv")
    (tmp_path / "above.py").write_text("import wave")
    found = find_imports(tmp_path / "src" / "train.py", tmp_path)
    assert found == (Import("csv", where="beside.py:1"), Import("wave", where="above.py:1"))


def test_a_folder_of_an_installed_modules_name_is_not_local(read):
    files = {"train.py": "import sklearn\nimport random", "sklearn/cache.txt": "", "random/x.txt": ""}
    assert read(files) == [("sklearn", (), True), ("random", (), True)]


def test_what_the_engine_needs_comes_last(tmp_path):
    (tmp_path / "train.py").write_text("import raycompress as rc\nimport ray\nimport torch")
    found = find_imports(tmp_path / "train.py", tmp_path, engine="raycompress.compressors.engines.ranking.engine")
    assert found[:3] == (
        Import("raycompress", where="train.py:1"),
        Import("torch", where="train.py:3"),
        Import("raycompress.compressors.engines.ranking.engine", call="load_library"),
    )
    assert {"torch_pruning", "torch._dynamo"} <= {item.module for item in found[3:]}
    assert not any(item.required for item in found[3:])


def test_an_experiment_of_tensorflow_loads_no_torch(tmp_path):
    (tmp_path / "train.py").write_text("import keras\nimport raycompress as rc")
    found = find_imports(
        tmp_path / "train.py", tmp_path, engine="raycompress.compressors.keras.level", framework="tensorflow"
    )
    modules = {item.module for item in found}
    assert {"keras", "raycompress.compressors.keras.modes", "safetensors.numpy"} <= modules
    assert not any(module.partition(".")[0] in ("torch", "torch_pruning") for module in modules)


@pytest.mark.parametrize("source", ["def f(:", "\0", "import \xff"])
def test_what_is_no_python_has_no_imports(tmp_path, source):
    (tmp_path / "train.py").write_bytes(source.encode("latin-1"))
    assert find_imports(tmp_path / "train.py", tmp_path) == ()
    assert find_imports(tmp_path / "missing.py", tmp_path) == ()


@pytest.mark.engine
def test_a_tensorflow_that_has_computed_is_told_before_a_child_hangs() -> None:
    program = (
        "import tensorflow\n"
        "from raycompress.runtime.warm import _try_tensorflow\n"
        "assert not _try_tensorflow()\n"
        "tensorflow.constant(1) + 1\n"
        "assert 'ran an operation of TensorFlow' in _try_tensorflow()\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@pytest.mark.parametrize("beside", [{}, {"aup.py": "import wave"}, {"aup/__init__.py": "import wave"}])
def test_of_the_old_tool_what_it_stands_for_is_loaded(read, beside):
    source = "import aup\nfrom aup import compression\nfrom aup.compression.shape_dependency import ChannelDependency"
    found = read({"train.py": source, **beside})
    modules = [module for module, _, _ in found]
    assert not any(required for _, _, required in found)
    assert not any(module.partition(".")[0] in ("aup", "wave") for module in modules)
    assert {
        "raycompress.script.aup",
        "raycompress.script.saving",
        "raycompress.compressors.create",
        "raycompress.compressors.analysis.shape_dependency",
        "torch_pruning",
    } <= set(modules)
    assert len(modules) == len(set(modules))


def test_an_old_script_of_tensorflow_loads_no_torch(read):
    found = read({"train.py": "import tensorflow\nfrom aup import print_result"}, framework="tensorflow")
    assert "raycompress.script.report" in {module for module, _, _ in found}
    assert not any(module.partition(".")[0] in ("torch", "torch_pruning") for module, _, _ in found)


def test_triton_comes_before_tensorflow_which_would_make_it_crash(read):
    both = [module for module, _, _ in read({"train.py": "import tensorflow\nimport torch"})]
    assert both[0] == "triton"
    assert "tensorflow" in both[1:]
    assert "triton" not in {module for module, _, _ in read({"train.py": "import torch"})}
    alone = read({"train.py": "import tensorflow"}, framework="tensorflow")
    assert "triton" not in {module for module, _, _ in alone}
