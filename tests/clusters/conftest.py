"""AWS for the tests of clusters."""

import pytest

from raycompress.results.s3 import objects
from tests.support.outside import aws_server


@pytest.fixture(scope="session")
def aws_process(tmp_path_factory):
    with aws_server.server(tmp_path_factory.mktemp("aws")) as aws:
        yield aws


@pytest.fixture
def aws(aws_process, monkeypatch, tmp_path):
    """moto's server, emptied, and the stand-in, as boto3's only AWS."""
    aws_process.post("reset-auth", "inf")
    aws_process.post("reset")
    aws_process.answers.clear()
    for name, value in {**aws_server.ENVIRONMENT, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_process.url)
    objects.new_client()
    with aws_server.stand_in(aws_process) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", url)
        yield aws_process
