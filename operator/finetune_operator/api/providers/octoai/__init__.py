"""Services with OctoAI's API: LoRAs of Stable Diffusion."""

from typing import Final

from finetune_operator.api.providers.octoai.capabilities import CAPABILITIES
from finetune_operator.api.providers.octoai.wire import WIRE
from finetune_operator.api.providers.provider import Provider

OCTOAI: Final = Provider(name="octoai", capabilities=CAPABILITIES, wire=WIRE)
