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
    ARTIFACTS_PUBLISHED = "ArtifactsPublished"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    """Reasons of conditions and of Events."""

    # Accepted
    VALID = "Valid"
    VALIDATING = "Validating"
    INVALID_SPEC = "InvalidSpec"
    UNSUPPORTED_PARAMETER = "UnsupportedParameter"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105
    SECRET_KEY_MISSING = "SecretKeyMissing"  # noqa: S105
    CLAIM_NOT_FOUND = "ClaimNotFound"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_ACCESS_DENIED = "DatasetAccessDenied"
    DATASET_UNAVAILABLE = "DatasetUnavailable"
    MODEL_NOT_SUPPORTED = "ModelNotSupported"
    RUNTIME_NOT_FOUND = "RuntimeNotFound"
    PROVIDER_NOT_CONFIGURED = "ProviderNotConfigured"
    BASE_URL_NOT_ALLOWED = "BaseURLNotAllowed"
    ADDRESS_NOT_ALLOWED = "AddressNotAllowed"
    # Suspended
    SUSPENDED_BY_SPEC = "SuspendedBySpec"
    QUEUED_BY_KUEUE = "QueuedByKueue"
    PREEMPTED = "Preempted"
    NOT_SUSPENDED = "NotSuspended"
    RESUMED = "Resumed"
    # Running
    PODS_RUNNING = "PodsRunning"
    UPSTREAM_RUNNING = "UpstreamRunning"
    PENDING = "Pending"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    VOLUME_NOT_READY = "VolumeNotReady"
    ACTION_REQUIRED = "ActionRequired"
    UPSTREAM_QUEUED = "UpstreamQueued"
    UPSTREAM_STATE_UNKNOWN = "UpstreamStateUnknown"
    UPSTREAM_UNAVAILABLE = "UpstreamUnavailable"
    UPSTREAM_RATE_LIMITED = "UpstreamRateLimited"
    UPSTREAM_REDIRECTED = "UpstreamRedirected"
    UPSTREAM_ANSWER_UNREADABLE = "UpstreamAnswerUnreadable"
    UPSTREAM_AUTH_FAILED = "UpstreamAuthFailed"
    UPSTREAM_PAYMENT_REQUIRED = "UpstreamPaymentRequired"
    UPSTREAM_PLAN_LIMIT = "UpstreamPlanLimit"
    UPSTREAM_PREPARING = "UpstreamPreparing"
    FINISHED = "Finished"
    # Complete
    TRAINING_SUCCEEDED = "TrainingSucceeded"
    UPSTREAM_SUCCEEDED = "UpstreamSucceeded"
    IN_PROGRESS = "InProgress"
    # Failed
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    POD_FAILURE_POLICY = "PodFailurePolicy"
    OUT_OF_MEMORY = "OutOfMemory"
    NON_RETRIABLE_EXIT = "NonRetriableExit"
    INVALID_CONFIG = "InvalidConfig"
    DATA_VALIDATION_FAILED = "DataValidationFailed"
    TRAINING_DIVERGED = "TrainingDiverged"
    ARTIFACT_UPLOAD_FAILED = "ArtifactUploadFailed"
    JOB_DELETED = "JobDeleted"
    UPSTREAM_FAILED = "UpstreamFailed"
    UPSTREAM_REJECTED = "UpstreamRejected"
    UPSTREAM_CANCELLED = "UpstreamCancelled"
    UPSTREAM_GONE = "UpstreamGone"
    UPSTREAM_WITHOUT_ARTIFACTS = "UpstreamWithoutArtifacts"
    PROVIDER_RETIRED = "ProviderRetired"
    CANCELLED = "Cancelled"
    NOT_FAILED = "NotFailed"
    # ArtifactsPublished
    PUBLISHED = "Published"
    UPLOADING = "Uploading"
    UPLOAD_FAILED = "UploadFailed"
    # Reconciling
    PROGRESSING = "Progressing"
    PROGRESSING_WITH_RETRY = "ProgressingWithRetry"
    DEPENDENCY_NOT_READY = "DependencyNotReady"
    WAITING_FOR_GARBAGE_COLLECTION = "WaitingForGarbageCollection"
    # Stalled
    NAME_CONFLICT = "NameConflict"
    CREATE_UNKNOWN = "CreateUnknown"
    CANCEL_FAILED = "CancelFailed"
