"""What an older operator has recorded means the same today: a run that is suspended over an upgrade resumes.

`recorded/configurations.json` was made at commit de42c09 from its examples, and from every member of `advanced`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.api.advanced import Advanced
from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.api.trainer_config import TrainerConfig, config_hash
from finetune_operator.backends.job.manifest import Identity, JobDefaults, build_config, build_job

RECORDED = json.loads((Path(__file__).parent / "recorded" / "configurations.json").read_text())["runs"]
SINCE = {"checkpointMinutes"}
"""Members of `advanced` that are newer than the record."""


def identity(spec: FineTuneSpec) -> Identity:
    uid = "11111111-2222-3333-4444-555555555555"
    return Identity(namespace="ml", name="recorded", uid=uid, run=spec.run, labels={}, owner={})


@pytest.mark.parametrize("run", RECORDED, ids=[run["name"] for run in RECORDED])
def test_a_recorded_run_has_the_same_configuration_to_the_byte(run: dict[str, Any]) -> None:
    spec = FineTuneSpec.model_validate(run["spec"])
    assert build_config(identity(spec), spec, resolve_parameters(spec)) == run["config"]
    assert config_hash(TrainerConfig.model_validate_json(run["config"])) == run["configHash"]
    Advanced.model_validate(json.loads(run["config"]).get("advanced", {}))


@pytest.mark.parametrize("run", RECORDED, ids=[run["name"] for run in RECORDED])
def test_a_recorded_affinity_reaches_the_pod_as_it_was_written(run: dict[str, Any]) -> None:
    spec = FineTuneSpec.model_validate(run["spec"])
    made = build_job(identity(spec), spec, resolve_parameters(spec), JobDefaults())
    written = run["spec"]["backend"]["job"].get("affinity")
    assert made["spec"]["template"]["spec"].get("affinity") == written


def test_the_record_has_every_member_of_advanced_that_there_was() -> None:
    used = {name for run in RECORDED for name in run["spec"]["backend"]["job"].get("advanced") or {}}
    assert used == {str(field.alias) for field in Advanced.model_fields.values()} - SINCE


def test_the_record_has_an_affinity() -> None:
    assert any("affinity" in run["spec"]["backend"]["job"] for run in RECORDED)
