"""What each reason means and what to do about it: `describe`, `watch` and docs/troubleshooting.md read it here. Pure.

Sentences say what is so; the second one, where there is one, what to do. The object's own message has the particulars.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from finetune_operator.api.reasons import ConditionType, Reason


class Advice(NamedTuple):
    """Where a reason stands, what it means, and what to do; empty where nothing has to be done."""

    where: ConditionType
    meaning: str
    do: str = ""


_A, _S, _R = ConditionType.ACCEPTED, ConditionType.SUSPENDED, ConditionType.RUNNING
_C, _F = ConditionType.COMPLETE, ConditionType.FAILED
_G, _T = ConditionType.RECONCILING, ConditionType.STALLED

_FIX_AND_RETRY: Final = "Correct the field that the message names and raise `run` (`kubectl finetune retry NAME`)."
_RUN_AGAIN: Final = "Run it again with `kubectl finetune retry NAME`."
_READ_LOGS: Final = "Read `kubectl finetune logs NAME`, fix the cause, then run `kubectl finetune retry NAME`."

ADVICE: Final[dict[Reason, Advice]] = {
    Reason.VALID: Advice(_A, "The spec can run on its backend."),
    Reason.OVERRIDDEN: Advice(
        _A,
        "A policy or another controller of the cluster undoes what the operator sets on the run's Job.",
        "Exempt the operator's Jobs from it, or set the same in the spec; the message names the field.",
    ),
    Reason.INVALID_SPEC: Advice(
        _A,
        "The spec is invalid or nested too deeply, or the API server or an admission policy rejected the Job made "
        "from it.",
        f"{_FIX_AND_RETRY} A Job that a policy rejects is offered again, at growing intervals: change the policy.",
    ),
    Reason.UNSUPPORTED_PARAMETER: Advice(
        _A,
        "The backend does not support a field that is set.",
        f"Remove the field, or choose a backend that supports it. {_FIX_AND_RETRY}",
    ),
    Reason.SECRET_NOT_FOUND: Advice(
        _A,
        "A Secret that the spec names does not exist in the FineTune's namespace.",
        "Create it there; the run then continues on its own.",
    ),
    Reason.CLAIM_NOT_FOUND: Advice(
        _A,
        "A PersistentVolumeClaim that the spec names does not exist.",
        "Create it in the FineTune's namespace, and the run continues on its own; or correct its name and raise `run`.",
    ),
    Reason.KUEUE_NOT_FOUND: Advice(
        _A,
        "The FineTune has a label of Kueue, and Kueue is not in the cluster: it would start at once.",
        "Install Kueue, or take the labels `kueue.x-k8s.io/queue-name` and `kueue.x-k8s.io/priority-class` off. Where "
        "something else reads them, the administrator sets the chart value `requireKueue: false`.",
    ),
    Reason.BASE_URL_NOT_ALLOWED: Advice(
        _A,
        "`baseURL` is missing, or is not on the operator's allowlist.",
        "Ask the administrator to add it (chart value `upstream.allowBaseUrls`), or remove `baseURL`.",
    ),
    Reason.SUSPENDED_BY_SPEC: Advice(_S, "`spec.suspend` is true.", "Resume it with `kubectl finetune resume NAME`."),
    Reason.QUEUED_BY_KUEUE: Advice(
        _S,
        "The run is waiting in a Kueue queue to be admitted.",
        "See why: find the run's Workload with `kubectl get workloads`, then `kubectl describe` it.",
    ),
    Reason.PREEMPTED: Advice(
        _S,
        "Kueue preempted the run in favour of a workload with a higher priority; a checkpoint was saved.",
        "Nothing; the run is queued again.",
    ),
    Reason.JOB_SUSPENDED: Advice(
        _S,
        "Somebody has suspended the run's Job itself: neither `spec.suspend` nor Kueue holds it.",
        "The message has the command that lets it go on.",
    ),
    Reason.NOT_SUSPENDED: Advice(_S, "The run is not suspended."),
    Reason.PODS_RUNNING: Advice(_R, "The trainer is running."),
    Reason.UPSTREAM_RUNNING: Advice(_R, "The provider is training."),
    Reason.UPLOADING: Advice(_R, "The provider has finished training; its weights are being copied to `output.uri`."),
    Reason.CANNOT_SUSPEND: Advice(
        _R,
        "`spec.suspend` is set, but a run that has started at a provider cannot be paused: it goes on, and is billed.",
        "Set `cancel` to stop it, or `suspend` to false.",
    ),
    Reason.PENDING: Advice(
        _R,
        "The pod has not started yet.",
        "If it stays pending, `kubectl describe pod` shows what it is waiting for.",
    ),
    Reason.UNSCHEDULABLE: Advice(
        _R,
        "No node can run the pod.",
        "Free or add the resources that the message counts (GPUs, memory), or request fewer: "
        "`kubectl finetune retry NAME --force --backend-param gpus=…`. `kubectl finetune doctor` lists the devices.",
    ),
    Reason.IMAGE_PULL_FAILED: Advice(
        _R,
        "The trainer image cannot be pulled.",
        "Correct `backend.job.image` and raise `run`, or set `imagePullSecrets`. If `image` is not set, the "
        "administrator's default is wrong (chart value `trainer.image`).",
    ),
    Reason.QUOTA_EXCEEDED: Advice(
        _R,
        "A ResourceQuota of the namespace rejects the pod.",
        "Wait, free some of the quota, or request less.",
    ),
    Reason.VOLUME_NOT_READY: Advice(
        _R,
        "A volume cannot be bound or mounted.",
        "`kubectl describe pvc` says why; often there is no such StorageClass, or another node holds the volume.",
    ),
    Reason.NODE_LOST: Advice(
        _R,
        "The pod's node does not answer; whether the trainer still runs there is not known.",
        "Nothing, if the node comes back. If it is gone for good, delete the Node, or taint it as the "
        "message says: Kubernetes then replaces the pod.",
    ),
    Reason.SIDECAR_RUNNING: Advice(
        _R,
        "An attempt has ended, and another container (a service mesh's sidecar) keeps its pod from ending.",
        "The operator ends the pod after a few seconds. Switch the injection off with `backend.job.podLabels` or "
        "`podAnnotations`.",
    ),
    Reason.ACTION_REQUIRED: Advice(
        _R, "The provider is waiting for a person.", "Do what the message says on the provider's site."
    ),
    Reason.UPSTREAM_QUEUED: Advice(_R, "The run is waiting in the provider's queue."),
    Reason.UPSTREAM_STATE_UNKNOWN: Advice(
        _R,
        "The provider reports a state that this version of the operator does not know.",
        "Look at `status.upstream.url`; if the state persists, upgrade the operator.",
    ),
    Reason.UPSTREAM_PREPARING: Advice(_R, "The dataset is being read and sent to the provider."),
    Reason.FINISHED: Advice(_R, "The run has ended; the conditions `Complete` and `Failed` say how."),
    Reason.FAILED_CREATE: Advice(
        _R,
        "The Job controller cannot create the pod, for example because an admission policy rejects it.",
        "Resolve what the message says; the Job controller retries on its own.",
    ),
    Reason.CREATE_CONTAINER_CONFIG_ERROR: Advice(
        _R,
        "The container refers to a Secret, ConfigMap or key that does not exist.",
        "Create what the message names; the kubelet retries on its own.",
    ),
    Reason.CREATE_CONTAINER_ERROR: Advice(
        _R, "The container runtime cannot create the container.", "`kubectl describe pod` has the runtime's own error."
    ),
    Reason.RUN_CONTAINER_ERROR: Advice(
        _R, "The container runtime cannot start the container.", "`kubectl describe pod` has the runtime's own error."
    ),
    Reason.TRAINING_SUCCEEDED: Advice(
        _C,
        "Training finished and its result was saved.",
        "Download it with `kubectl finetune artifacts download NAME`.",
    ),
    Reason.UPSTREAM_SUCCEEDED: Advice(
        _C, "The provider finished training.", "`kubectl finetune artifacts list NAME` shows where the result is."
    ),
    Reason.IN_PROGRESS: Advice(_C, "The run has not ended."),
    Reason.BACKOFF_LIMIT_EXCEEDED: Advice(
        _F, "Every attempt failed; the message says how the last one ended.", _READ_LOGS
    ),
    Reason.DEADLINE_EXCEEDED: Advice(
        _F,
        "The run took longer than `activeDeadlineSeconds`.",
        "Raise it, or reduce the work (epochs, steps); then run `kubectl finetune retry NAME`.",
    ),
    Reason.POD_FAILURE_POLICY: Advice(
        _F,
        "The trainer ended with an exit code that another attempt would only repeat, and its pod is gone.",
        _READ_LOGS,
    ),
    Reason.OUT_OF_MEMORY: Advice(
        _F,
        "The pod or the GPU did not have enough memory.",
        "Lower `batchSize` or `seqLength`, raise `resources.limits.memory`, or use a larger GPU; then raise `run`.",
    ),
    Reason.STORAGE_FULL: Advice(
        _F,
        "What the trainer downloads does not fit into the cache volume (exit code 2).",
        "Free or enlarge the claim named by `cache.claimName`, or the node's ephemeral storage; then raise `run`.",
    ),
    Reason.INVALID_CONFIG: Advice(
        _F, "The trainer rejects the base model or a parameter (exit code 2).", _FIX_AND_RETRY
    ),
    Reason.MODEL_NOT_SUPPORTED: Advice(
        _F,
        "The trainer does not support this kind of base model (exit code 2).",
        "Choose another `baseModel` and raise `run`.",
    ),
    Reason.DATASET_NOT_FOUND: Advice(
        _F,
        "There is no dataset at `dataset.uri`.",
        "Upload the dataset, or correct the address; then raise `run`.",
    ),
    Reason.DATA_VALIDATION_FAILED: Advice(
        _F,
        "The dataset does not fit the recipe: the message names the column, row or file.",
        "Correct the dataset or the recipe's columns, then raise `run`.",
    ),
    Reason.TRAINING_DIVERGED: Advice(
        _F,
        "The loss became infinite or not a number (exit code 2).",
        "Lower `learningRate`, or look for broken rows; then raise `run`.",
    ),
    Reason.ARTIFACT_UPLOAD_FAILED: Advice(
        _F,
        "The result could not be written to `output.uri`.",
        "Correct the Secret named by `output.secretRef`, or the address. The trained weights are still in the run's "
        "storage or at the provider.",
    ),
    Reason.UPSTREAM_FAILED: Advice(
        _F, "The provider reports that the run failed; the message quotes it.", _FIX_AND_RETRY
    ),
    Reason.UPSTREAM_REJECTED: Advice(_F, "The provider rejects the request.", _FIX_AND_RETRY),
    Reason.UPSTREAM_PLAN_LIMIT: Advice(
        _F,
        "The provider's plan does not allow this run, or no further runs.",
        "Wait or change the plan, then run `kubectl finetune retry NAME`.",
    ),
    Reason.UPSTREAM_CANCELLED: Advice(_F, "The run was cancelled at the provider, not by `spec.cancel`.", _RUN_AGAIN),
    Reason.UPSTREAM_GONE: Advice(
        _F,
        "The provider no longer knows the run.",
        "Run it again with `kubectl finetune retry NAME`; the provider bills it again.",
    ),
    Reason.UPSTREAM_WITHOUT_ARTIFACTS: Advice(
        _F,
        "The provider reports success but offers no weights, or sends something else in their place.",
        "Look at `status.upstream.url`.",
    ),
    Reason.PROVIDER_RETIRED: Advice(
        _F, "The provider has shut this service down.", "Choose another backend and raise `run`."
    ),
    Reason.CANCELLED: Advice(_F, "The run was cancelled by `spec.cancel`; its record is kept.", _RUN_AGAIN),
    Reason.SUPERSEDED: Advice(
        _F, "An earlier run was stopped because `spec.run` was raised; appears in `status.history` only."
    ),
    Reason.NOT_FAILED: Advice(_F, "The run has not failed."),
    Reason.PROGRESSING: Advice(_G, "The operator is working on the run."),
    Reason.PROGRESSING_WITH_RETRY: Advice(
        _G, "Something failed and is being retried; the message says what.", "If it persists, read the operator's log."
    ),
    Reason.WAITING_FOR_GARBAGE_COLLECTION: Advice(
        _G,
        "A Job or claim of a deleted FineTune with the same name is being garbage-collected.",
        "Nothing; it takes seconds.",
    ),
    Reason.DATASET_UNAVAILABLE: Advice(_G, "The dataset's store is not responding.", "Nothing; the operator retries."),
    Reason.UPSTREAM_UNAVAILABLE: Advice(
        _G, "The provider is not responding, or responds with a server error.", "Nothing; the operator retries."
    ),
    Reason.UPSTREAM_RATE_LIMITED: Advice(
        _G, "The provider is limiting the rate of requests.", "Nothing; the operator retries when the provider allows."
    ),
    Reason.UPSTREAM_REDIRECTED: Advice(
        _G, "The provider's API redirects to another address; redirects are not followed.", "Correct `baseURL`."
    ),
    Reason.UPSTREAM_ANSWER_UNREADABLE: Advice(
        _G,
        "The provider's response does not match its documentation.",
        "The operator retries where that is safe. If it persists, check `baseURL` and upgrade the operator.",
    ),
    Reason.CREDENTIALS_UNREADABLE: Advice(
        _G,
        "The operator cannot read a Secret that the spec names, for example because RBAC forbids it.",
        "Let the operator read it (chart value `rbac.readSecrets`); the operator retries on its own.",
    ),
    Reason.INTERNAL_ERROR: Advice(
        _G,
        "An unexpected error occurred in the operator itself.",
        "The operator retries where that is safe. Its log has the traceback; please report it.",
    ),
    Reason.SECRET_KEY_MISSING: Advice(
        _T,
        "A Secret that the spec names lacks a key.",
        "Add the keys that the message names; the run then continues on its own.",
    ),
    Reason.DATASET_ACCESS_DENIED: Advice(
        _T,
        "The dataset's store rejects the credentials, or requires some.",
        "Correct the Secret named by `dataset.secretRef`, or its permissions; if the run has failed, raise `run`.",
    ),
    Reason.PROVIDER_NOT_CONFIGURED: Advice(
        _T,
        "The provider or store cannot be used with its current configuration.",
        "Add what the message names to the Secret.",
    ),
    Reason.ADDRESS_NOT_ALLOWED: Advice(
        _T,
        "An address resolves to a private, loopback or link-local network.",
        "Use a public address, or ask the administrator to allow the host (chart value `upstream.allowDatasetHosts`).",
    ),
    Reason.UPSTREAM_AUTH_FAILED: Advice(
        _T, "The provider rejects the credentials.", "Correct the Secret named by the backend's `secretRef`."
    ),
    Reason.UPSTREAM_PAYMENT_REQUIRED: Advice(
        _T,
        "The provider requires payment.",
        "Settle the account at the provider; the run then continues on its own.",
    ),
    Reason.NAME_CONFLICT: Advice(
        _T,
        "A Job or claim with the run's name exists, and the operator did not create it.",
        "Delete it, or give the FineTune another name.",
    ),
    Reason.CREATE_UNKNOWN: Advice(
        _T,
        "A billed request to the provider was interrupted, or `status.upstream` contradicts itself, and it is not "
        "known whether the run was created or started.",
        "Look at the provider. If the run is there: `kubectl annotate ft NAME finetune.dev/adopt=ID`. "
        "If it is not: `kubectl annotate ft NAME finetune.dev/create-again=RUN`.",
    ),
    Reason.CANCEL_FAILED: Advice(
        _T,
        "The provider has not stopped the run.",
        "Stop it at the provider; until then it may continue to cost money. Where the FineTune is gone, the Event and "
        "the operator's log name the run.",
    ),
}


def advice(reason: object) -> Advice | None:
    """For a reason as it stands in a status; None for one that this version does not know."""
    try:
        return ADVICE[Reason(str(reason))]
    except ValueError:
        return None
