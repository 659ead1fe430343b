"""Keys to AWS, looked for where boto3 looks, and nowhere on the network."""

import os

import pytest

from raycompress.doctor.credentials import check_credentials


@pytest.fixture(autouse=True)
def no_keys(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_none():
    assert check_credentials(needed=False).state == "ok"
    needed = check_credentials(needed=True)
    assert (needed.state, needed.problem.what) == ("failed", "there are no keys to AWS")


def test_of_the_environment(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "two")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    check = check_credentials(needed=True)
    assert (check.state, check.detail) == ("ok", "from env, region eu-west-1")


def test_of_a_file(no_keys):
    (no_keys / ".aws").mkdir()
    (no_keys / ".aws" / "credentials").write_text("[default]\naws_access_key_id = one\naws_secret_access_key = two\n")
    assert check_credentials(needed=True).detail == "from shared-credentials-file, region not set"


def test_a_profile_that_is_not_there(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    check = check_credentials(needed=False)
    assert check.state == "failed"
    assert "nobody" in check.problem.what
