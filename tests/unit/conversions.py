"""Request bodies as FineTunes and back, as the tests write it: a function for each provider and direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.api.convert import checked_spec, display_name_of, from_request
from finetune_operator.api.providers.bfl import wire as bfl
from finetune_operator.api.providers.octoai import wire as octoai
from finetune_operator.api.providers.oxen import wire as oxen
from finetune_operator.api.providers.scenario import wire as scenario
from finetune_operator.api.providers.wire import Answers

Body = dict[str, Any]


def from_oxen(body: Mapping[str, Any], *, name: str, namespace: str, repository: str, secret: str) -> Body:
    return from_request("oxen", body, Answers(secret=secret, repository=f"{namespace}/{repository}"), name=name)


def from_scenario(create: Mapping[str, Any], train: Mapping[str, Any], *, name: str, **answers: Any) -> Body:
    return from_request("scenario", train, Answers(create=create, **answers), name=name)


def from_bfl(body: Mapping[str, Any], *, name: str, **answers: Any) -> Body:
    return from_request("bfl", body, Answers(**answers), name=name)


def from_octoai(body: Mapping[str, Any], *, name: str, **answers: Any) -> Body:
    return from_request("octoai", body, Answers(**answers), name=name)


def to_oxen(fine_tune: Mapping[str, Any], *, resource: str | None = None) -> Body:
    return oxen.to_oxen(checked_spec(fine_tune, "oxen"), resource=resource)


def to_scenario(fine_tune: Mapping[str, Any]) -> tuple[Body, Body]:
    return scenario.to_scenario(checked_spec(fine_tune, "scenario"), display_name_of(fine_tune))


def to_bfl(fine_tune: Mapping[str, Any]) -> Body:
    return bfl.to_bfl(checked_spec(fine_tune, "bfl"))


def to_octoai(fine_tune: Mapping[str, Any]) -> Body:
    return octoai.to_octoai(checked_spec(fine_tune, "octoai"), display_name_of(fine_tune))
