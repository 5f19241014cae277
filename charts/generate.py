"""What of the chart follows from elsewhere: `python charts/generate.py` writes it, or with --check compares.

- templates/crd.yaml from crds/
- templates/_settings.tpl from the operator's settings: which value of the chart becomes which environment variable
- argo-cd/argocd-cm.yaml from the scripts beside it
- values.schema.json and README.md from the comments of values.yaml, and for settings from their own definitions
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from finetune_operator.settings import Definition, definitions

CHART: Final = Path(__file__).with_name("finetune-operator")
ARGO: Final = CHART.with_name("argo-cd")
LONGEST_DEFAULT: Final = 300
"""Characters in the table of values."""
CRD: Final = CHART.parents[1] / "crds" / "finetune.dev_finetunes.yaml"

Schema = dict[str, Any]

# What the chart works out by itself; every other setting is passed on as it is.
DERIVED: Final = {
    "trainer.image": 'include "finetune-operator.imageOf" (list .Values.trainer.image .Chart.AppVersion)',
    "leaderElection.leaseName": 'include "finetune-operator.leaseName" .',
    "progress.url": 'include "finetune-operator.progressUrl" .',
}
FILES: Final = {"progress.certFile": "certificate", "progress.keyFile": "key", "progress.caFile": "authority"}


@dataclass
class Value:
    """One value of values.yaml with what its comment says."""

    path: tuple[str, ...]
    default: Any
    description: str = ""
    schema: Schema | None = None
    children: list[Value] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As `--set` takes it."""
        return ".".join(self.path)


# Reading values.yaml


def read_values(text: str, settings: dict[str, Definition]) -> Value:
    """The tree of values. Raises ValueError for a value without description."""
    root = Value((), None)
    _fill(root, yaml.safe_load(text), dict(_comments(text)), settings)
    return root


def _fill(
    parent: Value, members: dict[str, Any], comments: dict[tuple[str, ...], list[str]], settings: dict[str, Definition]
) -> None:
    for key, default in members.items():
        path = (*parent.path, key)
        value = Value(path, default)
        _describe(value, comments.get(path, []), settings)
        if not value.description:
            if not isinstance(default, dict) or not default:
                raise ValueError(f"values.yaml: {value.name} has no description (a line with `# --` above it)")
            _fill(value, default, comments, settings)
        parent.children.append(value)


def _describe(value: Value, lines: list[str], settings: dict[str, Definition]) -> None:
    words: list[str] = []
    for line in lines:
        if line.startswith("@schema "):
            value.schema = json.loads(line.removeprefix("@schema "))
        elif line == "@setting":
            setting = settings[value.name]
            value.description, value.schema = setting.help, _schema_of(setting, value.default)
        elif line.startswith("-- "):
            words = [line.removeprefix("-- ")]
        elif words:
            words.append(line)
    value.description = value.description or " ".join(words)


