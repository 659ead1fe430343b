"""The cluster files that come with raycompress: what Ray, KubeRay and a careful person ask of them."""

import re
import subprocess
import sys

import pytest
import yaml
from packaging.requirements import Requirement

from raycompress.clusters.file import files
from tests.support.launching import REPOSITORY

FILES = {path.name: path for path in sorted((REPOSITORY / "cluster").glob("*.yaml"))}
KUBERAY = FILES["kuberay.yaml"]
OF_RAY = [path for path in FILES.values() if path != KUBERAY]
OF_CLOUDS = [path for path in OF_RAY if path.name != "local-ssh.yaml"]


def pinned(library):
    """Return the version for the nodes' Python 3.11."""
    requirements = map(Requirement, re.findall(rf"^{library}==.*", (REPOSITORY / "constraints.txt").read_text(), re.M))
    (one,) = [each for each in requirements if not each.marker or each.marker.evaluate({"python_version": "3.11"})]
    return next(iter(one.specifier)).version


def data(path):
    return yaml.safe_load(path.read_text())


def name(path):
    return path.name


@pytest.mark.parametrize("path", OF_RAY, ids=name)
def test_we_and_ray_take_it(path):
    files.load(path)
    asked = (
        "import sys, yaml\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "validate_config(prepare_config(yaml.safe_load(open(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", asked, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", OF_RAY, ids=name)
def test_what_starts_ray_opens_no_dashboard(path):
    head = [line for line in data(path)["head_start_ray_commands"] if "ray start" in line]
    assert head
    assert all("--dashboard-host=127.0.0.1" in line for line in head)


@pytest.mark.parametrize("path", OF_CLOUDS, ids=name)
def test_ray_up_by_hand_lets_nobody_in_without_the_token(path):
    started = [*data(path)["head_start_ray_commands"], *data(path)["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token ray start" in line for line in started if "ray start" in line)
    assert "~/.ray/auth_token" in data(path)["file_mounts"]


@pytest.mark.parametrize("path", OF_CLOUDS, ids=name)
def test_what_is_paid_for_is_plain(path):
    file = data(path)
    workers = [kind for each, kind in file["available_node_types"].items() if each != file["head_node_type"]]
    assert all(kind["min_workers"] == kind["max_workers"] for kind in workers)
    assert file["max_workers"] == sum(kind["max_workers"] for kind in workers)
    assert file["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("path", OF_CLOUDS, ids=name)
def test_nodes_get_what_the_tests_run_on(path):
    text = "\n".join(data(path)["setup_commands"])
    assert f'"ray[default,tune]=={pinned("ray")}" torch=={pinned("torch")}' in text
    assert "--python 3.11" in text


def test_only_the_workers_of_the_spot_file_are_spot():
    spot = {
        (path.name, each)
        for path in OF_CLOUDS
        for each, kind in data(path)["available_node_types"].items()
        if "InstanceMarketOptions" in kind["node_config"]
    }
    assert spot == {("aws-gpu-spot.yaml", "worker")}


def test_the_head_has_the_gpu_of_the_workers():
    for path in OF_CLOUDS:
        kinds = data(path)["available_node_types"]
        instances = {
            kind["node_config"].get("InstanceType") or kind["node_config"]["machineType"] for kind in kinds.values()
        }
        assert len(instances) == 1


def test_the_kuberay_file_is_a_ray_job_that_cleans_up_and_lets_nobody_in():
    job = data(KUBERAY)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert "--on-ray auto" in spec["entrypoint"]
    assert cluster["rayVersion"] == pinned("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_every_pod_of_the_kuberay_file_runs_one_pinned_image_with_bounds():
    spec = data(KUBERAY)["spec"]
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    templates = [*groups, spec["submitterPodTemplate"]]
    containers = [container for template in templates for container in template["spec"]["containers"]]
    (image,) = {container["image"] for container in containers}
    assert re.search(rf":[\w.]+-ray{re.escape(pinned('ray'))}$", image)
    assert f"FROM rayproject/ray:{pinned('ray')}-py311-gpu" in KUBERAY.read_text()
    assert all(container["resources"]["limits"] and container["resources"]["requests"] for container in containers)
    assert all(
        group["minReplicas"] == group["replicas"] == group["maxReplicas"] for group in cluster["workerGroupSpecs"]
    )


@pytest.mark.parametrize("path", [*OF_CLOUDS, KUBERAY], ids=name)
def test_what_must_be_edited_is_said_at_the_top_and_in_its_line(path):
    text = path.read_text()
    top = text[: re.search(r"^[a-z]", text, re.M | re.I).start()]
    assert "# EDIT, in the lines that say so:" in top
    marked = re.findall(r"^\s*-?\s*(\w+): .*# EDIT$", text, re.M)
    assert marked
    for key in marked:
        assert re.search(rf"\b{key}\b" if key != "Name" else "IamInstanceProfile", top.split("# EDIT")[1]), key
