"""Environment, command and image of a container's process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.node_agent.environment import ConfigError, Host, Variable, container_env, expand, invocation
from tests.cluster.node_agent.fields import FieldError, format_map, pod_field, resource_field
from tests.cluster.node_agent.images import Image, ImageMapError, canonical, load_images
from tests.cluster.node_agent.mounts import Mount, PathMap

HOST = Host("10.0.0.9", {"cpu": "2", "memory": "4Gi"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
POD: dict[str, Any] = {
    "metadata": {
        "name": "p",
        "namespace": "ns",
        "uid": "u-1",
        "labels": {"b": "2", "a": "1"},
        "annotations": {"finetune.dev/config": '{"a": "b"}'},
    },
    "spec": {"nodeName": "n", "serviceAccountName": "sa", "containers": [{"name": "main"}]},
}


class Objects:
    """Secrets and ConfigMaps in memory."""

    def __init__(self, **data: dict[str, bytes]) -> None:
        self._data = data

    def secret(self, name: str) -> Mapping[str, bytes] | None:
        return self._data.get(f"secret_{name}")

    def config_map(self, name: str) -> Mapping[str, bytes] | None:
        return self._data.get(f"map_{name}")


def values(container: dict[str, Any], **data: dict[str, bytes]) -> dict[str, str]:
    found = container_env(POD, container, HOST, Objects(**data))
    return {name: variable.value for name, variable in found.items() if name not in HOST.service_env}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)-$(B)", "1-$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A $ $(", "$A $ $("),
        ("$(A", "$(A"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


def test_later_variables_see_earlier_ones_and_services() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)@$(KUBERNETES_SERVICE_HOST)"}, {"name": "C"}]
    assert values({"env": env}) == {"A": "1", "B": "1@10.0.0.1", "C": ""}


def test_env_from_comes_first_and_takes_a_prefix() -> None:
    container = {
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
        "env": [{"name": "K", "value": "own"}],
    }
    assert values(container, map_m={"x": b"1"}, secret_s={"K": b"secret", "L": b"2"}) == {
        "P_x": "1",
        "K": "own",
        "L": "2",
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"secretKeyRef": {"name": "s", "key": "k"}}, 'secret "s" not found'),
        ({"configMapKeyRef": {"name": "m", "key": "k"}}, 'configmap "m" not found'),
        ({"secretKeyRef": {"name": "there", "key": "k"}}, "couldn't find key k in Secret ns/there"),
    ],
)
def test_missing_reference_is_named(source: dict[str, Any], message: str) -> None:
    container = {"env": [{"name": "A", "valueFrom": source}]}
    with pytest.raises(ConfigError, match=message):
        values(container, secret_there={})
    next(iter(source.values()))["optional"] = True
    assert values(container, secret_there={}) == {}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u-1"),
        ("metadata.annotations['finetune.dev/config']", '{"a": "b"}'),
        ("metadata.labels['none']", ""),
        ("metadata.labels", 'a="1"\nb="2"'),
        ("spec.nodeName", "n"),
        ("spec.serviceAccountName", "sa"),
        ("status.podIP", "10.0.0.9"),
    ],
)
def test_pod_fields(path: str, expected: str) -> None:
    assert pod_field(POD, path, HOST.address) == expected


def test_unknown_field_is_named() -> None:
    with pytest.raises(FieldError, match=r"spec\.secret"):
        pod_field(POD, "spec.secret", HOST.address)


def test_values_are_escaped_in_files_of_labels() -> None:
    assert format_map({"a": 'x"\n'}) == 'a="x\\"\\n"'


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"resource": "limits.memory"}, str(512 * 1024**2)),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "512"),
        ({"resource": "requests.cpu"}, "1"),
        ({"resource": "requests.cpu", "divisor": "1m"}, "250"),
        ({"resource": "limits.cpu"}, "2"),
        ({"resource": "requests.memory"}, "0"),
    ],
)
def test_resource_fields(reference: dict[str, str], expected: str) -> None:
    container = {"resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "250m"}}}
    assert resource_field(container, reference, HOST.allocatable) == expected


IMAGE = Image(("python", "-m", "trainer"), ("--default",), {"PYTHONPATH": "/app/src", "A": "image"}, "/app")
STORAGE = PathMap([Mount("/app", Path("/host/app")), Mount("/data", Path("/host/data"))])


@pytest.mark.parametrize(
    ("container", "argv"),
    [
        ({}, ("python", "-m", "trainer", "--default")),
        ({"args": ["--in=/data/x"]}, ("python", "-m", "trainer", "--in=/host/data/x")),
        ({"command": ["cat"]}, ("cat",)),
        ({"command": ["cat"], "args": ["$(FILE)"]}, ("cat", "/host/data/f")),
    ],
)
def test_command_and_args_replace_the_images(container: dict[str, Any], argv: tuple[str, ...]) -> None:
    assert invocation(container, IMAGE, {"FILE": Variable("/data/f")}, {}, STORAGE).argv == argv


def test_paths_of_the_image_and_values_of_secrets_are_not_rewritten() -> None:
    variables = {"A": Variable("/data/a"), "KEY": Variable("/data/looks-like-a-path", opaque=True)}
    plan = invocation({}, IMAGE, variables, {"PATH": "/bin", "A": "base"}, STORAGE)
    assert plan.env == {
        "PATH": "/bin",
        "PYTHONPATH": "/app/src",
        "A": "/host/data/a",
        "KEY": "/data/looks-like-a-path",
    }
    assert plan.working_dir == "/app"
    assert invocation({"workingDir": "/data/d"}, IMAGE, {}, {}, STORAGE).working_dir == "/host/data/d"


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("a/b", "docker.io/a/b:latest"),
        ("a/b:1", "docker.io/a/b:1"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("ghcr.io/o/i@sha256:00", "ghcr.io/o/i@sha256:00"),
    ],
)
def test_image_references_are_compared_in_full(reference: str, full: str) -> None:
    assert canonical(reference) == full


def test_image_map_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    assert load_images(path) == {}
    path.write_text(json.dumps({"busybox": {"command": ["sh"], "env": {"A": 1}}}))
    assert load_images(path) == {"docker.io/library/busybox:latest": Image(("sh",), env={"A": "1"})}
    for wrong in ('{"x": {"cmd": []}}', '{"x": {"command": "sh"}}', "[", "[]"):
        path.write_text(wrong)
        with pytest.raises(ImageMapError, match=r"images\.json"):
            load_images(path)
