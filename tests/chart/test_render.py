"""What the chart renders, without a cluster: generated parts, the operator's settings, hardening, what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.settings import Settings, parse
from tests.chart.charts import CHART, EVERYTHING, NAMESPACE, RELEASE, VALUE_SETS, HelmError, helm, kinds, only, render
from tests.cluster.crd import CRD
from tests.cluster.paths import CHECKOUT

pytestmark = pytest.mark.xdist_group("chart-rendered")  # rendered once


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", CHECKOUT / "charts" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=VALUE_SETS)
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return render(VALUE_SETS[request.param])


def test_generated_files_are_up_to_date(generate: ModuleType) -> None:
    stale = [path.name for path, text in generate.generated().items() if path.read_text() != text]
    assert stale == [], "run make chart"


def test_helm_finds_nothing_to_complain_about() -> None:
    for name, values in VALUE_SETS.items():
        said = helm("lint", "--strict", CHART, values=values)
        assert "[WARNING]" not in said, name
        assert "[ERROR]" not in said, name


def test_the_crd_is_that_of_the_project() -> None:
    ours = yaml.safe_load(CRD.read_text())
    crd = only(render({}), "CustomResourceDefinition")
    assert crd["spec"] == ours["spec"]
    assert crd["metadata"]["name"] == ours["metadata"]["name"]
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    fleeting = only(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert "helm.sh/resource-policy" not in fleeting["metadata"]["annotations"]
    assert kinds(render({"crds": {"enabled": False}}), "CustomResourceDefinition") == []


def settings_of(objects: list[dict[str, Any]]) -> Settings:
    """As the operator reads them from its environment."""
    return parse([], only(objects, "ConfigMap", RELEASE + "-finetune-operator")["data"])


def test_the_defaults_are_the_operators_own() -> None:
    """Those that the chart works out by itself apart."""
    environ = {"FINETUNE_OPERATOR_NAMESPACE": NAMESPACE}
    own, ours = parse([], environ), settings_of(render({}))
    derived = {"trainer_image", "lease_name", "progress_url"}
    for name in Settings.__dataclass_fields__:
        if name not in derived:
            assert getattr(ours, name) == getattr(own, name), name
    assert ours.trainer_image == own.trainer_image
    assert ours.lease_name == f"{RELEASE}-finetune-operator"
    assert ours.progress_url == f"https://{RELEASE}-finetune-operator.{NAMESPACE}.svc:8443"


def test_every_setting_can_be_set(generate: ModuleType) -> None:
    """Each value of the chart, one by one, reaches the operator under its own name."""
    examples = {
        "namespaces": (["a", "b"], ("a", "b")),
        "upstream.allowBaseUrls": (
            ["https://a.example", "https://b.example"],
            ("https://a.example", "https://b.example"),
        ),
        "upstream.allowDatasetHosts": (["a.example", "b.example:8443"], ("a.example", "b.example:8443")),
        "trainer.image": ({"repository": "r/t", "tag": "2"}, "r/t:2"),
        "trainer.imagePullPolicy": ("Never", "Never"),
        "trainer.shmSize": ("3Gi", "3Gi"),
        "trainer.user": ("none", None),
        "trainer.trustBundle": ("authorities", "authorities"),
        "upstream.caFile": (__file__, __file__),
        "leaderElection.leaseName": ("mine", "mine"),
        "progress.url": ("https://x.example:1", "https://x.example:1"),
        "upstream.spool.dir": ("/spool", "/spool"),
        "upstream.spool.limit": ("3Gi", 3 * 2**30),
        "log.format": ("text", "text"),
        "log.level": ("debug", "debug"),
        "progress.host": ("::1", "::1"),
        "metrics.host": ("127.0.0.1", "127.0.0.1"),
    }
    files = ("progress.certFile", "progress.keyFile", "progress.caFile")
    values: dict[str, Any] = {}
    wanted: dict[str, Any] = {}
    for chart_value, setting in generate.chart_settings().items():
        given, read = examples.get(chart_value) or _another(setting, files)
        *parents, last = chart_value.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = given
        wanted[setting.name] = read
    settings = settings_of(render(values))
    assert {name: getattr(settings, name) for name in wanted} == wanted


def _another(setting: Any, files: tuple[str, ...]) -> tuple[Any, Any]:
    """A value that is not the default: as the chart takes it, and as the operator reads it."""
    if setting.chart in files:
        return __file__, __file__
    if setting.is_switch:
        return not setting.default, not setting.default
    value = setting.default + 1
    return (value, value) if isinstance(setting.default, int) else (f"{value}s", value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"replica": 2}, "replica"),
        ({"workers": "many"}, "workers"),
        ({"leaderElection": {"leaseDuration": "soon"}}, "leaseDuration"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"namespaces": ["Not_a_name"]}, "namespaces"),
        ({"log": {"level": "verbose"}}, "level"),
        ({"replicas": 2, "leaderElection": {"enabled": False}}, "leaderElection"),
        ({"progress": {"certificate": {"certManager": {"enabled": True}}}}, "issuerRef"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: dict[str, Any], says: str) -> None:
    with pytest.raises(HelmError, match=says):
        render(values)


def test_images() -> None:
    digest = "sha256:" + "1" * 64

    def image(**given: str) -> str:
        deployment = only(render({"image": given}), "Deployment")
        return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])

    assert image() == "finetune-operator:0.1.0"
    assert image(registry="r.example:5000", repository="ml/op", tag="2") == "r.example:5000/ml/op:2"
    assert image(registry="r.example", tag="2", digest=digest) == f"r.example/finetune-operator@{digest}"


def test_names_hold_for_any_release_name() -> None:
    text = helm("template", "r" * 53, CHART, "--namespace", "n" * 63)
    names = [each["metadata"]["name"] for each in yaml.safe_load_all(text) if each]
    assert len(names) > 10
    services = [each["metadata"]["name"] for each in yaml.safe_load_all(text) if each and each["kind"] == "Service"]
    assert all(len(name) <= 63 for name in services)
    assert all(len(name) <= 253 for name in names)


def test_namespaced_mode_has_no_permission_elsewhere() -> None:
    objects = render({**VALUE_SETS["namespaced"], "rbac": {"tokenReviews": False, "aggregate": False}})
    assert kinds(objects, "ClusterRole") == kinds(objects, "ClusterRoleBinding") == []
    assert {each["metadata"]["namespace"] for each in kinds(objects, "Role")} == {NAMESPACE, "team-a", "team-b"}
    bound = [subject for each in kinds(objects, "RoleBinding") for subject in each["subjects"]]
    assert {(each["name"], each["namespace"]) for each in bound} == {(f"{RELEASE}-finetune-operator", NAMESPACE)}


def test_secrets_are_read_only_where_that_is_wanted() -> None:
    def bound(values: dict[str, Any]) -> list[str]:
        objects = render(values)
        bindings = kinds(objects, "ClusterRoleBinding") + kinds(objects, "RoleBinding")
        return [each["roleRef"]["name"] for each in bindings if each["roleRef"]["name"].endswith("-secrets")]

    assert len(bound({})) == 1
    assert len(bound({"namespaces": ["a", "b"]})) == 2
    assert bound({"rbac": {"readSecrets": False}}) == []


def test_kueue_is_asked_only_where_that_is_allowed() -> None:
    assert "kueue.x-k8s.io" in json.dumps(kinds(render({}), "ClusterRole"))
    assert "kueue.x-k8s.io" not in json.dumps(kinds(render({"rbac": {"kueue": False}}), "ClusterRole"))


def test_nobody_gets_more_than_secrets_by_name(rendered: list[dict[str, Any]]) -> None:
    """No wildcard, and Secrets can nowhere be listed or watched."""
    for role in kinds(rendered, "ClusterRole") + kinds(rendered, "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"], role
            if "secrets" in rule["resources"]:
                assert not {"list", "watch", "delete", "patch"} & set(rule["verbs"]), role


def test_every_object_says_whose_it_is(rendered: list[dict[str, Any]]) -> None:
    for each in rendered:
        if each["metadata"]["name"] in (f"{RELEASE}-extra", "finetune-operator-text"):
            continue
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE, each["metadata"]["name"]
        assert labels["app.kubernetes.io/managed-by"] == "Helm", each["metadata"]["name"]


def test_a_certificate_of_ones_own() -> None:
    objects = render({"progress": {"certificate": {"secretName": "mine", "keys": {"authority": ""}}}})
    data = only(objects, "ConfigMap")["data"]
    assert data["FINETUNE_PROGRESS_CERT_FILE"] == "/etc/finetune-operator/progress/tls.crt"
    assert "FINETUNE_PROGRESS_CA_FILE" not in data
    assert "secrets" not in json.dumps(only(objects, "Role", "finetune-operator")["rules"])
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    assert {"name": "progress-certificate", "secret": {"secretName": "mine", "defaultMode": 0o440}} in pod["volumes"]


def test_extra_objects_are_templates() -> None:
    names = [each["metadata"]["name"] for each in kinds(render(EVERYTHING), "ConfigMap")]
    assert {f"{RELEASE}-extra", "finetune-operator-text"} <= set(names)


def test_what_is_switched_on_arrives() -> None:
    objects = render(EVERYTHING)
    deployment = only(objects, "Deployment")
    pod, test_pod = deployment["spec"]["template"]["spec"], only(objects, "Pod")["spec"]
    assert deployment["spec"]["replicas"] == 2
    for name in ("priorityClassName", "nodeSelector", "tolerations", "affinity", "imagePullSecrets"):
        assert pod[name] == EVERYTHING[name], name
    assert test_pod["imagePullSecrets"] == EVERYTHING["imagePullSecrets"]
    selector = deployment["spec"]["selector"]
    (spread,) = pod["topologySpreadConstraints"]
    assert spread == {**EVERYTHING["topologySpreadConstraints"][0], "labelSelector": selector}
    assert only(objects, "ServiceAccount")["metadata"]["annotations"] == EVERYTHING["serviceAccount"]["annotations"]
    budget = only(objects, "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]) == (1, selector)
    service = only(objects, "Service")
    labels = service["metadata"]["labels"]
    monitored = only(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= labels.items()
    assert only(objects, "PodMonitor")["spec"]["selector"] == selector
    assert only(objects, "ServiceMonitor")["metadata"]["labels"]["release"] == "prometheus"
    (container,) = pod["containers"]
    assert EVERYTHING["extraArgs"][0] in container["args"]
    assert EVERYTHING["extraEnv"][0] in container["env"]
    assert EVERYTHING["extraEnvFrom"][0] in container["envFrom"]
    assert EVERYTHING["extraVolumes"][0] in pod["volumes"]
    assert EVERYTHING["extraVolumeMounts"][0] in container["volumeMounts"]


def test_the_network_policy_leaves_nothing_open_that_is_not_listed() -> None:
    peers: list[dict[str, Any]] = [{"namespaceSelector": {}}]
    policy = only(render(EVERYTHING), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    metrics, progress = policy["ingress"]
    assert metrics == {"ports": [{"port": 8080, "protocol": "TCP"}], "from": peers}
    assert progress == {"ports": [{"port": 8443, "protocol": "TCP"}]}, "tokens decide there"
    ports = [sorted((each["port"], each["protocol"]) for each in rule["ports"]) for rule in policy["egress"]]
    assert ports == [[(53, "TCP"), (53, "UDP")], [(443, "TCP"), (6443, "TCP")], [(443, "TCP")]]
    assert "169.254.0.0/16" in json.dumps(policy["egress"][2]["to"]), "no metadata service"


def test_artifact_hub_is_told_the_truth() -> None:
    """Its annotations are text with YAML in it, which nobody else reads."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    told = {name.partition("/")[2]: text for name, text in chart["annotations"].items()}
    crd = yaml.safe_load(CRD.read_text())
    (listed,) = yaml.safe_load(told["crds"])
    assert (listed["name"], listed["kind"]) == (crd["metadata"]["name"], crd["spec"]["names"]["kind"])
    assert listed["version"] == crd["spec"]["versions"][0]["name"]
    (example,) = yaml.safe_load(told["crdsExamples"])
    FineTuneSpec.model_validate(example["spec"])
    assert {each["image"] for each in yaml.safe_load(told["images"])} == {
        f"finetune-{part}:{chart['appVersion']}" for part in ("operator", "trainer")
    }
    kinds_of_change = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert {each["kind"] for each in yaml.safe_load(told["changes"])} <= kinds_of_change


