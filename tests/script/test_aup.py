"""The namespace `aup` of old scripts: every name of it, what it loads, and whom it goes before."""

import subprocess
import sys
from pathlib import Path

import pytest

from raycompress.script import aup as namespace
from raycompress.script.entry import aup_args
from raycompress.script.report import print_result


@pytest.fixture
def aup():
    namespace.install()
    yield sys.modules["aup"]
    for name in namespace.NAMES:
        del sys.modules[name]


def python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


INSTALL = "from raycompress.script import aup as namespace; namespace.install()\n"


@pytest.mark.parametrize(
    "statement",
    [
        "import aup; aup.BasicConfig, aup.aup_args, aup.aup_flags, aup.aup_save_model, aup.print_result",
        "from aup import print_result, aup_args",
        "from aup import BasicConfig, aup_flags, aup_save_model, compression",
        "import aup; aup.compression.create_compressor",
        "import aup; aup.compression.sensitivity_analysis.SensitivityAnalysis",
        "import aup.compression as compression; compression.create_compressor",
        "from aup.compression import create_compressor",
        "from aup.compression.sensitivity_analysis import SensitivityAnalysis",
        "from aup.compression.shape_dependency import ChannelDependency",
        "from aup.compression.mask_conflict import fix_mask_conflict",
        "import aup.compression.counter; aup.compression.counter.count_flops_params",
        "from aup import *; BasicConfig; print_result",
    ],
)
def test_the_imports_of_old_scripts(aup, statement):
    exec(statement, {})


def test_names_are_ours(aup):
    from raycompress.compressors.create import create_compressor

    assert aup.print_result is print_result
    assert aup.aup_args is aup_args
    assert aup.compression.create_compressor is create_compressor
    assert "print_result" in dir(aup)
    assert "print_result" in vars(aup)  # once asked for, a plain attribute


def test_an_unknown_name_is_answered_with_the_near_one(aup):
    with pytest.raises(AttributeError, match="module 'aup' has no attribute 'print_results'; did you mean 'print_re"):
        _ = aup.print_results
    with pytest.raises(AttributeError, match="did you mean 'compression'"):
        _ = aup.compresion
    assert not hasattr(aup.compression, "speedup")
    with pytest.raises(ImportError, match="print_results"):
        exec("from aup import print_results", {})
    with pytest.raises(ModuleNotFoundError, match=r"aup\.convert"):
        exec("import aup.convert", {})


def test_importing_it_loads_the_standard_library_only(tmp_path):
    code = """
before = set(sys.modules)
import aup, aup.compression
from aup import print_result, aup_args, aup_flags, aup_save_model, BasicConfig
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(loaded - sys.stdlib_module_names, aup.__spec__.name)
"""
    assert python("import sys\n" + INSTALL + code, tmp_path) == "{'raycompress'} aup\n"


def test_importing_raycompress_makes_no_aup(tmp_path):
    code = (
        "import sys, raycompress; raycompress.print_result, raycompress.create_compressor\nprint('aup' in sys.modules)"
    )
    assert python(code, tmp_path) == "False\n"


def test_it_goes_before_another_aup_even_a_loaded_one(tmp_path):
    (tmp_path / "aup").mkdir()
    (tmp_path / "aup" / "__init__.py").write_text("print('the other one')")
    (tmp_path / "aup" / "compression.py").write_text("")
    code = "import aup.compression\n" + INSTALL + "import aup.compression\nprint(aup.compression.__all__)"
    assert python(code, tmp_path) == "the other one\n['create_compressor']\n"
    assert python(INSTALL + "import aup\nprint(aup.__all__[0])", tmp_path) == "BasicConfig\n"


def test_the_modules_that_an_import_stands_for():
    assert "raycompress.script.entry" in namespace.modules_behind("aup")
    assert namespace.modules_behind("aup.compression") == ("raycompress.script.aup", "raycompress.compressors.create")
    assert namespace.modules_behind("aup.convert") == ("raycompress.script.aup",)
