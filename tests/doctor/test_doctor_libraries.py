"""What the doctor says of versions; the faults are written into a folder of packages of our own."""

import sys
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

from raycompress.doctor.libraries import check_libraries


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package that is its metadata alone, before the real one."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def package(name, version, more=""):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}")

    return package


def found(name, n_gpus=0):
    return [check for check in check_libraries(n_gpus) if check.name == name]


def test_everything_fits_here():
    assert {check.state for check in check_libraries(0)} == {"ok"}
    names = [check.name for check in check_libraries(0)]
    assert names[:4] == ["Python", "ray", "torch", "nni"]


def test_a_library_that_is_too_old(install):
    install("ray", "2.9.0")
    (check,) = found("ray")
    assert check.state == "failed"
    wanted = next(str(one.specifier) for one in map(Requirement, requires("raycompress")) if one.name == "ray")
    assert ">=2.54" in wanted
    assert check.problem.what == f"ray 2.9.0 is not among {wanted}"
    assert check.problem.fix == f"pip install 'ray{wanted}'"


def test_a_library_that_is_not_shown_when_it_fits(install):
    assert not found("click")
    install("click", "7.0")
    (check,) = found("click")
    assert check.state == "failed"


def test_a_torch_for_cpus_beside_gpus(install):
    install("torch", "2.13.0+cpu")
    assert [check.state for check in found("torch", n_gpus=0)] == ["ok"]
    (check,) = found("torch", n_gpus=1)
    assert check.state == "warning"
    assert "for CUDA" in check.problem.fix


def test_an_extra_that_is_there_in_part(install):
    install("onnxruntime", "1.0")
    (check,) = found("extra onnx")
    assert check.state == "warning"
    assert check.problem.fix == "pip install 'raycompress[onnx]'"
    (extras,) = found("extras")
    assert "onnx" not in extras.detail


def test_an_extra_without_its_first_library_is_absent_though_another_one_is_there(install):
    wanted = "Requires-Dist: {}; extra == 'fancy'\n"
    more = "Provides-Extra: fancy\n" + wanted.format("no-such-thing>=1") + wanted.format("packaging>=1")
    install("raycompress", "0.1.0", more)
    (extras,) = found("extras")
    assert (extras.state, extras.detail) == ("ok", "none; absent: pip install 'raycompress[fancy]'")


def test_an_extra_that_is_absent_says_how_to_get_it(install):
    install("raycompress", "0.1.0", "Provides-Extra: fancy\nRequires-Dist: no-such-thing>=1; extra == 'fancy'\n")
    (extras,) = found("extras")
    assert (extras.state, extras.detail) == ("ok", "none; absent: pip install 'raycompress[fancy]'")


def test_a_python_that_is_not_supported(install):
    install("raycompress", "0.1.0", "Requires-Python: >=3.99\n")
    (check,) = found("Python")
    assert check.state == "failed"
    assert "not among >=3.99" in check.problem.what


def test_what_an_extra_cannot_bring_on_this_python_is_named(install):
    other = "3.12" if sys.version_info[:2] == (3, 11) else "3.11"
    asked = f"Requires-Dist: no-such-thing>=1; python_version == '{other}' and extra == 'fancy'\n"
    install("raycompress", "0.1.0", f"Provides-Extra: fancy\n{asked}")
    (check,) = found("extras on this Python")
    assert (check.state, check.detail) == ("ok", f"fancy without no-such-thing, which needs Python {other}")
    (extras,) = found("extras")
    assert extras.detail == "none"
