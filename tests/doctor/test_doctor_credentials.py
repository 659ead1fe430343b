"""Keys to AWS, looked for where boto3 looks, and nowhere on the network."""

import http.server
import json
import os
import threading

import pytest

from raycompress.doctor.machine import check_credentials


@pytest.fixture(autouse=True)
def no_keys(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def test_none():
    assert check_credentials(needed=False).state == "ok"
    assert check_credentials(needed=True).state == "warning"
    needed = check_credentials(needed=True, ask_network=True)
    assert (needed.state, needed.problem.what) == ("failed", "there are no keys to AWS")


def test_the_role_of_a_container_is_asked_for_only_by_network(monkeypatch):
    class Role(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            keys = {"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c", "Expiration": "2099-01-01T00:00:00Z"}
            body = json.dumps(keys).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Role) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_address[1]}/role")
        assert check_credentials(needed=True, ask_network=True).detail.startswith("from container-role")
        assert check_credentials(needed=True).state == "warning"
        server.shutdown()


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
