from pathlib import Path
from typing import Any

import pytest

from raycompress.config.places import S3Address


@pytest.mark.parametrize("text", ["s3://bucket", "s3://my.bucket-1/a", "s3://bucket/a/b=c/d_e"])
def test_an_address_is_read_and_written(text):
    address = S3Address.parse(text)
    assert str(address) == text == str(S3Address.parse(text + "/"))
    assert (address / "x").parent == address
    assert (address / "x").name == "x"
    assert (address / "x").key("y") == f"{address.prefix}/x/y".lstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        *("s3://", "s3://b", "s3:///x", "s3://Bucket/x", "s3://bucket//x", "s3://bucket/../x", "s3://bucket/a/./b"),
        *("s3://key:secret@bucket/x", "s3://bucket/a b", "s3://bucket/a\\b", "s3://bucket/a\nb", "s3://bucket/?x"),
        "http://x/y",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="S3"):
        S3Address.parse(text)


def test_an_experiment_takes_one(load: Any, refused: Any) -> None:
    assert load(storage="s3://bucket/x").storage == S3Address("bucket", "x")
    assert isinstance(load(storage="results").storage, Path)
    for storage in ("s3://Bucket", "s3://key:secret@bucket"):
        (told,) = refused(storage=storage)
        assert "an address on S3 is s3://bucket/prefix" in told.what
        assert "secret" not in str(told)
    (told,) = refused(storage="gs://x/y")
    assert "results cannot go to gs://" in told.what
