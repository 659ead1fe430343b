"""What belongs to another trainer is loaded when it is used, and says which extra brings it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import raycompress
from raycompress.catalog import find
from raycompress.errors import CompressionError, MissingDependencyError, UsageError
from raycompress.integrations.compressing import refuse_rounds, refuse_stages
from raycompress.script.config import STAGES_KEY

IMPORT = re.compile(
    r"^\s*(import ultralytics|from ultralytics[. ])|(import_module|load_extra)\(.ultralytics", re.MULTILINE
)


def test_nothing_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, raycompress, raycompress.integrations, raycompress.integrations.transformers as ours\n"
        "import raycompress.integrations.ultralytics as other, raycompress.integrations.lightning as third\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'lightning', 'pytorch_lightning', 'ultralytics', 'ray'}\n"
        "print(sorted(heavy & set(sys.modules)), ours.__all__, other.__all__, third.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] [")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match="compress_trainer needs transformers") as caught:
        from raycompress.integrations.transformers import compress_trainer  # noqa: F401
    assert caught.value.problems[0].fix == "pip install 'raycompress[transformers]'"


def test_a_missing_lightning_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match="compress_trainer needs lightning") as caught:
        from raycompress.integrations.lightning import compress_trainer  # noqa: F401
    assert caught.value.problems[0].fix == "pip install 'raycompress[lightning]'"


def test_a_missing_ultralytics_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(MissingDependencyError, match="compress_yolo needs ultralytics") as caught:
        from raycompress.integrations.ultralytics import compress_yolo  # noqa: F401
    assert caught.value.problems[0].fix == "pip install 'raycompress[ultralytics]'"


def test_no_file_of_ours_imports_ultralytics() -> None:
    package = Path(raycompress.__file__).parent
    found = [path for path in package.rglob("*.py") if IMPORT.search(path.read_text())]
    assert found == []


def test_what_prunes_in_rounds_is_refused_before_it_asks_for_anything() -> None:
    with pytest.raises(CompressionError, match="lottery_ticket prunes in rounds"):
        refuse_rounds(find("lottery_ticket", "torch"), "compress_trainer", "take group_l1")
    refuse_rounds(find("group_l1", "torch"), "compress_trainer", "take group_l1")


def test_several_stages_are_refused_whether_given_or_the_trials_own() -> None:
    stages = [{"compressor": "group_l1", "config_list": []}, {"compressor": "ptq_static"}]
    first = {**stages[0], STAGES_KEY: stages[1:]}
    for config in (stages, first):
        with pytest.raises(UsageError, match="in one stage, and the configuration has several"):
            refuse_stages(config, "compress_trainer", "train with a loop of your own")
    refuse_stages(stages[0], "compress_trainer", "train with a loop of your own")
