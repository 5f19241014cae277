"""Who is rejected learns which Secret it is about, and what to do."""

from __future__ import annotations

import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import AuthFailed, Blocked, PaymentRequired, Permanent, Transient, UpstreamError
from finetune_operator.controller.upstream.way_out import with_way_out
from tests.unit.upstream_world import CAPABILITIES
from tests.upstream import runs
from tests.upstream.bench import run_of

AT = "https://tunes.example.com"
KEYS = ("api-secret", "api-key")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            AuthFailed("Scenario answers 401: Unauthorized", status=401),
            "Scenario answers 401: Unauthorized. Put a key that Scenario takes, and that may do this, into api-key and "
            "api-secret of Secret scenario in namespace default (spec.backend.scenario.secretRef); the run then goes "
            "on.",
        ),
        (
            PaymentRequired("Scenario answers 402: no credit.", status=402),
            "Scenario answers 402: no credit. Add credit to the account at Scenario whose key is api-key and "
            "api-secret of Secret scenario in namespace default (spec.backend.scenario.secretRef); the run then goes "
            "on.",
        ),
        (
            Blocked("dataset: S3 answers 403: AccessDenied", reason=Reason.DATASET_ACCESS_DENIED),
            "dataset: S3 answers 403: AccessDenied. Check AWS_ACCESS_KEY_ID of Secret s3 in namespace default "
            "(spec.dataset.secretRef).",
        ),
        (
            Blocked("output: S3 answers 403: no", reason=Reason.ARTIFACT_UPLOAD_FAILED, status=403),
            "output: S3 answers 403: no. Check HF_TOKEN of Secret s3 in namespace default (spec.output.secretRef).",
        ),
        (Blocked("output: no bucket", reason=Reason.ARTIFACT_UPLOAD_FAILED, status=404), "output: no bucket"),
        (Transient("no answer"), "no answer"),
    ],
)
def test_the_secret_and_its_keys_are_named(error: UpstreamError, said: str) -> None:
    run = run_of(runs.scenario(output="s3://data/out"))
    told = with_way_out(
        error,
        run,
        CAPABILITIES["scenario"],
        own=KEYS,
        dataset=("AWS_ACCESS_KEY_ID",),
        output=("HF_TOKEN",),
    )
    assert told == said


def test_a_dataset_without_a_secret_gets_the_field() -> None:
    spec = runs.octoai(AT)
    spec["dataset"] = {"uri": "s3://data/pictures"}
    error = Permanent("dataset: S3 answers 403", reason=Reason.DATASET_ACCESS_DENIED)
    told = with_way_out(error, run_of(spec), CAPABILITIES["octoai"], own=KEYS, dataset=(), output=())
    assert told == "dataset: S3 answers 403. Name a Secret that may read it in spec.dataset.secretRef."
