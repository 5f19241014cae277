"""Paths of URIs: percent-encoded where they are written, plain where they are used."""

from pathlib import Path

import pytest

from finetune_operator.api.hub import Repository
from finetune_operator.api.uri_paths import decoded_path, encoded_path
from finetune_operator.backends.errors import Permanent
from finetune_operator.backends.transfer.stores.s3 import Place
from finetune_trainer.environment import Claims
from finetune_trainer.errors import ConfigError
from finetune_trainer.stores.s3 import S3Location


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("data/train.csv", "data/train.csv"),
        ("my%20data/a%2Bb.csv", "my data/a+b.csv"),
        ("a+b=c:d@e~f", "a+b=c:d@e~f"),
        ("100%25.csv", "100%.csv"),
        ("100%.csv", "100%.csv"),
        ("%C3%A4.csv", "ä.csv"),
    ],
)
def test_a_path_is_decoded_and_encoded_again(written: str, plain: str) -> None:
    assert decoded_path(written) == plain
    assert decoded_path(encoded_path(plain)) == plain
    assert " " not in encoded_path(plain)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("%2e%2e/secret", r"must not contain '\.\.'"),
        ("a%2F..%2Fb", r"must not contain '\.\.'"),
        ("a%00b", "control character"),
        ("a%0Ab", "control character"),
        ("%ff", "not UTF-8"),
    ],
)
def test_what_no_name_has_is_refused(written: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=words):
        decoded_path(written)
    with pytest.raises(ValueError, match=words):
        Repository.of(f"hf://datasets/org/name/{written}", "datasets")
    with pytest.raises(ConfigError, match=words):
        S3Location.of(f"s3://bucket/{written}")
    with pytest.raises(Permanent, match=words):
        Place.of(f"s3://bucket/{written}")
    with pytest.raises(ConfigError, match=words):
        Claims(tmp_path).path(f"pvc://data/{written}")


def test_every_scheme_decodes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert Repository.of("hf://datasets/org/name/my%20data/a%20b.csv", "datasets").path == "my data/a b.csv"
    assert S3Location.of("s3://bucket/my%20data/").key == Place.of("s3://bucket/my%20data/").key == "my data"
    assert (
        str(S3Location.of("s3://bucket/my%20data")) == str(Place.of("s3://bucket/my%20data")) == "s3://bucket/my%20data"
    )
    assert Claims(tmp_path).path("pvc://data/my%20data") == tmp_path / "data" / "my data"


@pytest.mark.parametrize("key", ["a//b", "/a", "a/./b", "a/%2E/b"])
def test_keys_that_are_no_paths_are_refused_and_not_changed(key: str) -> None:
    with pytest.raises(ConfigError, match="keys with empty parts"):
        S3Location.of(f"s3://bucket/{key}")
