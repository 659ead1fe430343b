"""Candidates on S3: sent whole, looked at without a download, fetched by their hashes."""

import json

import pytest

from raycompress.bundle import bundle
from raycompress.config.places import S3Address
from raycompress.errors import BundleError, StorageError
from raycompress.results import store
from raycompress.results.s3 import candidates
from raycompress.results.s3.objects import Objects
from tests.session.test_killed import candidate
from tests.support.outside.s3server import BUCKET


@pytest.fixture
def folder(s3):
    folder = store.create(S3Address.parse(f"s3://{BUCKET}/x"), "search")
    writer = folder.open_journal()
    yield folder
    writer.close()


def delivered(folder, number):
    scratch = folder.scratch()
    candidate(scratch, number)
    scratch.log(number).write_text("what it printed\n")
    scratch.deliver(number, saved=True)
    return folder.address.key(f"trials/{number:04d}/candidate/")


def test_a_candidate_is_sent_looked_at_fetched_and_removed(folder, s3):
    key = delivered(folder, 7)
    assert not folder.scratch().candidate(7).exists()
    assert not folder.candidate(7).exists()
    folder.check_candidate(7)
    assert folder.candidates() == [7]
    assert folder.fetch_log(7).read_text() == "what it printed\n"
    bundle.check_hashes(folder.fetch_candidate(7))
    asked = s3.counts["asked"]
    folder.fetch_candidate(7)
    assert s3.counts["asked"] - asked == 1  # the same manifest: nothing to fetch
    folder.remove_candidate(7)
    assert s3.names(key) == []
    assert not folder.candidate(7).exists()
    with pytest.raises(BundleError, match="it has no manifest"):
        folder.check_candidate(7)


def test_the_manifest_comes_last_and_goes_first(folder, s3):
    seen = []

    def watch(method, path):
        if "candidate/" in path and method == "PUT":
            seen.append(path.rpartition("/")[2])
        elif path.endswith("?delete"):
            seen.append(f"delete, of {len(s3.names())}")
        return

    s3.fault = watch
    delivered(folder, 1)
    assert seen[-1] == bundle.MANIFEST
    seen.clear()
    n = len(s3.names())
    folder.remove_candidate(1)
    assert seen == [f"delete, of {n}", f"delete, of {n - 1}"]


def test_large_files_go_in_parts(folder, s3):
    scratch = folder.scratch()
    candidate(scratch, 1)
    large = scratch.candidate(1) / "model.pth"
    large.write_bytes(bytes(range(256)) * (20 << 12))
    bundle.seal(scratch.candidate(1), {})
    parts = []
    s3.fault = lambda method, path: parts.append(path) if "partNumber=" in path else None
    scratch.deliver(1, saved=True)
    assert len(parts) == 3
    folder.check_candidate(1)
    assert (folder.fetch_candidate(1) / "model.pth").stat().st_size == 20 << 20


@pytest.mark.parametrize("body", [None, b"other", b"y" * 20_000])
def test_a_candidate_that_is_not_whole_is_found_and_not_fetched(folder, s3, body):
    key = delivered(folder, 2)
    if body is None:
        s3.client.delete_object(Bucket=BUCKET, Key=key + bundle.WEIGHTS)
    else:
        s3.client.put_object(Bucket=BUCKET, Key=key + bundle.WEIGHTS, Body=body)
    for look in (folder.check_candidate, folder.fetch_candidate):
        with pytest.raises(BundleError, match=bundle.WEIGHTS):
            look(2)
    assert not folder.candidate(2).exists()


def test_what_was_replaced_with_its_old_hash_is_found_by_fetching(folder, s3):
    key = delivered(folder, 2)
    known = s3.client.head_object(Bucket=BUCKET, Key=key + bundle.WEIGHTS)["Metadata"]
    s3.client.put_object(Bucket=BUCKET, Key=key + bundle.WEIGHTS, Body=b"y" * 20_000, Metadata=known)
    folder.check_candidate(2)
    with pytest.raises(BundleError, match="its SHA-256 differs"):
        folder.fetch_candidate(2)


@pytest.mark.parametrize("name", ["../../../escaped", "/tmp/escaped", "a/../../../escaped"])
def test_no_manifest_leads_out_of_the_folder(folder, s3, tmp_path, name):
    key = delivered(folder, 3) + bundle.MANIFEST
    manifest = json.loads(s3.body(key))
    manifest["files"][name] = manifest["files"][bundle.PLAN]
    s3.client.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(manifest).encode())
    with pytest.raises(BundleError, match="leaves the folder"):
        folder.fetch_candidate(3)
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_trial_of_a_driver_that_was_taken_over_delivers_no_model(folder, s3):
    other = store.find(str(folder.address), folder.address)
    scratch = other.scratch()
    candidate(scratch, 1)
    with pytest.raises(StorageError, match="taken over"):
        scratch.deliver(1, saved=True)
    assert candidates.numbers(Objects(folder.address)) == []


def test_a_checkpoint_is_sent_found_elsewhere_and_removed(folder, s3):
    here = folder.scratch()
    here.trial(7).mkdir(parents=True)
    for content in (b"first", b"second"):
        here.checkpoint(7).write_bytes(content)
        here.deliver_checkpoint(7)
    here.checkpoint(7, worker=2).write_bytes(b"of the third worker")
    here.deliver_checkpoint(7, worker=2)
    here.clear()
    here.fetch_checkpoint(7, worker=2)  # as on another machine
    assert here.checkpoint(7).read_bytes() == b"second"
    assert here.checkpoint(7, worker=2).read_bytes() == b"of the third worker"
    folder.remove_checkpoint(7)
    assert s3.names(folder.address.key("trials/")) == []
    here.fetch_checkpoint(7)
    assert not here.checkpoint(7).exists()
