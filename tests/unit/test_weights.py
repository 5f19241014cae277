"""What passes for a file of weights, and what does not."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from finetune_operator.backends.transfer.expected import digests_in
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.weights import check_weights
from tests.upstream.contexts import zipped
from tests.upstream.fakes.weights import safetensors

WHOLE = safetensors()
PAGE = b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"


def headed(header: object, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("name", "content", "suffix"),
    [
        ("model.safetensors", WHOLE, ".safetensors"),
        ("model.safetensors", headed({"a": {**TENSOR, "dtype": "NEW9"}}, bytes(4)), ".safetensors"),
        ("MODEL.SAFETENSORS", WHOLE, ".safetensors"),
        ("model.safetensors", zipped({"lora/a.safetensors": WHOLE, "readme.txt": b"x"}), ".zip"),
        ("lora.zip", zipped({"a.safetensors": WHOLE}), ".zip"),
        ("config.json", b'{"r": 16}', ".json"),
        ("lora.pt", zipped({"data.pkl": b"x"}), ".pt"),
        ("lora.pt", b"\x80\x02}q\x00.", ".pt"),
        ("model.bin", b"\x80\x02}q\x00.", ".bin"),
        ("model.gguf", b"GGUF\x03\x00\x00\x00", ".gguf"),
    ],
)
def test_weights_are_taken(name: str, content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert check_weights(path, name) == suffix


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", b"", "0 bytes"),
        ("model.safetensors", PAGE, "an HTML page"),
        ("model.safetensors", b'{"error": "no such file"}', "JSON"),
        ("model.safetensors", WHOLE[:-1], "not complete"),
        ("model.safetensors", WHOLE + b"x", "not complete"),
        ("model.safetensors", WHOLE[:200], "no safetensors file"),
        ("model.safetensors", struct.pack("<Q", 2**63) + b"{" + bytes(100), "no safetensors file"),
        ("model.safetensors", struct.pack("<Q", 4) + b"{no}" + bytes(100), "its header is no JSON"),
        ("model.safetensors", headed({"__metadata__": {}}), "no tensor"),
        ("model.safetensors", headed({"a": TENSOR, "b": TENSOR}, bytes(4)), "a hole, or overlap"),
        ("model.safetensors", headed({"a": {**TENSOR, "shape": [2]}}, bytes(4)), "not described as one"),
        ("model.safetensors", headed({"a": {**TENSOR, "shape": "1"}}, bytes(4)), "not described as one"),
        ("model.safetensors", headed({"a": [1]}, bytes(4)), "not described as one"),
        ("model.safetensors", zipped({"a.safetensors": PAGE}), "a.safetensors is no safetensors file"),
        ("model.safetensors", zipped({"a.safetensors": WHOLE})[:-30], "not complete"),
        ("model.safetensors", zipped({}) or b"", "no safetensors file"),
        ("lora.zip", PAGE, "an HTML page"),
        ("config.json", PAGE, "an HTML page"),
        ("lora.pt", PAGE, "an HTML page"),
        ("model.bin", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("model", PAGE, "an HTML page"),
    ],
)
def test_what_is_no_weights_is_said(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(Invalid, match=words):
        check_weights(path, name)


@pytest.mark.parametrize(
    ("headers", "digests"),
    [
        ({"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, {"md5": "d41d8cd98f00b204e9800998ecf8427e"}),
        ({"x-goog-hash": "crc32c=AAAAAA==, md5=1B2M2Y8AsgTpgAmY7PhCfg=="}, {"md5": "d41d8cd98f00b204e9800998ecf8427e"}),
        ({"x-amz-checksum-sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}, {"sha256": "e3b0c44298fc1c14"}),
        ({"repr-digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"}, {"sha256": "e3b0c44298fc1c14"}),
        ({"x-amz-checksum-sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=-3"}, {}),
        ({"content-md5": "no"}, {}),
        ({}, {}),
    ],
)
def test_digests_that_a_server_names(headers: dict[str, str], digests: dict[str, str]) -> None:
    assert {name: value[: len(digests.get(name, ""))] for name, value in digests_in(headers)} == digests
