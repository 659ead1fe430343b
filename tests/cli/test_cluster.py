import json
import os
import pty
import subprocess

import pytest
import yaml

from raycompress.clusters.file import files, template
from tests.support.launching import command, raycompress
from tests.support.outside import aws_server

SAID = {
    "name": "mine",
    "region": "eu-west-1",
    "workers": "5",
    "instance": "g5.xlarge",
    "key-name": "my-pair",
    "key-file": "~/.ssh/mine.pem",
    "profile": "my-profile",
    "image": "ami-0123456789abcdef0",
    "project": "my-project",
    "zone": "eu-west-1-b",
    "public-key": "ubuntu:ssh-ed25519 AAAAC3 me",
    "head": "10.0.0.1",
    "user": "me",
}


def settings(name, **changes):
    said = {**SAID, **({"workers": "10.0.0.2,10.0.0.3"} if name == "local-ssh.yaml" else {}), **changes}
    return [word for blank in template.BLANKS[name] for word in ("--set", f"{blank.name}={said[blank.name]}")]


@pytest.fixture(scope="module")
def aws_process(tmp_path_factory):
    """moto's server, with two images of the name that we look for, and one of another."""
    name = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04)"
    common = {"owner_id": "801119661308", "public": True, "architecture": "x86_64"}
    more = {"state": "available", "description": "", "root_device_type": "ebs", "hypervisor": "xen"}
    kinds = {"image_type": "machine", "platform": None, "virtualization_type": "hvm", "root_device_name": "/dev/sda1"}
    listed = [
        ("ami-00000001", f"{name} 20251001", "2025-10-01T00:00:00.000Z"),
        ("ami-00000002", f"{name} 20261001", "2026-10-01T00:00:00.000Z"),
        ("ami-00000003", "another 20261101", "2026-11-01T00:00:00.000Z"),
    ]
    described = [
        {**common, **more, **kinds, "ami_id": ami, "name": name, "creation_date": made} for ami, name, made in listed
    ]
    with aws_server.server(tmp_path_factory.mktemp("aws"), described) as aws:
        yield aws


@pytest.fixture
def no_aws(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def aws(aws_process, no_aws, monkeypatch):
    for name, value in {**aws_server.ENVIRONMENT, "AWS_ENDPOINT_URL": aws_process.url}.items():
        monkeypatch.setenv(name, value)
    return aws_process


def test_every_shipped_file_can_be_filled():
    assert set(template.BLANKS) == set(files.shipped())


def test_without_a_name_the_files_are_told(tmp_path):
    done = raycompress(tmp_path, "cluster", "init")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == [name[:-5] for name in files.shipped()]


@pytest.mark.parametrize("name", template.BLANKS)
def test_what_is_said_stands_in_the_file(tmp_path, no_aws, name):
    done = raycompress(tmp_path, "cluster", "init", name, *settings(name))
    assert (done.code, done.out) == (0, f"{name}\n"), done.err
    text = (tmp_path / name).read_text()
    for blank in template.BLANKS[name]:
        assert template.value_of(text, blank) == (
            SAID[blank.name]
            if blank.kind == "text"
            else settings(name)[1::2][[one.name for one in template.BLANKS[name]].index(blank.name)].partition("=")[2]
        )
    assert text.count("#") > 10, "the comments stay"
    left = [line for _, line in template.still_to_edit(text)]
    assert all("entrypoint" in line for line in left)
    if name != "kuberay.yaml":
        files.load(tmp_path / name)


def test_the_number_of_workers_is_one_number(tmp_path, no_aws):
    raycompress(tmp_path, "cluster", "init", "aws", *settings("aws.yaml"))
    data = yaml.safe_load((tmp_path / "aws.yaml").read_text())
    worker = data["available_node_types"]["worker"]
    assert data["max_workers"] == worker["min_workers"] == worker["max_workers"] == 5


def test_what_is_not_said_is_told(tmp_path, no_aws):
    done = raycompress(tmp_path, "cluster", "init", "aws", "--set", "region=eu-west-1")
    assert "region" not in done.err
    number = (tmp_path / "aws.yaml").read_text().splitlines().index("      ImageId: ami-00000000000000000 # EDIT") + 1
    assert f"to edit:  aws.yaml:{number}  ImageId: ami-00000000000000000" in done.err
    assert "AWS could not be asked for the newest image" in done.err


def test_policies_name_the_profile_after_the_cluster(tmp_path, no_aws):
    raycompress(tmp_path, "cluster", "init", "aws", "--set", "name=mine")
    assert "Name: raycompress-mine\n" in (tmp_path / "aws.yaml").read_text()


def test_a_name_that_looks_like_a_number_stays_a_name(tmp_path, no_aws):
    raycompress(tmp_path, "cluster", "init", "aws", "--set", "name=007")
    assert files.load(tmp_path / "aws.yaml").name == "007"


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "aws.yaml").write_text("mine")
    done = raycompress(tmp_path, "cluster", "init", "aws")
    assert done.code == 2
    assert "not overwritten" in done.err
    assert (tmp_path / "aws.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["asw"], 'did you mean "aws"'),
        (["aws", "--set", "regoin=x"], 'did you mean "region"'),
        (["aws", "--set", "region"], "this is no value"),
        (["aws", "--set", "workers=many"], "--set workers=2"),
    ],
)
def test_mistakes(tmp_path, words, said):
    done = raycompress(tmp_path, "cluster", "init", *words)
    assert done.code in (2, 3)
    assert said in done.err
    assert not (tmp_path / "aws.yaml").exists()


