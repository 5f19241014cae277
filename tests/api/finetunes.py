"""FineTunes for tests: a good one to change, and how to send it as a user does."""

from __future__ import annotations

import base64
import copy
import functools
import http.client
import json
import re
import ssl
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control_plane import ControlPlane
from tests.cluster.paths import CHECKOUT

CRD = CHECKOUT / "crds" / "finetune.dev_finetunes.yaml"

Manifest = dict[str, Any]

RECIPES: dict[str, dict[str, Any]] = {
    "textGeneration": {"questionColumn": "q", "answerColumn": "a"},
    "textChatMessages": {"messagesColumn": "messages"},
    "imageToText": {"questionColumn": "q", "answerColumn": "a", "imageColumns": ["image"]},
    "imageGeneration": {"captionColumn": "caption", "imageColumn": "image"},
    "imageEditing": {"captionColumn": "caption", "imageColumn": "after", "controlImageColumn": "before"},
    "multiImageEditing": {"captionColumn": "caption", "imageColumn": "after", "controlImageColumns": ["before"]},
    "imageToVideo": {"captionColumn": "caption", "imageColumn": "clip"},
    "textToVideo": {"captionColumn": "caption", "imageColumn": "clip"},
    "voice": {"cloneType": "instant"},
}
BACKENDS: dict[str, dict[str, Any]] = {
    "job": {"storage": {"size": "1Gi"}},
    "oxen": {"namespace": "ox", "repository": "receipts", "secretRef": {"name": "oxen"}},
    "scenario": {"modelType": "flux.1-lora", "secretRef": {"name": "scenario"}},
    "bfl": {"mode": "style", "secretRef": {"name": "bfl"}},
    "octoai": {
        "baseURL": "https://tunes.example.com",
        "secretRef": {"name": "octoai"},
        "baseCheckpoint": {"checkpointId": "sdxl"},
    },
}
BASE_MODELS = {"bfl": "flux-pro", "octoai": "sdxl"}


def fine_tune(name: str = "sample", *, recipe: str = "imageToText", backend: str = "job", **spec: Any) -> Manifest:
    """A valid FineTune, wherever the backend trains the recipe; `spec` replaces members of its spec."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTune",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "baseModel": BASE_MODELS.get(backend, "Qwen/Qwen3-VL-2B-Instruct"),
            "recipe": {recipe: copy.deepcopy(RECIPES[recipe])},
            "dataset": {"uri": "s3://bucket/train.parquet"},
            "backend": {backend: copy.deepcopy(BACKENDS[backend])},
            **spec,
        },
    }


def changed(manifest: Manifest, path: str, value: Any) -> Manifest:
    """A copy with the member at a dotted path set; with `...` it is removed."""
    result = copy.deepcopy(manifest)
    *parents, last = path.split(".")
    node = result
    for name in parents:
        node = node.setdefault(name, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return result


def nested(manifest: Manifest, levels: int) -> bytes:
    """It as JSON with `advanced.x` so many levels deep, which is no field: the API server drops it."""
    text = json.dumps(changed(manifest, "spec.backend.job.advanced", {"x": "HERE"}))
    return text.replace('"HERE"', _deep(levels)).encode()


def nested_status(levels: int, *, objects: bool = False) -> bytes:
    """A merge patch that makes `status.parameters.x` so many levels deep, of lists or of objects."""
    return b'{"status":{"parameters":{"x":%s}}}' % _deep(levels, objects=objects).encode()


def _deep(levels: int, *, objects: bool = False) -> str:
    return '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1) if objects else "[" * levels + "]" * levels


def flat(text: bytes) -> bytes:
    """An answer of the API server with the word deep where `nested` or its managed fields are."""
    while found := _OPENINGS.search(text):
        levels = found[0].count(b"[") or found[0].count(b'a":')
        end = found.end() + levels + (0 if found[0].startswith(b"[") else len("{}"))
        text = text[: found.start()] + b'"deep"' + text[end:]
    return text


_OPENINGS = re.compile(rb'\[{50,}|(?:\{(?:"\.":\{\},)?"(?:f:)?a":){50,}')


class RefusedError(Exception):
    """What the API server says when it does not do what it is asked."""


def create(plane: ControlPlane, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
    """Creates it with strict field validation; returns what the API server stored. A warning counts as a refusal."""
    metadata = manifest["metadata"]
    query = urllib.parse.urlencode({"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})})
    return _send(
        plane, "POST", f"/apis/finetune.dev/v1alpha1/namespaces/{metadata['namespace']}/finetunes?{query}", manifest
    )


def create_nested(plane: ControlPlane, manifest: Manifest, levels: int) -> None:
    """Creates it with `status.parameters.x` so many levels deep."""
    create(plane, manifest)
    _send(plane, "PATCH", f"{_PATH}/{manifest['metadata']['name']}/status", nested_status(levels))


def refusal(plane: ControlPlane, manifest: Manifest) -> str:
    """What the API server says to a FineTune that it does not take; empty when it takes it."""
    try:
        create(plane, manifest, dry_run=True)
    except RefusedError as error:
        return str(error)
    return ""


def patch(plane: ControlPlane, name: str, change: Manifest, subresource: str = "") -> str:
    """Merges `change` into a FineTune. Returns what the API server says when it refuses, or nothing."""
    try:
        _send(plane, "PATCH", f"{_PATH}/{name}{subresource}?fieldValidation=Strict", change)
    except RefusedError as error:
        return str(error)
    return ""


def get(plane: ControlPlane, name: str) -> Manifest:
    """The FineTune as it is stored."""
    return _send(plane, "GET", f"{_PATH}/{name}")


def delete(plane: ControlPlane, name: str) -> None:
    """Deletes a FineTune."""
    _send(plane, "DELETE", f"{_PATH}/{name}")


_PATH = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunes"


def _send(plane: ControlPlane, method: str, path: str, body: Manifest | bytes | None = None) -> Manifest:
    # kubectl would take a quarter of a second for each of hundreds of requests.
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    address = urllib.parse.urlsplit(plane.url)
    connection = http.client.HTTPSConnection(
        str(address.hostname), address.port, timeout=60, context=_tls(plane.kubeconfig)
    )
    try:
        text = body if isinstance(body, bytes) else json.dumps(body) if body else None
        connection.request(method, path, text, {"Content-Type": kind})
        response = connection.getresponse()
        answer: Manifest = json.loads(flat(response.read()))
    finally:
        connection.close()
    if warning := response.getheader("Warning"):
        raise RefusedError(warning)
    if response.status >= 300:
        raise RefusedError(answer["message"])
    return answer


@functools.cache
def _tls(kubeconfig: Path) -> ssl.SSLContext:
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:  # the ssl module reads certificates from files only
        for part in ("client-certificate-data", "client-key-data"):
            pair.write(base64.b64decode(user[part]) + b"\n")
        pair.flush()
        context.load_cert_chain(pair.name)
    return context
