"""What several tests share: experiments in a folder of their own, and launches of them as a user would."""

from __future__ import annotations

import importlib
import importlib.util
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from raycompress.results.s3 import objects
from tests.support.launching import RESNET, Launched, with_fewer_images
from tests.support.outside import s3server
from tests.support.shared_ray import run_here

if importlib.util.find_spec("triton"):
    # it comes with torch's builds for GPUs, and crashes a process that has imported TensorFlow before it
    importlib.import_module("triton")

pytest_plugins = ["tests.support.kinds", "tests.support.loading", "tests.support.plugin", "tests.support.workers"]

# `make nightly` takes the second one: more examples, and other ones each night
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("ci")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell's background job: what the tests start would inherit it, and no Ctrl-C would reach them
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def is_nightly(pytestconfig: pytest.Config) -> bool:
    """Whether there is time for many more kills, as for many more examples."""
    return bool(pytestconfig.getoption("--hypothesis-profile") == "nightly")


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Launched]:
    """Launch an experiment file in a folder of its own, by this process and on the Ray of all tests."""
    return lambda path, *words: run_here(tmp_path, "launch", path, *words)


@pytest.fixture(scope="session")
def small_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of a tied network, with fewer images; nothing may be left in it."""
    return with_fewer_images(RESNET, tmp_path_factory.mktemp("resnet") / "example")


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3server.S3]:
    """Serve S3, to this process and to the commands that it runs, with a cache folder of the test's own."""
    with s3server.server() as server:
        more = {"AWS_ENDPOINT_URL": server.url, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        for name, value in {**s3server.ENVIRONMENT, **more}.items():
            monkeypatch.setenv(name, value)
        objects.new_client()
        yield server
        objects.new_client()  # the next test's server is another
