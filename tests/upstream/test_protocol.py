"""What a provider is to the operator follows from what its class has; it keeps nothing between calls."""

from __future__ import annotations

import inspect
import tomllib
from typing import Any, cast

import pytest

from finetune_operator.api.providers import NAMES
from finetune_operator.backends.errors import Permanent
from finetune_operator.backends.provider_run import Outcome, Step
from finetune_operator.backends.providers.calls import make_call
from finetune_operator.backends.providers.protocol import Logged, capabilities_of
from finetune_operator.backends.providers.registry import members
from finetune_operator.backends.transfer.call_context import CallContext
from tests.cluster.paths import CHECKOUT
from tests.upstream.contexts import run_of

RUN = run_of("https://data.example.com/dogs.zip")
NOWHERE = cast(CallContext, None)
"""What is not there makes no call, and needs nothing for one."""

STARTED = {"starts", "can_cancel", "gives_weights"}
OFFERS = {
    "oxen": STARTED,
    "scenario": STARTED | {"equips"},
    "bfl": set(),
    "octoai": {"can_cancel", "gives_weights"},
}
LACKS = {
    "oxen": [Step.EQUIP],
    "scenario": [],
    "bfl": [Step.EQUIP, Step.START, Step.CANCEL, Step.FETCH],
    "octoai": [Step.EQUIP, Step.START],
}


def test_every_provider_of_the_resource_can_be_called() -> None:
    assert list(members()) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_is_set_where_the_provider_has_the_call(name: str) -> None:
    capabilities = capabilities_of(members()[name])
    assert {flag for flag in ("starts", "equips", "can_cancel", "gives_weights") if getattr(capabilities, flag)} == (
        OFFERS[name]
    )


@pytest.mark.parametrize(("name", "step"), [(name, step) for name, steps in LACKS.items() for step in steps])
async def test_a_call_that_the_provider_does_not_have_is_an_error_that_says_so(name: str, step: Step) -> None:
    provider = members()[name]
    with pytest.raises(Permanent, match=f"{provider.service.title} has no call to {step} a run"):
        await make_call(provider, step, RUN, NOWHERE)


async def test_where_nothing_is_prepared_nothing_is_called() -> None:
    assert await make_call(members()["scenario"], Step.PREPARE, RUN, NOWHERE) == Outcome()


@pytest.mark.parametrize("name", NAMES)
def test_a_provider_has_a_log_or_says_that_there_is_none(name: str) -> None:
    provider = members()[name]
    assert isinstance(provider, Logged) != bool(provider.service.no_log)


@pytest.mark.parametrize("name", NAMES)
def test_a_provider_keeps_nothing_between_calls(name: str) -> None:
    provider: Any = members()[name]
    assert vars(provider) == {}
    assert not inspect.signature(type(provider)).parameters


@pytest.mark.parametrize("folder", ["api", "backends"])
def test_the_layers_of_the_imports_name_every_provider(folder: str) -> None:
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    modules = [f"finetune_operator.{folder}.providers.{name}" for name in NAMES]
    assert modules in [contract["modules"] for contract in contracts if contract["type"] == "independence"]
