"""The real API server takes every object of the chart, strictly, and its pods where only restricted ones may run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.charts import NAMESPACE, VALUE_SETS, as_list, only, render
from tests.chart.tools import go_tool
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl

pytestmark = pytest.mark.xdist_group("chart-api-server")  # one worker has its cluster

Object = dict[str, Any]
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}


def foreign_crd(group: str, version: str, kind: str, spec: Object) -> Object:
    """The part of another project's resource that the chart writes."""
    plural = kind.lower() + "s"
    schema = {"type": "object", "properties": {"spec": spec}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


TEXT: Object = {"type": "string"}
TEXTS: Object = {"type": "array", "items": TEXT}
TEXT_MAP: Object = {"type": "object", "additionalProperties": TEXT}


def record(**fields: Object) -> Object:
    return {"type": "object", "properties": fields}


def many(item: Object) -> Object:
    return {"type": "array", "items": item}


# From the operators' published API references: prometheus-operator monitoring.coreos.com/v1, cert-manager v1.
ENDPOINT = record(port=TEXT, path=TEXT, interval=TEXT, scrapeTimeout=TEXT, honorLabels={"type": "boolean"})
RULE = record(alert=TEXT, expr=TEXT, labels=TEXT_MAP, annotations=TEXT_MAP, **{"for": TEXT})
CRDS = [
    foreign_crd(
        "monitoring.coreos.com",
        "v1",
        "ServiceMonitor",
        record(
            namespaceSelector=record(matchNames=TEXTS), selector=record(matchLabels=TEXT_MAP), endpoints=many(ENDPOINT)
        ),
    ),
    foreign_crd(
        "monitoring.coreos.com",
        "v1",
        "PodMonitor",
        record(
            namespaceSelector=record(matchNames=TEXTS),
            selector=record(matchLabels=TEXT_MAP),
            podMetricsEndpoints=many(ENDPOINT),
        ),
    ),
    foreign_crd(
        "monitoring.coreos.com", "v1", "PrometheusRule", record(groups=many(record(name=TEXT, rules=many(RULE))))
    ),
    foreign_crd(
        "cert-manager.io",
        "v1",
        "Certificate",
        record(
            secretName=TEXT,
            dnsNames=TEXTS,
            usages=TEXTS,
            privateKey=record(rotationPolicy=TEXT),
            issuerRef=record(name=TEXT, kind=TEXT, group=TEXT),
        ),
    ),
]


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    """With the namespaces that the chart speaks of, all of them restricted, and the resources of others."""
    namespaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
        for name in (NAMESPACE, "team-a", "team-b")
    ]
    control_plane.apply(*namespaces, *CRDS)
    Kubectl(control_plane.kubeconfig).wait_established(*(crd["metadata"]["name"] for crd in CRDS))
    return control_plane


@pytest.mark.parametrize("name", VALUE_SETS)
def test_every_object_is_taken_strictly(plane: ControlPlane, name: str) -> None:
    objects = render(VALUE_SETS[name])
    flags = ["--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "--force-conflicts"]
    taken = json.loads(plane.kubectl("apply", *flags, "-f", "-", "-o", "json", stdin=as_list(objects)))
    assert len(taken["items"]) == len(objects)


@pytest.mark.parametrize("name", VALUE_SETS)
def test_the_pods_are_let_into_a_restricted_namespace(plane: ControlPlane, name: str) -> None:
    """Of a Deployment only its pods are checked, so here is the pod itself."""
    objects = render(VALUE_SETS[name])
    plane.apply(only(objects, "ServiceAccount"))
    template = only(objects, "Deployment")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {**template["metadata"], "name": "operator", "namespace": NAMESPACE}
    test_pod = only(objects, "Pod")
    said = plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=as_list([pod, test_pod]))
    assert said.count("created") == 2
    del pod["spec"]["securityContext"]
    with pytest.raises(Exception, match="violates PodSecurity"):
        plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


@pytest.fixture(scope="module")
def schemas(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One JSON schema per kind, strict, from the API server's own OpenAPI document."""
    folder = tmp_path_factory.mktemp("schemas")
    document = json.loads(plane.kubectl("get", "--raw", "/openapi/v2"))
    definitions = document["definitions"]
    (folder / "definitions.json").write_text(
        json.dumps({"definitions": {k: strict(v) for k, v in definitions.items()}})
    )
    for name, schema in definitions.items():
        for gvk in schema.get("x-kubernetes-group-version-kind", ()):
            # kubeconform's names: pod-v1, role-rbac-v1
            group = [gvk["group"].partition(".")[0]] if gvk["group"] else []
            file = folder / ("-".join([gvk["kind"], *group, gvk["version"]]).lower() + ".json")
            file.write_text(json.dumps({"$ref": f"definitions.json#/definitions/{name}"}))
    return folder


def strict(schema: Object) -> Object:
    """Fields that nobody knows are errors; numbers or text where the API says so."""
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        return {**schema, "additionalProperties": False}
    return schema


def kubeconform(schemas: Path, manifest: str) -> subprocess.CompletedProcess[str]:
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    command = [go_tool("kubeconform"), "-strict", "-summary", "-schema-location", location, "-"]
    return subprocess.run([str(part) for part in command], input=manifest, capture_output=True, text=True)


@pytest.mark.parametrize("name", VALUE_SETS)
def test_kubeconform_finds_nothing(schemas: Path, name: str) -> None:
    done = kubeconform(schemas, yaml.safe_dump_all(render(VALUE_SETS[name])))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Skipped: 0" in done.stdout


def test_kubeconform_would_find_something(schemas: Path) -> None:
    objects = render({})
    container = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    container["livenesProbe"] = container.pop("livenessProbe")
    done = kubeconform(schemas, yaml.safe_dump_all(objects))
    assert done.returncode == 1
    assert "livenesProbe" in done.stdout