@pytest.mark.external
def test_the_newest_image_of_aws_is_taken(tmp_path, aws):
    done = raycompress(tmp_path, "cluster", "init", "aws")
    assert done.code == 0
    assert "ImageId: ami-00000002\n" in (tmp_path / "aws.yaml").read_text()


def test_at_a_terminal_it_is_asked(tmp_path, no_aws):
    """The answers: another region, and else what the file says."""
    person, terminal = pty.openpty()
    asking = subprocess.Popen(
        command("cluster", "init", "aws"), cwd=tmp_path, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.write(person, b"mine\neu-west-1\n" + b"\n" * 6)
    out, err = asking.communicate(timeout=60)
    os.close(person)
    os.close(terminal)
    assert (asking.returncode, out) == (0, b"aws.yaml\n"), err
    data = yaml.safe_load((tmp_path / "aws.yaml").read_text())
    assert (data["cluster_name"], data["provider"]["region"]) == ("mine", "eu-west-1")
    assert b"instance profile of the machines [raycompress-mine]" in err
    assert b"to edit:" in err, "no image was found, and the file's own is nobody's"


def test_a_file_with_mistakes_is_not_taken_to_the_provider(tmp_path):
    (tmp_path / "mine.yaml").write_text("cluster_name: mine\nprovider: {type: asw}\n")
    done = raycompress(tmp_path, "cluster", "check", "mine.yaml")
    assert done.code == 3
    assert 'did you mean "aws"' in done.err


def test_the_kuberay_file_is_for_kubectl(tmp_path):
    done = raycompress(tmp_path, "cluster", "check", "kuberay")
    assert done.code == 3
    assert "kubectl apply -f" in done.err


@pytest.mark.external
def test_checks_and_price(tmp_path, aws):
    raycompress(tmp_path, "cluster", "init", "aws", "--set", "region=us-east-1")
    done = raycompress(tmp_path, "cluster", "check", "aws.yaml")
    assert done.code == 3, "there is no such key pair"
    assert "failed" in done.out
    assert "disks and traffic come on top" in " ".join(done.out.split())
    table = done.out.partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 80
    read = raycompress(tmp_path, "cluster", "check", "aws.yaml", "--json")
    data = json.loads(read.out)
    assert {check["state"] for check in data["checks"]} >= {"ok", "failed"}
    lines = {line["node_type"]: line for line in data["estimate"]["lines"]}
    assert (lines["head"]["count"], lines["worker"]["count"]) == (1, 2)
    assert data["estimate"]["dollars_per_hour"] == pytest.approx(3 * lines["head"]["dollars_per_hour"])


def test_policies(tmp_path, aws):
    raycompress(tmp_path, "cluster", "init", "aws", *settings("aws.yaml"))
    done = raycompress(tmp_path, "cluster", "policy", "aws", "--cluster", "aws.yaml", "--storage", "s3://results/mine")
    assert (done.code, done.err) == (0, "")
    assert set(json.loads(done.out)) == {"person", "nodes", "trust"}
    for word in ("arn:aws:s3:::results", "eu-west-1", aws_server.ACCOUNT, "my-profile"):
        assert word in done.out


def test_policies_without_an_account(tmp_path, no_aws):
    done = raycompress(tmp_path, "cluster", "policy", "aws")
    assert done.code == 0
    assert "YOUR-ACCOUNT" in done.out
    assert "YOUR-BUCKET" in done.out
    assert "write your bucket for YOUR-BUCKET" in done.err
    assert "write it for YOUR-ACCOUNT" in done.err


def test_policies_are_for_aws(tmp_path):
    done = raycompress(tmp_path, "cluster", "policy", "aws", "--cluster", "gcp")
    assert done.code == 2
    assert "this cluster is on gcp" in done.err
