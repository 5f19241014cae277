"""What reaches the pod of a run: devices, user, certificate authorities. What is not set changes no byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.backends.job.manifest import JobDefaults, build_job
from finetune_operator.controller.model import read_finetune
from tests.unit.observations import body, identity

Object = dict[str, Any]


def pod(job: Object | None = None, **defaults: Any) -> Object:
    manifest = body()
    manifest["spec"]["backend"]["job"] |= job or {}
    owner = read_finetune(manifest)
    assert owner.spec is not None
    made = build_job(identity(owner), owner.spec, resolve_parameters(owner.spec), JobDefaults(**defaults))
    spec: Object = made["spec"]["template"]["spec"]
    return spec


def environment(spec: Object) -> dict[str, str]:
    return {each["name"]: each["value"] for each in spec["containers"][0]["env"]}


@pytest.mark.parametrize(("gpus", "told"), [(0, None), (1, "1"), (8, "8")])
def test_the_trainer_is_told_how_many_devices_were_asked_for(gpus: int, told: str | None) -> None:
    assert environment(pod({"gpus": gpus})).get("FINETUNE_DEVICES") == told


def test_the_user_is_a_setting() -> None:
    ids = {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
    assert pod()["securityContext"].items() >= ids.items()
    assert "LOGNAME" not in environment(pod())
    changed = pod(run_as_user=2000)
    assert changed["securityContext"].items() >= dict.fromkeys(ids, 2000).items()


def test_no_user_at_all_leaves_it_to_the_cluster() -> None:
    """OpenShift's restricted-v2 refuses every user that is not of the namespace's range."""
    spec = pod(run_as_user=None)
    assert spec["securityContext"].keys() == {"runAsNonRoot", "fsGroupChangePolicy", "seccompProfile"}
    assert environment(spec)["LOGNAME"] == "trainer"


@pytest.mark.parametrize(
    ("job", "defaults", "source"),
    [
        ({}, {}, None),
        (
            {},
            {"trust_bundle": "all"},
            {"name": "all", "items": [{"key": "ca.crt", "path": "ca.crt"}], "optional": True},
        ),
        (
            {"trustBundle": {"name": "mine"}},
            {"trust_bundle": "all"},
            {"name": "mine", "items": [{"key": "ca.crt", "path": "ca.crt"}]},
        ),
        (
            {"trustBundle": {"name": "mine", "key": "root.pem"}},
            {},
            {"name": "mine", "items": [{"key": "root.pem", "path": "ca.crt"}]},
        ),
    ],
)
def test_certificate_authorities_come_from_a_config_map(job: Object, defaults: Object, source: Object | None) -> None:
    spec = pod(job, **defaults)
    found = [each["configMap"] for each in spec["volumes"] if each["name"] == "trust"]
    mounted = [each["mountPath"] for each in spec["containers"][0]["volumeMounts"] if each["name"] == "trust"]
    assert found == ([source] if source else [])
    assert mounted == (["/etc/finetune-trust"] if source else [])
    assert environment(spec).get("FINETUNE_TRUST_BUNDLE") == ("/etc/finetune-trust/ca.crt" if source else None)


def test_what_is_not_set_changes_no_byte() -> None:
    text = json.dumps(pod({"gpus": 0}))
    assert text == json.dumps(pod({"gpus": 0}, run_as_user=1000, trust_bundle=None))
    for word in ("trust", "FINETUNE_DEVICES", "LOGNAME"):
        assert word not in text
