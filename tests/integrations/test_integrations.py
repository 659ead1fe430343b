"""What belongs to another trainer is loaded when it is used, and says which extra brings it."""

import subprocess
import sys

import pytest

from raycompress.errors import MissingDependencyError


def test_nothing_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, raycompress, raycompress.integrations, raycompress.integrations.transformers as ours\n"
        "print(sorted({'torch', 'transformers', 'accelerate', 'ray'} & set(sys.modules)), ours.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] [")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match="compress_trainer needs transformers") as caught:
        from raycompress.integrations.transformers import compress_trainer  # noqa: F401
    assert caught.value.problems[0].fix == "pip install 'raycompress[transformers]'"
