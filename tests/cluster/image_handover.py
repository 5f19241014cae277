"""Hands a built image from buildah's storage to containerd's without copying it.

Both keep an unpacked layer as a folder for overlayfs, and both folders are never written to again. So a layer becomes a
containerd snapshot made of hard links, committed under the name that unpacking it would have given (its chain ID), and
what is imported is only the manifest and the configuration. For the trainer that is seconds instead of the minutes that
compressing, pushing, pulling and unpacking 6 GB take, and one copy on disk instead of three.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import buildah
from tests.cluster.containerd import Ctr
from tests.cluster.errors import ClusterError

# The host part of our references; nothing is ever pulled from there.
HOST = "finetune.local"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
SNAPSHOTTER = "overlayfs"


@dataclass(frozen=True)
class Layer:
    """One layer of an image; it is handed over as a folder, or in the archive."""

    digest: str  # of its uncompressed tar, sha256:…
    size: int  # of that tar, in bytes
    folder: Path | None = None  # unpacked, in buildah's storage
    content: bytes | None = None  # the tar


def hand_over(image: str, reference: str, ctr: Ctr) -> None:
    """Makes buildah's `image` known to containerd as `reference`. Raises ClusterError."""
    config = buildah.image_config(image)
    layers = _layers(image, json.loads(config)["rootfs"]["diff_ids"])
    chain = chain_ids([layer.digest for layer in layers])
    for layer, name, parent in zip(layers, chain, ["", *chain], strict=False):
        if ctr.run("snapshots", "--snapshotter", SNAPSHOTTER, "info", name).returncode:
            _make_snapshot(layer, name, parent, ctr)
    import_archive(oci_archive(reference, config, layers), ctr)
    # From here on the image keeps its snapshots; until here they had to be kept from the garbage collector.
    for name in chain:
        ctr.check("snapshots", "--snapshotter", SNAPSHOTTER, "label", name, "containerd.io/gc.root=")


def import_archive(archive: bytes, ctr: Ctr) -> None:
    """Gives containerd an OCI archive; layers that it has snapshots of may be left out. Raises ClusterError."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(archive)
        file.flush()
        ctr.check("images", "import", "--snapshotter", SNAPSHOTTER, file.name)


def chain_ids(digests: Sequence[str]) -> list[str]:
    """The names of the stacks of the first one, two, … layers (OCI image specification, "Layer ChainID")."""
    names: list[str] = []
    for digest in digests:
        stack = f"{names[-1]} {digest}" if names else ""
        names.append(f"sha256:{hashlib.sha256(stack.encode()).hexdigest()}" if stack else digest)
    return names


def oci_archive(reference: str, config: bytes, layers: Sequence[Layer]) -> bytes:
    """An OCI archive (tar) of the image, with those layers that carry their content."""
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [{"mediaType": LAYER, "digest": each.digest, "size": each.size} for each in layers],
        }
    )
    named = _descriptor(MANIFEST, manifest) | {"annotations": {"io.containerd.image.name": reference}}
    blobs = [config, manifest, *(each.content for each in layers if each.content is not None)]
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [named]}),
        **{f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in blobs},
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def _layers(image: str, digests: list[str]) -> list[Layer]:
    """The image's layers in buildah's storage, lowest first."""
    storage = buildah.storage()
    records = {each["id"]: each for each in json.loads((storage / "overlay-layers" / "layers.json").read_text())}
    top = next(each["layer"] for each in _images(storage) if _localhost(image) in (each.get("names") or []))
    layers: list[Layer] = []
    while top:
        record = records[top]
        folder = storage / "overlay" / top / "diff"
        layers.insert(0, Layer(record["diff-digest"], record["diff-size"], folder=folder))
        top = record.get("parent", "")
    if [layer.digest for layer in layers] != digests:
        raise ClusterError(f"buildah's storage does not agree with the configuration of {image}")
    return layers


def _images(storage: Path) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = json.loads((storage / "overlay-images" / "images.json").read_text())
    return images


def _localhost(image: str) -> str:
    return image if image.startswith("localhost/") else f"localhost/{image}"


def _make_snapshot(layer: Layer, name: str, parent: str, ctr: Ctr) -> None:
    assert layer.folder, "a layer in the archive is unpacked by containerd itself"
    snapshots = ["snapshots", "--snapshotter", SNAPSHOTTER]
    draft = f"draft-{name}"
    ctr.run(*snapshots, "remove", draft)
    (mount,) = json.loads(ctr.check(*snapshots, "prepare", "--mounts", draft, *([parent] if parent else [])))
    link = ["cp", "--archive", "--link", "--no-target-directory", str(layer.folder), str(_upper_folder(mount))]
    linked = subprocess.run(link, capture_output=True, text=True)
    if linked.returncode:
        raise ClusterError(f"a layer cannot be linked into containerd's store: {linked.stderr.strip()[-300:]}")
    ctr.check(*snapshots, "commit", name, draft)


def _upper_folder(mount: dict[str, Any]) -> Path:
    """The folder of a snapshot that is being made: overlayfs' upper one, or for the lowest layer a plain bind."""
    for option in mount["Options"]:
        if option.startswith("upperdir="):
            return Path(option.removeprefix("upperdir="))
    return Path(mount["Source"])


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