def _comments(text: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """(path, the comment's lines) of every key that has one; the file is indented by two."""
    path: list[str] = []
    lines: list[str] = []
    for line in text.splitlines():
        if comment := re.fullmatch(r"\s*# ?(.*)", line):
            lines.append(comment[1])
        elif key := re.match(r"( *)([A-Za-z][\w.\-/]*):", line):
            path[len(key[1]) // 2 :] = [key[2]]
            yield tuple(path), lines
            lines = []
        else:
            lines = []


# JSON schema


def _schema_of(setting: Definition, default: Any) -> Schema:
    if setting.is_switch:
        return {"type": "boolean"}
    if setting.repeatable:
        return {"type": "array", "items": {"type": "string"}}
    if isinstance(setting.default, float):
        return {"type": ["number", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)?$"}
    if setting.choices:
        return {"type": "string", "enum": list(setting.choices)}
    return {"type": _TYPES[type(default)]}


def schema(root: Value) -> Schema:
    """Of all values; what is misspelt is refused."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart finetune-operator",
        **_object(root, {"global": {"type": "object", "description": "For charts that contain this one."}}),
    }


def _object(value: Value, more: Schema | None = None) -> Schema:
    members = {child.path[-1]: _member(child) for child in value.children}
    return {"type": "object", "additionalProperties": False, "properties": {**members, **(more or {})}}


def _member(value: Value) -> Schema:
    if value.children:
        return _object(value)
    shape = value.schema or {"type": _TYPES[type(value.default)]}
    if shape == {"type": "object"} or (isinstance(value.default, dict) and "properties" not in shape):
        shape = {"type": "object"}
    return {"description": value.description, **shape}


_TYPES: Final = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


# README


def readme(root: Value, chart: dict[str, Any]) -> str:
    """The chart's README with one row for each value."""
    rows = [f"| `{each.name}` | {_default(each.default)} | {_cell(each.description)} |" for each in _leaves(root)]
    return _README.format(
        name=chart["name"],
        description=chart["description"],
        version=chart["version"],
        kube=chart["kubeVersion"].removesuffix("-0"),
        rows="\n".join(rows),
    )


def _leaves(value: Value) -> Iterator[Value]:
    for child in value.children:
        if child.children:
            yield from _leaves(child)
        else:
            yield child


def _default(default: Any) -> str:
    text = json.dumps(default, ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|") if len(text) <= LONGEST_DEFAULT else "see values.yaml"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_README: Final = """# {name}

<!-- Generated by charts/generate.py from values.yaml; do not edit. -->

{description} Chart version {version}, for Kubernetes {kube}.

## Install

```
helm install finetune charts/{name} --namespace finetune-system --create-namespace --wait
helm test finetune --namespace finetune-system    # asks the operator's probes through its Service
kubectl get finetunes --all-namespaces --watch
```

`image` and `trainer.image` name the images of the operator and the trainer; pin them by `digest`.

- **One namespace, or a few**: `--set 'namespaces={{team-a,team-b}}'`. The operator then gets Roles there. Only the
  review of pods' tokens remains cluster-wide (`rbac.tokenReviews`).
- **Two replicas**: `--set replicas=2`. One holds the Lease and does the work; the other takes over if it fails.
- **Users**: the cluster roles `view`, `edit` and `admin` include FineTunes by aggregation (`rbac.aggregate`).
- **The progress endpoint** creates and renews its own certificate. To use cert-manager instead:
  `--set progress.certificate.certManager.enabled=true --set progress.certificate.certManager.issuerRef.name=…`.
- **Bind the operator's own account**: `--set admissionPolicy.enabled=true`. What somebody with its token could then do
  is described in [docs/security.md](../../docs/security.md#what-a-stolen-operator-token-can-do).
- **IPv6, OpenShift, private certificate authorities, proxies**: `trainer.user`, `trainer.trustBundle`,
  `upstream.caFile`; see [docs/private-networks.md](../../docs/private-networks.md).
- **Prometheus and Grafana**: `metrics.serviceMonitor.enabled`, `metrics.prometheusRule.enabled` and
  `metrics.dashboard.enabled`; `metrics.perRun` adds series for each run.

## Upgrade

`helm upgrade` also upgrades the CRD, because it is a template of this chart (`crds.enabled`). Runs continue: the pods
of the operator are replaced, those of the trainers are not. `helm rollback` rolls the CRD back as well. For details,
see [docs/upgrading.md](../../docs/upgrading.md).

## Uninstall

1. Delete the FineTunes: `kubectl delete finetunes --all --all-namespaces`. The operator cancels runs at providers, so
   it must still be running.
2. `helm uninstall finetune --namespace finetune-system`. The CRD is kept (`crds.keep`).
3. `kubectl delete crd finetunes.finetune.dev`.

The operator creates the Secret `finetune-operator-progress` and the Lease itself, so they are not part of the release
and remain in its namespace. If the operator was removed first and FineTunes are stuck in `Terminating`, see
[docs/upgrading.md](../../docs/upgrading.md#the-operator-was-removed-first).

If something does not work, see [Troubleshooting by reason](../../docs/troubleshooting.md).

## Values

| Value | Default | Description |
|---|---|---|
{rows}
"""


# Templates


def crd_template(text: str) -> str:
    """The resource as a template: what the release adds to its metadata, and the switch."""
    head, spec = text.split("\nspec:\n", 1)
    manifest = yaml.safe_load(head)
    labels = "\n".join(f"    {key}: {value}" for key, value in manifest["metadata"].pop("labels", {}).items())
    if set(manifest["metadata"]) != {"name"} or labels != "    app.kubernetes.io/name: finetune-operator":
        raise ValueError(f"{CRD.name}: its metadata has changed; change crd_template with it")
    return _CRD.format(name=manifest["metadata"]["name"], spec=re.sub(r"\{\{|\}\}", r'{{ "\g<0>" }}', spec).rstrip())


_CRD: Final = """{{{{- /* Generated by charts/generate.py from crds/; do not edit. */}}}}
{{{{- if .Values.crds.enabled }}}}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {name}
  labels: {{{{- include "finetune-operator.labels" . | nindent 4 }}}}
  annotations:
    {{{{- with .Values.crds.annotations }}}}
    {{{{- toYaml . | nindent 4 }}}}
    {{{{- end }}}}
    {{{{- if .Values.crds.keep }}}}
    helm.sh/resource-policy: keep
    {{{{- end }}}}
spec:
{spec}
{{{{- end }}}}
"""


def settings_template(settings: dict[str, Definition]) -> str:
    """The entries of the ConfigMap that the operator's environment comes from."""
    lines = ["{{- /* Generated by charts/generate.py from the operator's settings; do not edit. */}}"]
    lines.append('{{- define "finetune-operator.settings" -}}')
    lines.append("FINETUNE_OPERATOR_NAMESPACE: {{ .Release.Namespace }}")
    for name, setting in settings.items():
        lines.append(
            f'{{{{- include "finetune-operator.setting" (list "{setting.environment}" {_source(name, setting)}) }}}}'
        )
    return "\n".join([*lines, "{{- end }}", ""])


def _source(name: str, setting: Definition) -> str:
    if name in DERIVED:
        return f"({DERIVED[name]})"
    if name in FILES:
        return f'(include "finetune-operator.certificateFile" (list . "{FILES[name]}" .Values.{name}))'
    return f'(join "," .Values.{name})' if setting.repeatable else f".Values.{name}"


# Argo CD


def argo_configuration(folder: Path) -> str:
    """What an administrator of Argo CD copies into the ConfigMap argocd-cm."""
    actions = {path.parent.name: path.read_text() for path in sorted(folder.glob("actions/*/action.lua"))}
    definitions = [{"name": name, "action.lua": script} for name, script in actions.items()]
    offered = {"discovery.lua": (folder / "actions" / "discovery.lua").read_text(), "definitions": definitions}
    # Progress and times change all the time and mean nothing to Argo CD: no refresh for them.
    ours = {"jsonPointers": ["/status/progress"], "jqPathExpressions": [".status.conditions[]?.lastTransitionTime"]}
    theirs = {"jsonPointers": ["/status"]}
    prefix = "resource.customizations"
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "argocd-cm",
            "namespace": "argocd",
            "labels": {"app.kubernetes.io/name": "argocd-cm", "app.kubernetes.io/part-of": "argocd"},
        },
        "data": {
            f"{prefix}.health.finetune.dev_FineTune": (folder / "health.lua").read_text(),
            f"{prefix}.actions.finetune.dev_FineTune": _yaml(offered),
            f"{prefix}.ignoreResourceUpdates.finetune.dev_FineTune": _yaml(ours),
            f"{prefix}.ignoreResourceUpdates.batch_Job": _yaml(theirs),
        },
    }
    return "# Generated by charts/generate.py from resource_customizations/; do not edit.\n" + _yaml(manifest)


class _Dumper(yaml.SafeDumper):
    """Text of several lines as it is."""


def _as_block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _as_block)


def _yaml(content: Any) -> str:
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=110)
    return text


# All of it


def chart_settings() -> dict[str, Definition]:
    """By the name of the chart's value; those that the chart has no value for are left out."""
    return {each.chart: each for each in definitions() if each.chart}


def generated() -> dict[Path, str]:
    """Every generated file with its content."""
    settings = chart_settings()
    root = read_values((CHART / "values.yaml").read_text(), settings)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return {
        CHART / "templates" / "crd.yaml": crd_template(CRD.read_text()),
        CHART / "templates" / "_settings.tpl": settings_template(settings),
        ARGO / "argocd-cm.yaml": argo_configuration(ARGO / "resource_customizations" / "finetune.dev" / "FineTune"),
        CHART / "values.schema.json": json.dumps(schema(root), indent=2, ensure_ascii=False) + "\n",
        CHART / "README.md": readme(root, chart),
    }


def main() -> None:
    """Writes, or with --check compares."""
    stale = {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"out of date: {', '.join(path.name for path in stale)}; run make chart")
        return
    for path, text in stale.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
