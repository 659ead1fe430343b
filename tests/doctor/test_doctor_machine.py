"""What the doctor finds on machines that lack something."""

import socket
from pathlib import Path

import pytest

from raycompress.doctor import machine

GPU = "NVIDIA L4, 23034 MiB, 570.86.15"


def only(name, storage, for_cluster=False):
    (check,) = [check for check in machine.check_machine(storage, for_cluster=for_cluster) if check.name == name]
    return check


def nvidia_smi(folder, monkeypatch, script):
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_a_folder_that_is_not_there_yet_is_looked_at_where_it_would_be_made(tmp_path):
    check = only("results folder", tmp_path / "not" / "yet")
    assert check.state in ("ok", "warning")
    assert "GB are free" in check.detail


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    check = only("results folder", tmp_path / "file" / "results")
    assert check.state == "failed"
    assert check.problem.where == str(tmp_path / "file")


def test_tmpdir_is_the_one_that_is_set(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_DISK_GB", 1e9)
    check = only("TMPDIR", tmp_path)
    assert check.state == "warning"
    assert "the disk is nearly full" in check.problem.what


def test_a_port_that_another_program_has(tmp_path, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(machine, "_PORTS", {port: "it is ours"})
        check = only(f"port {port}", tmp_path)
        assert check.state == "warning"
        assert "it is ours" in check.problem.what
        assert str(port) in check.problem.fix
    assert only(f"port {port}", tmp_path).state == "ok"


@pytest.mark.parametrize(("for_cluster", "state"), [(False, "warning"), (True, "failed")])
def test_programs_that_a_cluster_needs(tmp_path, monkeypatch, for_cluster, state):
    monkeypatch.setenv("PATH", str(tmp_path))
    check = only("rsync", tmp_path, for_cluster)
    assert check.state == state
    assert check.problem.fix == "apt-get install rsync"


def test_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.check_gpus(0).state == "ok"
    assert machine.check_gpus(1).problem.what == "there are 1, and no nvidia-smi"


def test_gpus_are_named(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, f"echo '{GPU}'; echo '{GPU}'")
    check = machine.check_gpus(2)
    assert (check.state, check.detail) == ("ok", f"{GPU}; {GPU}")


def test_gpus_that_are_hidden(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, f"echo '{GPU}'")
    check = machine.check_gpus(0)
    assert check.state == "warning"
    assert check.problem.where == "CUDA_VISIBLE_DEVICES"


def test_a_driver_that_is_broken(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    check = machine.check_gpus(1)
    assert check.state == "failed"
    assert "Driver/library version mismatch" in check.problem.what


def test_a_driver_that_hangs(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, "exec /bin/sleep 60")
    monkeypatch.setattr(machine, "_NVIDIA_SMI_S", 0.2)
    check = machine.check_gpus(1)
    assert check.state == "failed"
    assert "timed out" in check.problem.what


def test_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_MEMORY_GB", 1e9)
    check = only("memory", Path(tmp_path))
    assert check.state == "warning"
    assert '"n_parallel"' in check.problem.fix
