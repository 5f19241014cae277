"""The twenty kinds of fault of operator-chaos, in the order of its documentation."""

from __future__ import annotations

from tests.chaos.experiment import Kind
from tests.chaos.kinds.api_server import NETWORK_PARTITION, RBAC_REVOKE
from tests.chaos.kinds.objects import LABEL_STOMPING

KINDS: tuple[Kind, ...] = (
    LABEL_STOMPING,
    NETWORK_PARTITION,
    RBAC_REVOKE,
)
