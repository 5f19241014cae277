"""Every phase, condition type and reason that a FineTune's status can hold."""

from enum import StrEnum


class Phase(StrEnum):
    """A one-word summary for people; decide on conditions instead."""

    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    STALLED = "Stalled"


TERMINAL_PHASES = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED})


class ConditionType(StrEnum):
    """`RECONCILING` and `STALLED` exist only while True (kstatus); there is deliberately no Ready."""

    ACCEPTED = "Accepted"
    SUSPENDED = "Suspended"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    """Reasons of conditions, of Events and of the runs in `status.history`.

    Grouped by the condition that each of them explains most often. A status that is read back may hold a reason that is
    not among them, of another version or of Kubernetes itself: it is only ever shown, never parsed.
    """

    # Accepted
    VALID = "Valid"
    OVERRIDDEN = "Overridden"
    INVALID_SPEC = "InvalidSpec"
    UNSUPPORTED_PARAMETER = "UnsupportedParameter"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105
    CLAIM_NOT_FOUND = "ClaimNotFound"
    KUEUE_NOT_FOUND = "KueueNotFound"
    BASE_URL_NOT_ALLOWED = "BaseURLNotAllowed"
    # Suspended
    SUSPENDED_BY_SPEC = "SuspendedBySpec"
    QUEUED_BY_KUEUE = "QueuedByKueue"
    PREEMPTED = "Preempted"
    JOB_SUSPENDED = "JobSuspended"
    NOT_SUSPENDED = "NotSuspended"
    # Running
    PODS_RUNNING = "PodsRunning"
    UPSTREAM_RUNNING = "UpstreamRunning"
    UPLOADING = "Uploading"
    CANNOT_SUSPEND = "CannotSuspend"
    PENDING = "Pending"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    VOLUME_NOT_READY = "VolumeNotReady"
    NODE_LOST = "NodeLost"
    SIDECAR_RUNNING = "SidecarRunning"
    ACTION_REQUIRED = "ActionRequired"
    UPSTREAM_QUEUED = "UpstreamQueued"
    UPSTREAM_STATE_UNKNOWN = "UpstreamStateUnknown"
    UPSTREAM_PREPARING = "UpstreamPreparing"
    FINISHED = "Finished"
    # Running, in Kubernetes' own words
    FAILED_CREATE = "FailedCreate"
    CREATE_CONTAINER_CONFIG_ERROR = "CreateContainerConfigError"
    CREATE_CONTAINER_ERROR = "CreateContainerError"
    RUN_CONTAINER_ERROR = "RunContainerError"
    # Complete
    TRAINING_SUCCEEDED = "TrainingSucceeded"
    UPSTREAM_SUCCEEDED = "UpstreamSucceeded"
    IN_PROGRESS = "InProgress"
    # Failed
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    POD_FAILURE_POLICY = "PodFailurePolicy"
    OUT_OF_MEMORY = "OutOfMemory"
    STORAGE_FULL = "StorageFull"
    INVALID_CONFIG = "InvalidConfig"
    MODEL_NOT_SUPPORTED = "ModelNotSupported"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATA_VALIDATION_FAILED = "DataValidationFailed"
    TRAINING_DIVERGED = "TrainingDiverged"
    ARTIFACT_UPLOAD_FAILED = "ArtifactUploadFailed"
    UPSTREAM_FAILED = "UpstreamFailed"
    UPSTREAM_REJECTED = "UpstreamRejected"
    UPSTREAM_PLAN_LIMIT = "UpstreamPlanLimit"
    UPSTREAM_CANCELLED = "UpstreamCancelled"
    UPSTREAM_GONE = "UpstreamGone"
    UPSTREAM_WITHOUT_ARTIFACTS = "UpstreamWithoutArtifacts"
    PROVIDER_RETIRED = "ProviderRetired"
    CANCELLED = "Cancelled"
    SUPERSEDED = "Superseded"
    NOT_FAILED = "NotFailed"
    # Reconciling
    PROGRESSING = "Progressing"
    PROGRESSING_WITH_RETRY = "ProgressingWithRetry"
    WAITING_FOR_GARBAGE_COLLECTION = "WaitingForGarbageCollection"
    # Reconciling: the first word in the message of ProgressingWithRetry
    DATASET_UNAVAILABLE = "DatasetUnavailable"
    UPSTREAM_UNAVAILABLE = "UpstreamUnavailable"
    UPSTREAM_RATE_LIMITED = "UpstreamRateLimited"
    UPSTREAM_REDIRECTED = "UpstreamRedirected"
    UPSTREAM_ANSWER_UNREADABLE = "UpstreamAnswerUnreadable"
    CREDENTIALS_UNREADABLE = "CredentialsUnreadable"
    INTERNAL_ERROR = "InternalError"
    # Stalled
    SECRET_KEY_MISSING = "SecretKeyMissing"  # noqa: S105
    DATASET_ACCESS_DENIED = "DatasetAccessDenied"
    PROVIDER_NOT_CONFIGURED = "ProviderNotConfigured"
    ADDRESS_NOT_ALLOWED = "AddressNotAllowed"
    UPSTREAM_AUTH_FAILED = "UpstreamAuthFailed"
    UPSTREAM_PAYMENT_REQUIRED = "UpstreamPaymentRequired"
    NAME_CONFLICT = "NameConflict"
    CREATE_UNKNOWN = "CreateUnknown"
    CANCEL_FAILED = "CancelFailed"
