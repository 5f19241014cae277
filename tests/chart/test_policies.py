"""checkov's Kubernetes policies on the rendered chart: no finding but those that are listed here with a reason."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.charts import VALUE_SETS, render
from tests.chart.tools import python_tool
from tests.cluster.errors import ClusterError

pytestmark = pytest.mark.xdist_group("chart-rendered")  # rendered once

Finding = tuple[str, str]
"""Check, kind of the object."""

SUPPRESSED: dict[Finding, str] = {
    ("CKV_K8S_38", "Deployment"): "An operator is a client of the API server: it needs its ServiceAccount's token.",
    ("CKV2_K8S_5", "ClusterRoleBinding"): "FineTunes name Secrets; rbac.readSecrets=false leaves them to the "
    "administrator. They can be got by name, neither listed nor watched.",
    ("CKV2_K8S_5", "RoleBinding"): "The same in the namespaces that are served.",
    ("CKV_K8S_8", "Pod"): "The pod of `helm test` ends by itself.",
    ("CKV_K8S_9", "Pod"): "The same: nobody waits for it to be ready.",
    ("CKV2_K8S_6", "Pod"): "The same; it only asks the Service, and a policy for it would have to outlive it.",
}
WITHOUT_DIGEST: dict[Finding, str] = {
    (check, kind): "A chart cannot know the digest of an image that is built after it: image.digest is for releases."
    for check in ("CKV_K8S_43", "CKV_K8S_15")
    for kind in ("Deployment", "Pod")
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Finding]]:
    """By set of values. CRDs are schemas: no policy is about them."""
    folder = tmp_path_factory.mktemp("rendered")
    for name, values in VALUE_SETS.items():
        objects = [each for each in render(values) if each["kind"] != "CustomResourceDefinition"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(objects))
    try:
        checkov = python_tool("checkov")
    except ClusterError as error:
        pytest.skip(str(error))
    command = ["nice", *checkov, "--directory", str(folder), "--framework", "kubernetes"]
    command += ["--output", "json", "--skip-download"]
    env = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500)
    assert done.stdout.strip(), done.stderr[-1000:]
    report = json.loads(done.stdout)
    found: dict[str, set[Finding]] = {name: set() for name in VALUE_SETS}
    for each in report["results"]["failed_checks"]:
        found[Path(each["file_path"]).stem].add((each["check_id"], each["resource"].partition(".")[0]))
    assert report["summary"]["passed"] > 500
    return found


@pytest.mark.parametrize("name", VALUE_SETS)
def test_no_finding_without_a_reason(findings: dict[str, set[Finding]], name: str) -> None:
    excused = set(SUPPRESSED) | (set(WITHOUT_DIGEST) if name != "everything" else set())
    assert findings[name] - excused == set()


def test_no_reason_without_a_finding(findings: dict[str, set[Finding]]) -> None:
    assert set(SUPPRESSED) | set(WITHOUT_DIGEST) == set().union(*findings.values())
