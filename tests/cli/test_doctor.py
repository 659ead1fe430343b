import json
import platform
import re

import pytest

from tests.cli.test_main import HEAVY, modules_after
from tests.support.launching import REPOSITORY, raycompress
from tests.support.shared_ray import run_here

LOCAL = """\
cluster_name: mine
provider: {type: local, head_ip: 127.0.0.1, worker_ips: []}
auth: {ssh_user: you, ssh_private_key: KEY}
setup_commands: ["pip install 'ray[default,tune]==VERSION'"]
head_start_ray_commands: [ray stop, "ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml"]
worker_start_ray_commands: [ray stop, "ray start --address=$RAY_HEAD_IP:6379"]
"""


def diagnosed(folder, *words):
    done = raycompress(folder, "doctor", "--json", *words)
    return done, {check["name"]: check for check in json.loads(done.out)}


@pytest.fixture
def cluster_file(tmp_path):
    key = tmp_path / "key"
    key.write_text("")
    key.chmod(0o600)

    def write(version="2.60.0"):
        path = tmp_path / "mine.yaml"
        path.write_text(LOCAL.replace("KEY", str(key)).replace("VERSION", version))
        return path

    return write


def test_of_this_machine(tmp_path):
    done = raycompress(tmp_path, "doctor")
    assert done.code == 0, done.out
    assert done.err == ""
    assert re.search(rf"^ok +Python +{re.escape(platform.python_version())}", done.out, re.M)
    table, _, _ = done.out.partition("\n\n")  # what follows are fixes, whole, to be copied
    assert max(map(len, table.splitlines())) <= 80


def test_a_fault_is_exit_code_1_with_its_fix(tmp_path):
    (tmp_path / "file").write_text("")
    done = raycompress(tmp_path, "doctor", "--storage", "file/results")
    assert done.code == 1
    assert re.search(r"^failed +results folder", done.out, re.M)
    assert "fix: choose another folder" in done.out


def test_nothing_heavy_is_loaded():
    code = "from raycompress.cli.main import cli; cli.main(['doctor', '--json'], standalone_mode=False)"
    assert not modules_after(code) & set(HEAVY)


@pytest.mark.ray
def test_ray_is_started_when_asked(tmp_path):
    _, found = diagnosed(tmp_path, "--deep")
    assert found["Ray starts"]["state"] == "ok"


def test_a_cluster_file_with_mistakes(tmp_path):
    (tmp_path / "mine.yaml").write_text("cluster_name: mine\nprovider: {type: asw}\n")
    done = raycompress(tmp_path, "doctor", "--json", "--cluster", "mine.yaml")
    assert done.code == 1
    fixes = [check["problem"]["fix"] for check in json.loads(done.out) if check["name"] == "cluster file"]
    assert any('did you mean "aws"' in fix for fix in fixes)


def test_a_cluster_file_that_is_not_there(tmp_path):
    done = raycompress(tmp_path, "doctor", "--cluster", "asw.yaml")
    assert done.code == 3
    assert 'did you mean "aws.yaml"' in done.err


def test_the_key_of_a_cluster_is_nobody_elses(tmp_path, cluster_file):
    path = cluster_file()
    assert diagnosed(tmp_path, "--cluster", path)[1]["private key"]["state"] == "ok"
    (tmp_path / "key").chmod(0o644)
    key = diagnosed(tmp_path, "--cluster", path)[1]["private key"]
    assert (key["state"], key["problem"]["fix"]) == ("failed", f"chmod 600 {tmp_path / 'key'}")
    (tmp_path / "key").unlink()
    assert "is not there" in diagnosed(tmp_path, "--cluster", path)[1]["private key"]["problem"]["what"]


def test_the_ray_of_the_nodes_is_the_one_here(tmp_path, cluster_file):
    (here,) = re.findall(r"^ray==([\d.]+)", (REPOSITORY / "constraints.txt").read_text(), re.M)
    assert diagnosed(tmp_path, "--cluster", cluster_file(here))[1]["Ray of the nodes"]["state"] == "ok"
    other = diagnosed(tmp_path, "--cluster", cluster_file("2.9.0"))[1]["Ray of the nodes"]
    assert other["state"] == "warning"
    assert "the nodes get Ray 2.9.0" in other["problem"]["what"]


@pytest.mark.engine
def test_the_targets_of_an_experiment(tmp_path):
    targets = [{"runtime": "onnxruntime"}, {"runtime": "openvino", "python": str(tmp_path / "python")}]
    (tmp_path / "exp.jsonc").write_text('{// where it will run\n"target": ' + json.dumps(targets) + "}")
    done, found = diagnosed(tmp_path, "--target", "exp.jsonc")
    assert done.code == 1
    assert list(found)[:5] == [
        f"onnxruntime {what}" for what in ("runs", "device", "round trip", "converts", "small model")
    ]
    assert all(check["state"] == "ok" for name, check in found.items() if name.startswith("onnxruntime"))
    assert re.search(r"^[\d.]+ ms, 95 % interval [\d.]+ to [\d.]+, in fp32", found["onnxruntime small model"]["detail"])
    openvino = found["openvino runs"]
    assert openvino["state"] == "failed" and "cannot be started" in openvino["problem"]["what"]


@pytest.mark.parametrize(
    ("target", "what", "fix"),
    [
        ("onnxruntme", 'unknown runtime "onnxruntme"', 'did you mean "onnxruntime"?'),
        ('{"runtime": "openvino", "devise": "cpu"}', 'unknown key "devise"', 'did you mean "device"?'),
        ('{"runtime": "openvino", "precision": "fp8"}', 'unknown precision "fp8"', "fp16"),
        ('{"runtime": "openvino", "device": "cuda"}', '"cuda" is no device', 'write "device": "gpu"'),
        ('["torch", "opnvino"]', 'unknown runtime "opnvino"', 'did you mean "openvino"?'),
        ("[3]", '"target[0]" must be an object, not the number 3', '{"runtime": "onnxruntime"}'),
        ("ex.json", "there is no such file", 'did you mean "exp.json"?'),
        ("exp.json", "this experiment has no deployment target", '"target": {"runtime"'),
        ("named.json", 'unknown runtime "opnvino"', 'did you mean "openvino"?'),
    ],
)
def test_a_target_with_a_mistake(tmp_path, target, what, fix):
    (tmp_path / "exp.json").write_text('{"target": "max"}')
    (tmp_path / "named.json").write_text('{"target": "opnvino"}')
    done = run_here(tmp_path, "doctor", "--target", target)
    assert done.code == 2
    assert what in done.err and fix in done.err
