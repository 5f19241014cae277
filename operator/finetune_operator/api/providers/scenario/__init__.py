"""Scenario: custom models of pictures and recordings."""

from typing import Final

from finetune_operator.api.providers.provider import Provider
from finetune_operator.api.providers.scenario.capabilities import CAPABILITIES
from finetune_operator.api.providers.scenario.wire import WIRE

SCENARIO: Final = Provider(name="scenario", capabilities=CAPABILITIES, wire=WIRE)
