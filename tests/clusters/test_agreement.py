"""What `launch --cluster` shows and asks before it starts anything, on an AWS that costs nothing."""

from __future__ import annotations

import pytest

from raycompress.errors import ClusterError
from tests.support.launching import number_experiment
from tests.support.outside.aws_files import STORAGE, changed, furnish, written
from tests.support.searches import searched
from tests.support.shared_ray import run_here

SCRIPT = "import raycompress as rc\nrc.report(score=1.0)\n"


@pytest.fixture
def asked(aws, tmp_path):
    """Launch an experiment on the cluster of a good account; gives how that ended, and starts nothing."""
    furnish(aws, tmp_path / "mine.pem")
    storage = {"storage": STORAGE, "n_samples": 2, "baseline": False}
    number_experiment(tmp_path, SCRIPT, **storage)

    def asked(*words, data=None):
        written(tmp_path, *([] if data is None else [data]))
        done = run_here(tmp_path, "launch", "exp.json", "--cluster", "mine.yaml", *words)
        assert not aws.client("ec2").describe_instances()["Reservations"]
        return done

    return asked


def test_the_plan_has_the_price_and_what_becomes_of_the_cluster(asked):
    done = asked("--dry-run")
    assert (done.code, done.out) == (0, "")
    for line in ("search:   numbers, random, 1 trials", "results:  s3://results/mine;", "costs:    about "):
        assert line in done.err
    assert "dollars an hour (source: " in done.err and "after it: the cluster is torn down" in done.err
    assert "ok  dry run of gpu: EC2 would start it" in done.err


def test_nothing_is_started_unasked_nor_for_more_than_it_may_cost(asked):
    done = asked("--keep", "--max-cost", "1000")
    assert done.code == 2 and "agree to it with -y" in done.err and "after it: the cluster stays up" in done.err
    done = asked("-y", "--max-cost", "0.01")
    assert done.code == 3 and "more than the 0.01 of --max-cost" in done.err and "fewer or smaller nodes" in done.err


def test_what_the_checks_find_ends_it(asked):
    done = asked("-y", data=changed("auth", "ssh_private_key", "~/another.pem"))
    assert done.code == 3
    assert "failed  private key" in done.err and "costs:" not in done.err


def test_a_price_that_is_not_known_is_held_against_no_limit(asked):
    cloud = {"type": "gcp", "region": "europe-west1", "availability_zone": "europe-west1-b", "project_id": "mine"}
    data = changed("provider", cloud)
    done = asked("--dry-run", data=data)
    assert done.code == 0, done.err
    assert "costs:    not known" in done.err and "nothing is checked before the start" in done.err
    done = asked("--dry-run", "--max-cost", "5", data=data)
    assert done.code == 3 and "cannot be held against --max-cost" in done.err


@pytest.mark.parametrize(
    ("reference", "code", "said"),
    [
        ("ray://127.0.0.1:10001", 2, "the address of a cluster is that of its Jobs API"),
        ("nothing.yaml", 3, 'no cluster file "nothing.yaml"'),
    ],
)
def test_what_is_no_cluster(tmp_path, reference, code, said):
    number_experiment(tmp_path, SCRIPT, storage=STORAGE)
    done = run_here(tmp_path, "launch", "exp.json", "--cluster", reference, "--dry-run")
    assert done.code == code and said in done.err


def test_the_nodes_need_a_place_that_they_share(tmp_path):
    number_experiment(tmp_path, SCRIPT, storage="results")
    done = run_here(tmp_path, "launch", "exp.json", "--cluster", "http://127.0.0.1:9", "--dry-run")
    assert done.code == 2 and "need a place for results that all of them reach" in done.err
    number_experiment(tmp_path, SCRIPT, storage=STORAGE, proposer="passive")
    done = run_here(tmp_path, "launch", "exp.json", "--cluster", "http://127.0.0.1:9", "--dry-run")
    assert done.code == 2 and "a passive trial runs in the command's own process" in done.err


def test_a_search_of_this_machine_is_not_stopped_on_a_cluster(tmp_path):
    record = searched(tmp_path / "raycompress_results", 3)
    done = run_here(tmp_path, "stop", record.id)
    assert done.code == 2 and "does not run on a cluster" in done.err and "Ctrl-C" in done.err


def test_whoever_comes_back_to_a_cluster_that_is_gone_is_told(tmp_path):
    """Its folder has the note of where it was submitted, and nobody answers there."""
    from raycompress.clusters.run.mirror import Mirror, Submitted

    record = searched(tmp_path / "raycompress_results", 3, finished=False)
    there = Submitted(job="digits-1", cluster="http://127.0.0.1:9", storage="/srv", keep=False, search=record.id)
    Mirror(record.folder, there).close()
    done = run_here(tmp_path, "status", record.id)
    assert done.code == 0, done.err
    assert "the cluster cannot be asked, so this is what was known last" in done.err and record.id in done.out
    done = run_here(tmp_path, "stop", record.id)
    assert done.code == ClusterError("", where="", fix="").exit_code and "Ray's Jobs API" in done.err
    assert run_here(tmp_path, "fetch", record.id).code == done.code
