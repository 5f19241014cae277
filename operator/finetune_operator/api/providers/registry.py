"""The providers that the resource has: one line each. Their members of `spec.backend` are fields of `BackendSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from finetune_operator.api.providers.bfl import BFL
from finetune_operator.api.providers.octoai import OCTOAI
from finetune_operator.api.providers.oxen import OXEN
from finetune_operator.api.providers.provider import Provider
from finetune_operator.api.providers.scenario import SCENARIO

PROVIDERS: Final[Mapping[str, Provider]] = {provider.name: provider for provider in (OXEN, SCENARIO, BFL, OCTOAI)}
"""By their names on the wire."""
