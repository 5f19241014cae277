"""The providers' documented request bodies become FineTunes, and a FineTune shows the requests that it would send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.providers.dry_run import MARKER, MASK, describe_requests
from finetune_operator.backends.providers.request import Request
from tests.unit.conversions import from_bfl, from_octoai, from_oxen, from_scenario

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONVERSIONS = sorted(path.stem for path in (EXAMPLES / "conversion").glob("*.json"))


def _request(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((EXAMPLES / "conversion" / f"{name}.json").read_text())
    return loaded


def _fine_tune(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((EXAMPLES / "conversion" / f"{name}.yaml").read_text())
    return loaded


def _described(fine_tune: dict[str, Any]) -> tuple[Request, ...]:
    metadata = fine_tune["metadata"]
    display_name = next(iter(metadata.get("annotations", {}).values()), None)
    return describe_requests(
        FineTuneSpec.model_validate(fine_tune["spec"]), name=metadata["name"], display_name=display_name
    )


def test_there_is_an_example_of_every_provider_document() -> None:
    assert CONVERSIONS == [
        "bfl-finetune",
        "octoai-tune",
        "oxen-image-to-text",
        "oxen-multi-image-editing",
        "scenario-train",
    ]


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_documented_body_converts_into_its_example(name: str) -> None:
    request, there = _request(name), _fine_tune(name)
    body, made = request["body"], f"{name}-converted"
    dataset = there["spec"]["dataset"]["uri"]
    if name.startswith("oxen"):
        repository = request["request"].split("/")[-2]
        converted = from_oxen(body, name=made, namespace="ox", repository=repository, secret="oxen")
    elif name.startswith("scenario"):
        converted = from_scenario(request["create"], body, name=made, secret="scenario", dataset=dataset)
    elif name.startswith("bfl"):
        converted = from_bfl(body, name=made, secret="bfl", dataset=dataset)
    else:
        base_url = there["spec"]["backend"]["octoai"]["baseURL"]
        converted = from_octoai(body, name=made, secret="octoai", base_url=base_url, dataset=dataset)
    assert converted == there


@pytest.mark.parametrize("name", CONVERSIONS)
def test_the_example_sends_the_documented_body(name: str) -> None:
    request = _request(name)
    billed = _described(_fine_tune(name))
    bodies = [sent.body for sent in billed]
    if name.startswith("oxen"):
        assert request["body"] in bodies
    elif name.startswith("scenario"):
        assert bodies[0] == {**request["create"], "shortDescription": bodies[0]["shortDescription"]}
        assert bodies[0]["shortDescription"].startswith(request["create"]["shortDescription"])
        assert bodies[-1] == request["body"]
    elif name.startswith("bfl"):
        marked = f"{request['body']['finetune_comment']} finetune-operator {MARKER}"
        assert bodies == [{**request["body"], "finetune_comment": marked, "file_data": bodies[0]["file_data"]}]
    else:
        details = {**request["body"]["details"], "files": bodies[-1]["details"]["files"]}
        assert bodies[-1] == {**request["body"], "name": f"{request['body']['name']}-{MARKER}", "details": details}


FINETUNES = [
    path
    for path in sorted(EXAMPLES.rglob("*.yaml"))
    if [each.get("kind") for each in yaml.safe_load_all(path.read_text())] == ["FineTune"]
]


@pytest.mark.parametrize("path", FINETUNES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_example_shows_its_requests_and_no_secret(path: Path) -> None:
    fine_tune = yaml.safe_load(path.read_text())
    requests = _described(fine_tune)
    provider = next(iter(fine_tune["spec"]["backend"]))
    assert bool(requests) == (provider != "job")
    for request in requests:
        credentials = [value for name, value in request.headers.items() if name != "Content-Type"]
        assert len(credentials) == 1
        assert credentials[0].endswith(MASK)
        assert request.text().splitlines()[1] == f"{request.method} {request.url}"
    assert [request.note.count("billed") for request in requests] == [0] * (len(requests) - 1) + [1] * bool(requests)


def test_a_request_reads_like_one() -> None:
    text = _described(_fine_tune("bfl-finetune"))[0].text()
    assert text.splitlines()[:6] == [
        "# creates and starts the run; billed",
        "POST https://api.us1.bfl.ai/v1/finetune",
        f"x-key: {MASK}",
        "Content-Type: application/json",
        "",
        "{",
    ]
