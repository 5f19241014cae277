"""What the chart renders and the operator creates, strictly against the schemas of every Kubernetes that is claimed.

The tests with a real API server know one version; here every field has to exist in the oldest and in the newest.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.backends.job.manifest import JobDefaults, build_claim, build_job
from finetune_operator.controller.model import read_finetune
from tests.chart.charts import CHART, EVERYTHING, NAMESPACED, render
from tests.chart.tools import python_tool
from tests.cluster.errors import ClusterError
from tests.cluster.paths import CHECKOUT
from tests.unit.observations import UID, identity

pytestmark = pytest.mark.xdist_group("chart-rendered")  # rendered once

Object = dict[str, Any]
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
FOREIGN = ("monitoring.coreos.com", "cert-manager.io")
VALIDATE = """
import functools, json, sys
from kubernetes_validate import utils
utils.schema_contents = functools.cache(utils.schema_contents)
versions, objects = json.load(sys.stdin)
found = []
for version in versions:
    for each in objects:
        try:
            utils.validate(each, version, strict=True)
        except (utils.ValidationError, utils.SchemaNotFoundError) as error:
            found.append(f"{version}: {each['kind']} {each['metadata']['name']}: {error.message}")
json.dump(found, sys.stdout)
"""


def findings(versions: list[str], objects: list[Object]) -> list[str]:
    """What kubernetes-validate finds; skips where it cannot be had."""
    try:
        (program,) = python_tool("kubernetes-validate")
    except ClusterError as error:
        pytest.skip(str(error))
    command = ["nice", str(Path(program).with_name("python")), "-c", VALIDATE]
    given = json.dumps([versions, objects])
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=600)
    found: list[str] = json.loads(done.stdout)
    return found


def children() -> list[Object]:
    """The Job and the claim of every example that runs in the cluster."""
    made: list[Object] = []
    for path in sorted((CHECKOUT / "examples").rglob("*.yaml")):
        for body in yaml.safe_load_all(path.read_text()):
            if not body or body.get("kind") != "FineTune" or "job" not in body["spec"].get("backend", {}):
                continue
            metadata = {"namespace": "default", **body["metadata"], "uid": UID, "generation": 1, "resourceVersion": "1"}
            owner = read_finetune({**body, "metadata": metadata})
            if owner.spec is None:
                continue  # a patch of kustomize
            who, backend = identity(owner), owner.spec.backend.job
            assert backend is not None
            made.append(build_job(who, owner.spec, resolve_parameters(owner.spec), JobDefaults()))
            made += [claim] if (claim := build_claim(who, backend)) else []
    return made


def test_every_field_exists_in_every_version() -> None:
    rendered = [*render(EVERYTHING), *render(NAMESPACED)]
    ours = [each for each in rendered if each["apiVersion"].partition("/")[0] not in FOREIGN]
    made = children()
    assert {each["kind"] for each in made} == {"Job", "PersistentVolumeClaim"}
    assert len(made) > 10
    assert findings(VERSIONS, [*ours, *made]) == []


def test_it_would_find_a_field_that_is_too_new() -> None:
    (deployment,) = [each for each in render({}) if each["kind"] == "Deployment"]
    wrong = copy.deepcopy(deployment)
    wrong["spec"]["template"]["spec"]["fieldOfTheFuture"] = 1
    assert len(findings(VERSIONS[:1], [deployment])) == 0
    (said,) = findings(VERSIONS[:1], [wrong])
    assert "fieldOfTheFuture" in said


def test_the_oldest_is_the_one_that_the_chart_asks_for() -> None:
    asked = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert re.fullmatch(r">=(1\.\d+)\.0-0", asked)[1] == VERSIONS[0]  # type: ignore[index]
