"""The Ray that a process keeps for its next search, or had before raycompress."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import ray

import raycompress as rc
from raycompress.backend.ray import process
from raycompress.backend.ray.guard import MARK
from raycompress.backend.ray.local import ENVIRONMENT, LocalRay
from raycompress.errors import ClusterError
from raycompress.runtime.machine import machine_cpus
from tests.support.shared_ray import shared


@pytest.fixture(scope="module", autouse=True)
def _running() -> Iterator[None]:
    """Have the Ray of all tests run, which each one that is entered here joins."""
    with shared(), LocalRay(machine_cpus()):
        yield


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[process._Keeper]:
    """A keeper with no Ray of its own yet, in the place of the process's one."""
    keeper = process._Keeper()
    monkeypatch.setattr(process, "_keeper", keeper)
    yield keeper
    keeper.stop()


def kept_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "raycompress-ray"]


def test_a_ray_that_the_caller_has_connected_to_is_used_and_left(
    keeper: process._Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in ENVIRONMENT if name.startswith(("TUNE_", "RAY_AIR_"))]
    for name in (*names, "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "before")
    used = process.ray_of_this_process()
    assert isinstance(used, process.ConnectedRay)
    with used:
        assert [node["CPU"] for node in used.nodes()] == [ray.cluster_resources()["CPU"]]
    assert {os.environ[name] for name in names} == {ENVIRONMENT[name] for name in names}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "before", "it was read when the caller connected"
    with rc.local_ray():
        assert not keeper.is_running
    assert ray.is_initialized()


def test_a_ray_that_is_kept_is_there_for_the_next_search(keeper: process._Keeper) -> None:
    with process.KeptRay(1):
        assert keeper.is_running and MARK not in os.environ
        kept = keeper._ray
    assert isinstance(process.ray_of_this_process(), process.KeptRay)
    with process.KeptRay(1), rc.local_ray():
        assert keeper._ray is kept
    assert keeper.is_running
    keeper.stop()
    assert not keeper.is_running


def test_ray_lives_as_long_as_the_searches_inside(keeper: process._Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_is_connected", lambda: keeper._ray is not None)
    with pytest.raises(KeyError), rc.local_ray():
        assert keeper.is_running
        raise KeyError
    assert not keeper.is_running


def test_ray_outlives_the_thread_that_asked_for_it(keeper: process._Keeper) -> None:
    before = kept_threads()
    asking = threading.Thread(target=keeper.start)
    asking.start()
    asking.join()
    (starter,) = [thread for thread in kept_threads() if thread not in before]
    assert keeper.is_running and starter.is_alive() and starter.daemon
    keeper.stop()
    starter.join(10)
    assert not starter.is_alive()


def test_a_ray_that_somebody_has_shut_down_is_started_again(
    keeper: process._Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.start()
    first = keeper._ray
    with monkeypatch.context() as patch:
        patch.setattr(process, "_is_connected", lambda: False)
        assert not keeper.is_running
    keeper.start()
    assert keeper.is_running and keeper._ray is not first


def test_a_ray_that_does_not_start_is_an_error_for_who_asked(
    keeper: process._Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(ray: LocalRay) -> LocalRay:
        raise ClusterError("no room", where="/tmp", fix="make some")

    monkeypatch.setattr(LocalRay, "__enter__", full)
    caught: list[str] = []

    def ask() -> None:
        try:
            keeper.start()
        except ClusterError as error:
            caught.append(error.problems[0].what)

    before = kept_threads()
    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    assert caught == ["no room"] and not keeper.is_running
    for thread in set(kept_threads()) - set(before):
        thread.join(10)
        assert not thread.is_alive()
    monkeypatch.undo()
    asking = threading.Thread(target=keeper.start)
    asking.start()
    asking.join()
    assert keeper.is_running
