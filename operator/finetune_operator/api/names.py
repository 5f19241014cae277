"""Names on the wire: group, version, labels, annotations, and the one rule between camelCase and snake_case."""

import re
from typing import Final

GROUP: Final = "finetune.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FineTune"
PLURAL: Final = "finetunes"
SINGULAR: Final = "finetune"
LIST_KIND: Final = "FineTuneList"
SHORT_NAMES: Final = ("ft",)
CATEGORIES: Final = ("all", "finetune")
CRD_NAME: Final = f"{PLURAL}.{GROUP}"

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "finetune-operator"
NAME_LABEL: Final = f"{GROUP}/name"
RUN_LABEL: Final = f"{GROUP}/run"
UID_LABEL: Final = f"{GROUP}/uid"
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
PRIORITY_CLASS_LABEL: Final = "kueue.x-k8s.io/priority-class"

IGNORE_UPDATES_ANNOTATION: Final = "argocd.argoproj.io/ignore-resource-updates"
"""Argo CD does not look at an application again whenever a pod's or a Job's status changes."""
CONFIG_ANNOTATION: Final = f"{GROUP}/config"
"""On the pod template: the trainer's whole configuration as JSON."""
ADOPT_ANNOTATION: Final = f"{GROUP}/adopt"
"""On the FineTune: the upstream id that this run takes over (resolves `CreateUnknown`)."""
CREATE_AGAIN_ANNOTATION: Final = f"{GROUP}/create-again"
"""On the FineTune: the run for which one more create is allowed (resolves `CreateUnknown`)."""
DISPLAY_NAME_ANNOTATION: Final = f"{GROUP}/display-name"
"""On the FineTune: the name that a converted request body had, if it is not a valid Kubernetes name."""
PROGRESS_AUDIENCE: Final = f"{GROUP}/progress"
"""What a pod's token is good for when it reports its progress."""
FINALIZER: Final = f"{GROUP}/upstream"

MAX_NAME_LENGTH: Final = 52
"""Room for "-" and a ten-digit run below the 63 characters of a Job's name."""
MAX_RUN: Final = 2_147_483_647


def camel(snake_name: str) -> str:
    """`control_image_columns` -> `controlImageColumns`. Inverse of `snake` for the providers' names."""
    first, *rest = snake_name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def snake(camel_name: str) -> str:
    """`controlImageColumns` -> `control_image_columns`. Inverse of `camel`."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", camel_name).lower()


def job_name(name: str, run: int) -> str:
    """The name of a run's Job: at most 63 characters for a name of at most `MAX_NAME_LENGTH`."""
    return f"{name}-{run}"


_JOB_NAME: Final = re.compile(r"(?P<name>[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)-(?P<run>[1-9][0-9]{0,9})")


def named_run(job: str) -> tuple[str, int] | None:
    """(FineTune, run) of a Job's name, the inverse of `job_name`; None where it is not such a name."""
    found = _JOB_NAME.fullmatch(job)
    if found is None or int(found["run"]) > MAX_RUN:
        return None
    return found["name"], int(found["run"])
