"""The cluster file that Ray is given."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raycompress.clusters.file import files, security
from raycompress.clusters.reach.home import ClusterHome
from raycompress.clusters.ship.prepared import TOKEN, activation, prepare, stop_command

SHIPPED = [name for name in files.shipped() if "kuberay" not in name]


@pytest.fixture(params=SHIPPED)
def data(request: pytest.FixtureRequest) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(files.shipped()[request.param].read_text())
    return loaded


def test_every_node_gets_the_token_and_this_raycompress(data: dict[str, Any], tmp_path: Path) -> None:
    before = yaml.safe_dump(data)
    wheel = tmp_path / "raycompress-1-py3-none-any.whl"
    ready = prepare(data, token=tmp_path / "token", wheel=wheel)
    assert yaml.safe_dump(data) == before
    assert ready["file_mounts"][TOKEN] == str(tmp_path / "token")
    assert ready["file_mounts"][f"~/{wheel.name}"] == str(wheel)
    assert ready["setup_commands"][-2:] == [f"chmod 600 {TOKEN}", ready["setup_commands"][-1]]
    assert "--force-reinstall --no-deps ~/raycompress-1-py3-none-any.whl" in ready["setup_commands"][-1]
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert all("RAY_AUTH_MODE=token" in command for command in ready[name] if "ray start" in command)
    assert not security.mistakes(ready)


def test_ray_is_stopped_as_the_file_stops_it() -> None:
    data = yaml.safe_load(files.shipped()["local-ssh.yaml"].read_text())
    assert activation(data) == "source ~/venv/bin/activate && "
    assert stop_command(data) == "source ~/venv/bin/activate && ray stop --force"


def test_the_token_is_made_once_and_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    token = ClusterHome.of("a cluster").token()
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) == 64
    assert ClusterHome.of("a cluster").token().read_text() == token.read_text()
    assert ClusterHome.of("another").token().read_text() != token.read_text()
