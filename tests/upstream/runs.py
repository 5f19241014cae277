"""Specs of runs at the three providers, and the credentials that their fakes take."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

BFL_SECRET = {"api-key": "bfl-test-key"}
OCTOAI_SECRET = {"api-key": "octoai-test-key"}
SCENARIO_SECRET = {"api-key": "scenario-test-key", "api-secret": "scenario-test-secret"}
SCENARIO_TOKEN = {"token": "scenario.test.token"}

_PICTURES: Object = {"imageColumn": "image", "captionColumn": "caption"}
_DATASET: Object = {"uri": "s3://data/pictures", "secretRef": {"name": "s3"}}


def bfl(base_url: str | None = None, **recipe: Any) -> Object:
    """A run at BFL."""
    backend = {"secretRef": {"name": "bfl"}, "mode": "character", "comment": "The mascot"}
    return {
        "baseModel": "flux-pro",
        "recipe": {"imageGeneration": {**_PICTURES, "triggerWord": "TOK", "steps": 150, **recipe}},
        "dataset": _DATASET,
        "backend": {"bfl": {**backend, **_at(base_url)}},
    }


def octoai(base_url: str, output: str | None = None, **backend: Any) -> Object:
    """A run at a service with OctoAI's API."""
    made: Object = {
        "baseModel": "image/stable-diffusion-xl-v1-0",
        "recipe": {"imageGeneration": {**_PICTURES, "triggerWord": "sks", "steps": 500, "seed": 42}},
        "dataset": _DATASET,
        "backend": {
            "octoai": {
                "baseURL": base_url,
                "secretRef": {"name": "octoai"},
                "baseCheckpoint": {"checkpointId": "asset_sdxl", "engine": "image/stable-diffusion-xl-v1-0"},
                **backend,
            }
        },
    }
    return {**made, **_output(output)}


def scenario(base_url: str | None = None, output: str | None = None, **backend: Any) -> Object:
    """A run at Scenario: pictures."""
    made: Object = {
        "baseModel": "flux.1-dev",
        "recipe": {"imageGeneration": {**_PICTURES, "triggerWord": "daiton", "steps": 300}},
        "dataset": _DATASET,
        "backend": {
            "scenario": {"secretRef": {"name": "scenario"}, "modelType": "flux.1-lora", **_at(base_url), **backend}
        },
    }
    return {**made, **_output(output)}


def scenario_pairs(base_url: str | None = None) -> Object:
    """A run at Scenario: pairs of pictures."""
    made = scenario(base_url, modelType="qwen-image-edit-2511-lora")
    made["baseModel"] = "qwen-image-edit-2511-lora"
    made["recipe"] = {"imageEditing": {**_PICTURES, "captionColumn": "instruction", "controlImageColumn": "before"}}
    made["dataset"] = {"uri": "s3://data/pairs/train.jsonl", "secretRef": {"name": "s3"}}
    return made


def scenario_voice(base_url: str | None = None, **recipe: Any) -> Object:
    """A run at Scenario: a voice."""
    made = scenario(base_url, modelType="elevenlabs-voice")
    made["baseModel"] = "elevenlabs-voice"
    made["recipe"] = {"voice": {"cloneType": "instant", "language": "en", **recipe}}
    made["dataset"] = {"uri": "s3://data/voice", "secretRef": {"name": "s3"}}
    return made


def _at(base_url: str | None) -> Object:
    return {"baseURL": base_url} if base_url else {}


def _output(uri: str | None) -> Object:
    return {"output": {"uri": uri, "secretRef": {"name": "s3"}}} if uri else {}
