"""The decisions about images that need no cluster."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from tests.cluster.image_handover import Layer, chain_ids, oci_archive
from tests.cluster.images import outdated


def test_chain_ids_are_those_of_the_specification() -> None:
    # ChainID(L0) = DiffID(L0); ChainID(L0|…|Ln) = SHA256(ChainID(L0|…|Ln-1) + " " + DiffID(Ln))
    first, second, third = (f"sha256:{letter * 64}" for letter in "abc")
    two = f"sha256:{hashlib.sha256(f'{first} {second}'.encode()).hexdigest()}"
    three = f"sha256:{hashlib.sha256(f'{two} {third}'.encode()).hexdigest()}"
    assert chain_ids([first, second, third]) == [first, two, three]
    assert chain_ids([]) == []


def test_the_archive_leads_from_name_to_configuration() -> None:
    layer = Layer(f"sha256:{'a' * 64}", 17, folder=Path("/nowhere"))
    with tarfile.open(fileobj=io.BytesIO(oci_archive("finetune.local/x:1", b"{}", [layer]))) as tar:
        blobs = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    (named,) = json.loads(blobs["index.json"])["manifests"]
    assert named["annotations"] == {"io.containerd.image.name": "finetune.local/x:1"}
    manifest = blobs[f"blobs/sha256/{named['digest'].removeprefix('sha256:')}"]
    assert named["size"] == len(manifest)
    assert json.loads(manifest)["layers"][0] == {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": layer.digest,
        "size": 17,
    }
    config = json.loads(manifest)["config"]["digest"].removeprefix("sha256:")
    assert blobs[f"blobs/sha256/{config}"] == b"{}"


def test_a_layer_with_content_travels_in_the_archive() -> None:
    layer = Layer(f"sha256:{hashlib.sha256(b'tar').hexdigest()}", 3, content=b"tar")
    with tarfile.open(fileobj=io.BytesIO(oci_archive("finetune.local/x:1", b"{}", [layer]))) as tar:
        assert tar.getmember(f"blobs/{layer.digest.replace(':', '/')}").size == 3


def test_outdated_are_trainers_of_other_dependencies_with_all_their_names() -> None:
    images = {
        "finetune.local/trainer:old-1": "sha256:m1",
        "sha256:c1": "sha256:m1",
        "finetune.local/trainer:new-1": "sha256:m2",
        "sha256:c2": "sha256:m2",
        "finetune.local/trainer:new-2": "sha256:m3",
        "finetune.local/base:1": "sha256:m4",
        "sha256:c4": "sha256:m4",
        "example.com/of/the/user:1": "sha256:m5",
    }
    assert outdated(images, "new") == ["finetune.local/trainer:old-1", "sha256:c1"]
