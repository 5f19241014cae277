"""The chart as a user has it: rendered by helm, with the sets of values that the tests use."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.chart.tools import go_tool
from tests.cluster.daemon import direct_environment
from tests.cluster.paths import CHECKOUT

CHART = CHECKOUT / "charts" / "finetune-operator"
RELEASE = "tune"
NAMESPACE = "finetune-system"

Object = dict[str, Any]

EVERYTHING: Object = {
    "replicas": 2,
    "commonLabels": {"team": "ml"},
    "image": {"registry": "registry.example.com", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "metrics": {
        "perRun": True,
        "serviceMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "interval": "30s"},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True, "annotations": {"folder": "ML"}},
    },
    "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {}}]},
    "podDisruptionBudget": {"enabled": True},
    "admissionPolicy": {"enabled": True, "actions": ["Deny", "Audit"]},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "serviceAccount": {"annotations": {"example.com/role": "finetune"}},
    "progress": {
        "certificate": {"certManager": {"enabled": True, "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}}
    },
    "upstream": {"allowBaseUrls": ["https://a.example.com", "https://b.example.com"]},
    "extraArgs": ["--log-level=debug"],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"}],
    "extraEnvFrom": [{"configMapRef": {"name": "proxy", "optional": True}}],
    "extraVolumes": [{"name": "extra", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "extra", "mountPath": "/extra"}],
    "extraObjects": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "{{ .Release.Name }}-extra", "namespace": "{{ .Release.Namespace }}"},
        },
        "kind: ConfigMap\napiVersion: v1\n"
        'metadata: {name: "{{ .Chart.Name }}-text", namespace: "{{ .Release.Namespace }}"}',
    ],
}
NAMESPACED: Object = {"namespaces": ["team-a", "team-b"], "crds": {"enabled": False}}
VALUE_SETS: dict[str, Object] = {"default": {}, "namespaced": NAMESPACED, "everything": EVERYTHING}


class HelmError(Exception):
    """helm ended with a code other than 0; the message is what it wrote to stderr."""


def helm(*arguments: str | Path, values: Mapping[str, Any] | None = None, kubeconfig: Path | None = None) -> str:
    """Runs helm with nothing of the user's and returns its standard output. Raises HelmError."""
    with tempfile.TemporaryDirectory() as folder:
        command: list[str | Path] = [go_tool("helm"), *arguments]
        if values is not None:
            file = Path(folder, "values.yaml")
            file.write_text(yaml.safe_dump(dict(values)))
            command += ["--values", file]
        if kubeconfig is not None:
            command += ["--kubeconfig", kubeconfig]
        home = {f"HELM_{kind}_HOME": f"{folder}/{kind}" for kind in ("CACHE", "CONFIG", "DATA")}
        env = direct_environment() | home | {"KUBECONFIG": os.devnull}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=900)
    if done.returncode:
        raise HelmError(done.stderr.strip())
    return done.stdout


def render(values: Mapping[str, Any]) -> list[Object]:
    """Every object of the chart, hooks included."""
    found: list[Object] = json.loads(_rendered(json.dumps(dict(values))))
    return found


@functools.cache
def _rendered(values: str) -> str:
    """JSON of the objects; the same values are rendered by many tests, and helm takes its time."""
    text = helm("template", RELEASE, CHART, "--namespace", NAMESPACE, values=json.loads(values))
    return json.dumps([each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each])


def kinds(objects: list[Object], kind: str) -> list[Object]:
    """Those of one kind."""
    return [each for each in objects if each["kind"] == kind]


def only(objects: list[Object], kind: str, name: str = "") -> Object:
    """The one object of a kind whose name ends so."""
    (found,) = [each for each in kinds(objects, kind) if each["metadata"]["name"].endswith(name)]
    return found


def as_list(objects: list[Object]) -> str:
    """One `List` as JSON, for kubectl."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
