"""The signature, by the examples of AWS's documentation ("Authenticating Requests: Authorization Header")."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from finetune_operator.api.sigv4 import Credentials, query, quoted, signed

KEYS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
MOMENT = datetime(2013, 5, 24, tzinfo=UTC)
HOST = "https://examplebucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("method", "path", "headers", "payload", "signature"),
    [
        (
            "GET",
            "/test.txt",
            {"Range": "bytes=0-9"},
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            f"/{quoted('test$file.text')}",
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            f"/?{query({'lifecycle': ''})}",
            {},
            b"",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            f"/?{query({'prefix': 'J', 'max-keys': '2'})}",
            {},
            b"",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_documented_examples(
    method: str, path: str, headers: dict[str, str], payload: bytes, signature: str
) -> None:
    sent = signed(
        method, HOST + path, KEYS, MOMENT, payload_sha256=hashlib.sha256(payload).hexdigest(), headers=headers
    )
    assert sent["authorization"].endswith(f"Signature={signature}")
    assert "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request" in sent["authorization"]


def test_a_session_token_is_signed() -> None:
    sent = signed("GET", f"{HOST}/x", Credentials("a", "b", "token"), MOMENT)
    assert sent["x-amz-security-token"] == "token"
    assert "x-amz-security-token" in sent["authorization"]


def test_keys_do_not_show() -> None:
    assert "secret" not in repr(Credentials("a", "secret", "secret-too"))
