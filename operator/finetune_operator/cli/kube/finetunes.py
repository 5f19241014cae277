"""FineTunes as the commands read and change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.api.objects import Object
from finetune_operator.cli.errors import CommandError, UsageError
from finetune_operator.cli.kube.cluster import Cluster, is_no_resource
from finetune_operator.kube import resources
from finetune_operator.kube.errors import ApiError, Invalid, NotFound

LATEST = "@latest"


def find(cluster: Cluster, name: str) -> Object:
    """The FineTune of that name, or the newest for @latest. Raises CommandError where there is none."""
    wanted = plain_name(name)
    if wanted == LATEST:
        return _latest(cluster)
    try:
        return cluster.get(resources.finetune(cluster.namespace, wanted))
    except NotFound as error:
        if is_no_resource(error):
            raise
        raise CommandError(
            f"there is no FineTune {wanted} in namespace {cluster.namespace}", _where(cluster, wanted)
        ) from None


def _where(cluster: Cluster, name: str) -> str:
    """What to do about a name that the namespace does not have: most often it is in another one."""
    try:
        found = cluster.items(resources.finetunes(), fieldSelector=f"metadata.name={name}")
    except ApiError:
        found = []
    if namespaces := sorted(str(each["metadata"]["namespace"]) for each in found):
        return f"There is one in {', '.join(namespaces[:5])}: add -n {namespaces[0]}."
    return "List them: `kubectl finetune list`, or with -A in every namespace."


def change(cluster: Cluster, finetune: Mapping[str, Any], spec: Mapping[str, Any]) -> Object:
    """Set members of its spec. Raises CommandError where it is another FineTune, or at another run, by now."""
    metadata = finetune["metadata"]
    tests = [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/spec/run", "value": finetune["spec"]["run"]},
    ]
    settings = [{"op": "add", "path": f"/spec/{field}", "value": value} for field, value in spec.items()]
    try:
        return cluster.patch(resources.finetune(metadata["namespace"], metadata["name"]), tests + settings)
    except Invalid as error:
        if "test" not in error.message:
            raise
        raise CommandError(
            f"{metadata['name']} was changed by somebody else at this moment; nothing was done",
            "Look at it, and try again.",
        ) from None


def plain_name(name: str) -> str:
    """`receipts` of receipts, finetune/receipts, ft/receipts and finetune.finetune.dev/receipts."""
    kind, slash, plain = name.rpartition("/")
    if slash and kind.partition(".")[0] not in ("finetune", "finetunes", "ft"):
        raise UsageError(f"{name} is not a FineTune", "Write its name, or finetune/NAME.")
    return plain


def _latest(cluster: Cluster) -> Object:
    found = cluster.items(resources.finetunes(cluster.namespace))
    if not found:
        raise CommandError(
            f"there is no FineTune in namespace {cluster.namespace}", "Make one: `kubectl finetune submit --help`."
        )
    return max(found, key=lambda each: str(each["metadata"]["creationTimestamp"]))
