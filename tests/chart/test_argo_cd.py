"""Argo CD's health and actions by its own test format, under Lua 5.1 with no more libraries than Argo CD gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lupa.lua51 as lua  # type: ignore[import-untyped]
import pytest
import yaml

from finetune_operator.api.reasons import Phase
from finetune_operator.api.spec import FineTuneSpec
from tests.cluster.paths import CHECKOUT

ARGO = CHECKOUT / "charts" / "argo-cd"
FOLDER = ARGO / "resource_customizations" / "finetune.dev" / "FineTune"
WITHHELD = ("string", "math", "io", "os", "debug", "package", "require", "load", "loadstring", "dofile", "loadfile")
"""Argo CD opens base, table and a part of os that reads the clock (util/lua/lua.go); scripts have no need of it."""

Object = dict[str, Any]


def run(script: Path, body: Object) -> Any:
    """What a script returns for an object, as plain Python."""
    runtime = lua.LuaRuntime(unpack_returned_tuples=True, register_eval=False)
    names = runtime.globals()
    names["obj"] = runtime.table_from(body, recursive=True)
    for name in WITHHELD:
        names[name] = None
    names["python"] = None
    return _plain(runtime.execute(script.read_text()))


def _plain(value: Any) -> Any:
    if lua.lua_type(value) != "table":
        return value
    items = {key: _plain(item) for key, item in value.items()}
    if items and all(isinstance(key, int) for key in items):
        return [items[key] for key in sorted(items)]
    return items


def cases(file: Path, list_name: str) -> list[Object]:
    found: list[Object] = yaml.safe_load(file.read_text())[list_name]
    return found


HEALTH = cases(FOLDER / "health_test.yaml", "tests")
DISCOVERY = cases(FOLDER / "actions" / "action_test.yaml", "discoveryTests")
ACTIONS = cases(FOLDER / "actions" / "action_test.yaml", "actionTests")


@pytest.mark.parametrize("case", HEALTH, ids=lambda case: Path(case["inputPath"]).stem)
def test_health(case: Object) -> None:
    body = yaml.safe_load((FOLDER / case["inputPath"]).read_text())
    assert run(FOLDER / "health.lua", body) == case["healthStatus"]


def test_every_phase_has_a_case() -> None:
    inputs = [yaml.safe_load((FOLDER / case["inputPath"]).read_text()) for case in HEALTH]
    assert {(each.get("status") or {}).get("phase") for each in inputs} >= {str(phase) for phase in Phase}


def test_only_a_finished_run_is_healthy() -> None:
    healthy = [case["inputPath"] for case in HEALTH if case["healthStatus"]["status"] == "Healthy"]
    phases = {yaml.safe_load((FOLDER / path).read_text())["status"]["phase"] for path in healthy}
    assert phases == {"Succeeded"}


@pytest.mark.parametrize("case", DISCOVERY, ids=lambda case: Path(case["inputPath"]).stem)
def test_which_actions_are_offered(case: Object) -> None:
    body = yaml.safe_load((FOLDER / "actions" / case["inputPath"]).read_text())
    offered = run(FOLDER / "actions" / "discovery.lua", body)
    assert {name: not state.get("disabled", False) for name, state in offered.items()} == {
        each["name"]: not each.get("disabled", False) for each in case["result"]
    }


@pytest.mark.parametrize("case", ACTIONS, ids=lambda case: case["action"])
def test_actions_change_what_they_say_and_stay_valid(case: Object) -> None:
    actions = FOLDER / "actions"
    body = yaml.safe_load((actions / case["inputPath"]).read_text())
    expected = yaml.safe_load((actions / case["expectedOutputPath"]).read_text())
    changed = run(actions / case["action"] / "action.lua", body)
    assert changed["spec"] == expected["spec"]
    assert changed["metadata"] == expected["metadata"]
    FineTuneSpec.model_validate(changed["spec"])


def test_the_configuration_to_copy_holds_these_very_scripts() -> None:
    data = yaml.safe_load((ARGO / "argocd-cm.yaml").read_text())["data"]
    health = (FOLDER / "health.lua").read_text()
    assert data["resource.customizations.health.finetune.dev_FineTune"] == health
    actions = yaml.safe_load(data["resource.customizations.actions.finetune.dev_FineTune"])
    assert actions["discovery.lua"] == (FOLDER / "actions" / "discovery.lua").read_text()
    for each in actions["definitions"]:
        assert each["action.lua"] == (FOLDER / "actions" / each["name"] / "action.lua").read_text()


def normalized(body: Object, rules: Object) -> Object:
    """As Argo CD compares: without status and what ignoreResourceUpdates names."""
    ignored = yaml.safe_load(rules["data"]["resource.customizations.ignoreResourceUpdates.finetune.dev_FineTune"])
    copy: Object = json.loads(json.dumps(body))
    for pointer in ignored["jsonPointers"]:
        *parents, last = pointer.strip("/").split("/")
        node = copy
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return copy
