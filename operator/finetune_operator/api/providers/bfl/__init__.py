"""Black Forest Labs: fine-tunes of FLUX."""

from typing import Final

from finetune_operator.api.providers.bfl.capabilities import CAPABILITIES
from finetune_operator.api.providers.bfl.wire import WIRE
from finetune_operator.api.providers.provider import Provider

BFL: Final = Provider(name="bfl", capabilities=CAPABILITIES, wire=WIRE)
