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
_C, _F, _P = ConditionType.COMPLETE, ConditionType.FAILED, ConditionType.ARTIFACTS_PUBLISHED
_G, _T = ConditionType.RECONCILING, ConditionType.STALLED

_FIX_AND_RETRY: Final = "Correct the field that the message names and raise `run` (`kubectl finetune retry NAME`)."

ADVICE: Final[dict[Reason, Advice]] = {
    Reason.VALID: Advice(_A, "The spec can be carried out."),
    Reason.VALIDATING: Advice(_A, "The operator has not finished checking the spec."),
    Reason.INVALID_SPEC: Advice(_A, "The spec contradicts itself.", _FIX_AND_RETRY),
    Reason.UNSUPPORTED_PARAMETER: Advice(
        _A,
        "The backend cannot honour a field that is set.",
        f"Remove the field, or choose a backend that can. {_FIX_AND_RETRY}",
    ),
    Reason.SECRET_NOT_FOUND: Advice(
        _A,
        "A Secret that the spec names does not exist in the FineTune's namespace.",
        "Create it there; the run goes on by itself.",
    ),
    Reason.SECRET_KEY_MISSING: Advice(
        _A, "A Secret lacks a key.", "Add the keys that the message names; the run goes on by itself."
    ),
    Reason.CLAIM_NOT_FOUND: Advice(
        _A,
        "A PersistentVolumeClaim that the spec names does not exist.",
        "Create it in the FineTune's namespace, or correct its name and raise `run`.",
    ),
    Reason.DATASET_NOT_FOUND: Advice(
        _A, "There is nothing at `dataset.uri`.", "Put the dataset there, or correct the address; then raise `run`."
    ),
    Reason.DATASET_ACCESS_DENIED: Advice(
        _A,
        "The dataset's store refuses the credentials.",
        "Correct the Secret named by `dataset.secretRef`, or its permissions.",
    ),
    Reason.DATASET_UNAVAILABLE: Advice(
        _A, "The dataset's store does not answer.", "Nothing, while it is short: it is tried again."
    ),
    Reason.MODEL_NOT_SUPPORTED: Advice(
        _A, "The backend cannot train this base model.", "Choose another `baseModel` and raise `run`."
    ),
    Reason.RUNTIME_NOT_FOUND: Advice(
        _A, "Something in the cluster that the run needs is missing.", "Install what the message names."
    ),
    Reason.PROVIDER_NOT_CONFIGURED: Advice(
        _A, "The provider or store cannot be used as it is set up.", "Add to the Secret what the message names."
    ),
    Reason.BASE_URL_NOT_ALLOWED: Advice(
        _A,
        "`baseURL` is not on the operator's allow list.",
        "Ask the administrator to add it (chart value `upstream.allowBaseUrls`), or remove `baseURL`.",
    ),
    Reason.ADDRESS_NOT_ALLOWED: Advice(
        _A,
        "An address leads to a private, loopback or metadata network.",
        "Use a public address, or ask the administrator to allow the host (chart value `upstream.allowDatasetHosts`).",
    ),
    Reason.SUSPENDED_BY_SPEC: Advice(_S, "`spec.suspend` is true.", "Go on with `kubectl finetune resume NAME`."),
    Reason.QUEUED_BY_KUEUE: Advice(
        _S,
        "The run waits in a Kueue queue to be admitted.",
        "See why: `kubectl get workloads` in the namespace, then `kubectl describe` the run's.",
    ),
    Reason.PREEMPTED: Advice(
        _S,
        "A more important workload has taken the devices; a checkpoint was saved.",
        "Nothing: the run is queued again.",
    ),
    Reason.NOT_SUSPENDED: Advice(_S, "The run is not held back."),
    Reason.RESUMED: Advice(_S, "The run is going on after a suspension."),
    Reason.PODS_RUNNING: Advice(_R, "The trainer is running."),
    Reason.UPSTREAM_RUNNING: Advice(_R, "The provider is training."),
    Reason.PENDING: Advice(
        _R, "The pod has not started yet.", "If it stays so: `kubectl describe pod` of the run says what it waits for."
    ),
    Reason.UNSCHEDULABLE: Advice(
        _R,
        "No node can take the pod.",
        "Free or add what the message counts (GPUs, memory), or ask for less: "
        "`kubectl finetune retry NAME --force --backend-param gpus=…`; `kubectl finetune doctor` lists the devices.",
    ),
    Reason.IMAGE_PULL_FAILED: Advice(
        _R,
        "The trainer image cannot be pulled.",
        "Correct `backend.job.image` and raise `run`, or give `imagePullSecrets`; "
        "without `image`, the administrator's default is at fault (chart value `trainer.image`).",
    ),
    Reason.QUOTA_EXCEEDED: Advice(
        _R, "A ResourceQuota of the namespace refuses the pod.", "Wait, free some of the quota, or ask for less."
    ),
    Reason.VOLUME_NOT_READY: Advice(
        _R,
        "A volume cannot be bound or mounted.",
        "`kubectl describe pvc` says why; often the storage class is missing, or another node holds the volume.",
    ),
    Reason.ACTION_REQUIRED: Advice(_R, "The provider waits for a person.", "Do at the provider what the message says."),
    Reason.UPSTREAM_QUEUED: Advice(_R, "The run waits in the provider's queue."),
    Reason.UPSTREAM_STATE_UNKNOWN: Advice(
        _R,
        "The provider names a state that this operator does not know.",
        "Look at `status.upstream.url`; if it stays so, update the operator.",
    ),
    Reason.UPSTREAM_UNAVAILABLE: Advice(
        _R, "The provider does not answer, or answers with an error of its own.", "Nothing: it is tried again."
    ),
    Reason.UPSTREAM_RATE_LIMITED: Advice(
        _R, "The provider asks for patience.", "Nothing: it is tried again when the provider allows."
    ),
    Reason.UPSTREAM_REDIRECTED: Advice(
        _R, "The provider's API redirects to another address, which is not followed.", "Correct `baseURL`."
    ),
    Reason.UPSTREAM_ANSWER_UNREADABLE: Advice(
        _R,
        "The provider's answer is not what its documentation says.",
        "It is tried again where that is safe; if it stays so, check `baseURL` and update the operator.",
    ),
    Reason.UPSTREAM_AUTH_FAILED: Advice(
        _R, "The provider refuses the credentials.", "Correct the Secret named by the backend's `secretRef`."
    ),
    Reason.UPSTREAM_PAYMENT_REQUIRED: Advice(
        _R, "The provider wants to be paid first.", "Settle the account at the provider; the run goes on by itself."
    ),
    Reason.UPSTREAM_PLAN_LIMIT: Advice(
        _R, "The provider's plan does not allow this run, or no more of them.", "Wait, or change the plan."
    ),
    Reason.UPSTREAM_PREPARING: Advice(_R, "The dataset is being read and sent to the provider."),
    Reason.FINISHED: Advice(_R, "The run has ended; `Complete` and `Failed` say how."),
    Reason.TRAINING_SUCCEEDED: Advice(
        _C, "The adapter is there.", "Take it: `kubectl finetune artifacts download NAME`."
    ),
    Reason.UPSTREAM_SUCCEEDED: Advice(
        _C, "The provider has finished training.", "Take it: `kubectl finetune artifacts list NAME` says where it is."
    ),
    Reason.IN_PROGRESS: Advice(_C, "The run has not ended."),
    Reason.BACKOFF_LIMIT_EXCEEDED: Advice(
        _F,
        "Every attempt has failed; the message has the last one's end.",
        "Read `kubectl finetune logs NAME`, put the cause right, then `kubectl finetune retry NAME`.",
    ),
    Reason.DEADLINE_EXCEEDED: Advice(
        _F,
        "The run took longer than `activeDeadlineSeconds`.",
        "Raise it, then `kubectl finetune retry NAME`, or ask for less work (epochs, steps).",
    ),
    Reason.POD_FAILURE_POLICY: Advice(
        _F,
        "The trainer ended with an exit code that another attempt would repeat.",
        "Read `kubectl finetune logs NAME`.",
    ),
    Reason.OUT_OF_MEMORY: Advice(
        _F,
        "Memory of the pod or of the device did not suffice.",
        "Lower `batchSize` or `seqLength`, or raise `resources.limits.memory` or the device's size; then raise `run`.",
    ),
    Reason.NON_RETRIABLE_EXIT: Advice(
        _F, "The trainer says that another attempt would fail the same way.", "Read `kubectl finetune logs NAME`."
    ),
    Reason.INVALID_CONFIG: Advice(_F, "The trainer refuses the model or a parameter (exit code 2).", _FIX_AND_RETRY),
    Reason.DATA_VALIDATION_FAILED: Advice(
        _F,
        "The dataset does not fit the recipe (exit code 3): a column, a row or a picture.",
        "Correct the dataset or the recipe's columns, then raise `run`.",
    ),
    Reason.TRAINING_DIVERGED: Advice(
        _F, "The loss is no number any more.", "Lower `learningRate`, or look for broken rows; then raise `run`."
    ),
    Reason.ARTIFACT_UPLOAD_FAILED: Advice(
        _F,
        "The adapter could not be written to `output.uri`.",
        "Correct the Secret named by `output.secretRef` or the address; what was trained is still in the storage or "
        "at the provider.",
    ),
    Reason.JOB_DELETED: Advice(
        _F, "Somebody has deleted the run's Job.", "`kubectl finetune retry NAME` runs it again."
    ),
    Reason.UPSTREAM_FAILED: Advice(
        _F, "The provider says that the run failed; its words are in the message.", _FIX_AND_RETRY
    ),
    Reason.UPSTREAM_REJECTED: Advice(_F, "The provider refuses the request.", _FIX_AND_RETRY),
    Reason.UPSTREAM_CANCELLED: Advice(
        _F, "The run was cancelled at the provider, not here.", "`kubectl finetune retry NAME` runs it again."
    ),
    Reason.UPSTREAM_GONE: Advice(
        _F, "The provider does not know the run any more.", "`kubectl finetune retry NAME` runs it again, billed again."
    ),
    Reason.UPSTREAM_WITHOUT_ARTIFACTS: Advice(
        _F, "The provider says that the run succeeded, and shows no weights.", "Look at `status.upstream.url`."
    ),
    Reason.PROVIDER_RETIRED: Advice(
        _F, "The provider has closed this service.", "Choose another backend and raise `run`."
    ),
    Reason.CANCELLED: Advice(
        _F, "The run was cancelled by `spec.cancel`; its record stays.", "`kubectl finetune retry NAME` runs it again."
    ),
    Reason.NOT_FAILED: Advice(_F, "The run has not failed."),
    Reason.PUBLISHED: Advice(_P, "The result is at `output.uri`."),
    Reason.UPLOADING: Advice(_P, "The result is being written to `output.uri`."),
    Reason.UPLOAD_FAILED: Advice(
        _P, "The result could not be written to `output.uri`.", "Correct the Secret named by `output.secretRef`."
    ),
    Reason.PROGRESSING: Advice(_G, "The operator is at work on it."),
    Reason.PROGRESSING_WITH_RETRY: Advice(
        _G, "Something went wrong and is tried again.", "If it stays so, read the operator's log."
    ),
    Reason.DEPENDENCY_NOT_READY: Advice(_G, "Something that the run needs is not there yet."),
    Reason.WAITING_FOR_GARBAGE_COLLECTION: Advice(
        _G, "Children of an earlier FineTune of the same name are being removed.", "Nothing: it takes seconds."
    ),
    Reason.NAME_CONFLICT: Advice(
        _T,
        "A Job or claim that the operator has not made stands where the run's should be.",
        "Delete or rename it, or give the FineTune another name.",
    ),
    Reason.CREATE_UNKNOWN: Advice(
        _T,
        "A billed call to the provider was cut off, and nobody can tell whether it was carried out.",
        "Look at the provider. The run is there: `kubectl annotate ft NAME finetune.dev/adopt=ID`. "
        "It is not: `kubectl annotate ft NAME finetune.dev/create-again=RUN`.",
    ),
    Reason.CANCEL_FAILED: Advice(
        _T, "The provider could not be told to stop the run.", "Stop it at the provider; it may go on costing money."
    ),
}


def advice(reason: object) -> Advice | None:
    """For a reason as it stands in a status; None for one that this version does not know."""
    try:
        return ADVICE[Reason(str(reason))]
    except ValueError:
        return None
