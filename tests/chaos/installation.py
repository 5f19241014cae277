"""The chart's permissions and settings for one experiment: names of its own, so that none meets another."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from tests.chart.charts import NAMESPACE, RELEASE, only, render

Object = dict[str, Any]

_GRANTS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


@dataclass(frozen=True)
class Installation:
    """A release of the chart for the whole cluster, with its default values."""

    namespace: str
    account: str
    """The operator's ServiceAccount."""
    grants: tuple[Object, ...]
    settings: dict[str, str]
    """By the names of environment variables."""

    @property
    def binding(self) -> Object:
        """The ClusterRoleBinding that lets the operator work."""
        return only(list(self.grants), "ClusterRoleBinding", self.account)


def installation(namespace: str) -> Installation:
    """As `helm install` would give it in that namespace. Raises HelmError."""
    objects: list[Object] = json.loads(_rendered().replace(NAMESPACE, namespace))
    grants = tuple(each for each in objects if each["kind"] in _GRANTS)
    return Installation(namespace, f"{RELEASE}-finetune-operator", grants, only(objects, "ConfigMap")["data"])


@functools.cache
def _rendered() -> str:
    """Without the roles for people: every release has those under the same names."""
    return json.dumps(render({"rbac": {"aggregate": False}}))