def test_the_comparison_with_other_charts_names_tests_that_exist() -> None:
    text = (CHECKOUT / "docs" / "design" / "chart.md").read_text()
    named = re.findall(r"`(test_\w+)::(test_\w+)`", text)
    assert len(named) > 25
    for file, test in named:
        assert f"def {test}(" in (CHECKOUT / "tests" / "chart" / f"{file}.py").read_text(), f"{file}::{test}"
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows if "::" not in row] == ["HPA"]


def test_a_changed_setting_starts_new_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = only(render(values), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/settings"])

    assert checksum({}) == checksum({"replicas": 2}) != checksum({"workers": 17})


def test_the_grace_period_covers_the_drain() -> None:
    values = yaml.safe_load(Path(CHART, "values.yaml").read_text())
    assert values["terminationGracePeriodSeconds"] > values["drainTimeout"]


def test_the_notes_say_what_to_do_next() -> None:
    said = helm("install", RELEASE, CHART, "--namespace", NAMESPACE, "--dry-run=client", "--hide-secret")
    notes = said.partition("NOTES:")[2]
    assert "kubectl apply" in notes
    assert "kubectl get finetunes" in notes
    manifest = yaml.safe_load(notes.partition("<<'YAML'")[2].partition("YAML")[0])
    assert manifest["kind"] == "FineTune"
