"""Whether the spec can run at all, asked until it has started."""

from __future__ import annotations

import pytest

from finetune_operator.controller.model import Missing, Refusal, read_finetune
from finetune_operator.controller.plan import plan
from tests.unit.observations import NOW, RUNNING, body, changed, conditions, finetune, job, observe

UNSUPPORTED = read_finetune(changed(body(), "spec.recipe.imageToText.useLora", False))
BROKEN = read_finetune(changed(body(), "spec.recipe.imageToText.tomorrow", 1))


def test_a_spec_that_the_models_refuse_is_named_and_stalled() -> None:
    """A field of a newer CRD, say: the operator is older than the resource."""
    decision = plan(observe(BROKEN))
    assert decision.actions == ()
    assert decision.requeue is None
    assert decision.status is not None
    assert conditions(decision.status)["Accepted"] == ("False", "InvalidSpec")
    assert conditions(decision.status)["Stalled"] == ("True", "InvalidSpec")
    assert "spec.recipe.imageToText.tomorrow" in decision.status["message"]
    assert decision.announcement is not None


@pytest.mark.parametrize(
    ("missing", "reason", "words"),
    [
        (
            Missing("Secret", "s3", "dataset.secretRef"),
            "SecretNotFound",
            "spec.dataset.secretRef: there is no Secret s3",
        ),
        (
            Missing("PersistentVolumeClaim", "data", "backend.job.cache.claimName"),
            "ClaimNotFound",
            "spec.backend.job.cache.claimName: there is no PersistentVolumeClaim data in namespace default",
        ),
    ],
)
def test_what_is_missing_is_named_and_looked_for_again(missing: Missing, reason: str, words: str) -> None:
    decision = plan(observe(missing=missing))
    assert decision.actions == ()
    assert decision.requeue == 30
    assert decision.status is not None
    assert conditions(decision.status)["Accepted"] == ("False", reason)
    assert decision.status["phase"] == "Stalled"
    assert words in decision.status["message"]


def test_a_refused_job_stalls_until_the_spec_changes() -> None:
    refusal = Refusal(422, "spec.template: must be nice", NOW, generation=1)
    decision = plan(observe(refusal=refusal))
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status["phase"] == "Stalled"
    assert "must be nice" in decision.status["message"]
    assert plan(observe(finetune(generation=2, run=2), refusal=refusal)).actions != ()


@pytest.mark.parametrize("owner", [BROKEN, UNSUPPORTED])
def test_a_run_that_has_started_is_accepted_for_good(owner) -> None:
    """An upgraded operator that would not start it any more still sees it through."""
    status = plan(observe(owner, job=job(status=RUNNING))).status
    assert status is not None
    assert conditions(status)["Accepted"][0] == "True"
    assert status["phase"] == "Running"
