"""Oxen: fine-tunes of a repository's data."""

from typing import Final

from finetune_operator.api.providers.oxen.capabilities import CAPABILITIES
from finetune_operator.api.providers.oxen.wire import WIRE
from finetune_operator.api.providers.provider import Provider

OXEN: Final = Provider(name="oxen", capabilities=CAPABILITIES, wire=WIRE)
