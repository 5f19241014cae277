"""The providers' calls: one line each. What the resource knows of them is in `api/providers`."""

from __future__ import annotations

from finetune_operator.backends.providers.bfl.provider import BflUpstream
from finetune_operator.backends.providers.octoai.provider import OctoAiUpstream
from finetune_operator.backends.providers.oxen.provider import OxenUpstream
from finetune_operator.backends.providers.protocol import Upstream
from finetune_operator.backends.providers.scenario.provider import ScenarioUpstream


def members() -> dict[str, Upstream]:
    """By their names on the wire."""
    all_of_them: tuple[Upstream, ...] = (OxenUpstream(), ScenarioUpstream(), BflUpstream(), OctoAiUpstream())
    return {member.service.name: member for member in all_of_them}
