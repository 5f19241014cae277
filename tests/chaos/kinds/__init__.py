"""The twenty kinds of fault of operator-chaos, in the order of its documentation."""

from __future__ import annotations

from tests.chaos.experiment import Kind
from tests.chaos.kinds.api_server import CLIENT_FAULT, NETWORK_PARTITION, QUOTA_EXHAUSTION, RBAC_REVOKE
from tests.chaos.kinds.objects import (
    CONFIG_DRIFT,
    CRD_MUTATION,
    FINALIZER_BLOCK,
    LABEL_STOMPING,
    NAMESPACE_DELETION,
    OWNERREF_ORPHAN,
    PDB_BLOCK,
    RESOURCE_DELETION,
    SECRET_DELETION,
)
from tests.chaos.kinds.processes import (
    CRASH_LOOP_INJECT,
    DEPLOYMENT_SCALE_ZERO,
    IMAGE_CORRUPT,
    LEADER_ELECTION_DISRUPT,
    POD_KILL,
)
from tests.chaos.kinds.webhooks import WEBHOOK_DISRUPT, WEBHOOK_LATENCY

KINDS: tuple[Kind, ...] = (
    CLIENT_FAULT,
    CONFIG_DRIFT,
    POD_KILL,
    CRD_MUTATION,
    FINALIZER_BLOCK,
    LABEL_STOMPING,
    NETWORK_PARTITION,
    OWNERREF_ORPHAN,
    QUOTA_EXHAUSTION,
    CRASH_LOOP_INJECT,
    DEPLOYMENT_SCALE_ZERO,
    IMAGE_CORRUPT,
    LEADER_ELECTION_DISRUPT,
    NAMESPACE_DELETION,
    PDB_BLOCK,
    RBAC_REVOKE,
    RESOURCE_DELETION,
    SECRET_DELETION,
    WEBHOOK_DISRUPT,
    WEBHOOK_LATENCY,
)
