"""Whether the spec can run at all, asked until it has started."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from finetune_operator.controller.model import Create, Missing, Refusal, Rules, read_finetune
from finetune_operator.controller.plan import plan
from tests.unit.observations import NOW, RUNNING, body, changed, conditions, finetune, job, observe, status_after

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


WORDS = "spec.template: must be nice"
REFUSALS = [Refusal(status, WORDS, NOW, generation=1) for status in (400, 401, 402, 413, 422, 451)]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: str(refusal.status))
class TestRefused:
    def test_it_stalls_with_the_api_servers_words(self, refusal: Refusal) -> None:
        decision = plan(observe(refusal=refusal))
        assert decision.actions == ()
        assert decision.requeue == 30
        assert decision.announcement is not None
        assert decision.status is not None
        assert decision.status["phase"] == "Stalled"
        assert decision.status["message"] == f"The API server refuses the Job ({refusal.status}): {WORDS}"
        held = conditions(decision.status)
        assert (held["Accepted"], held["Stalled"]) == (("False", "InvalidSpec"), ("True", "InvalidSpec"))

    @pytest.mark.parametrize(
        ("times", "wait"), [(1, 30), (2, 60), (3, 120), (4, 240), (5, 300), (6, 300), (10**6, 300)]
    )
    def test_it_is_tried_again_ever_less_often(self, refusal: Refusal, times: int, wait: float) -> None:
        refusal = refusal._replace(times=times)
        assert plan(observe(refusal=refusal)).requeue == wait
        early = observe(refusal=refusal, now=NOW + timedelta(seconds=wait - 1))
        assert (plan(early).actions, plan(early).requeue) == ((), 1)
        due = observe(refusal=refusal, now=NOW + timedelta(seconds=wait))
        assert [type(action) for action in plan(due).actions] == [Create, Create]

    def test_the_status_stands_until_it_is_taken(self, refusal: Refusal) -> None:
        status = status_after(observe(refusal=refusal))
        assert plan(observe(None, status, refusal=refusal, now=NOW + timedelta(seconds=30))).status is None
        taken = plan(observe(None, status, job=job(age=0))).status
        assert taken is not None
        assert conditions(taken)["Accepted"] == ("True", "Valid")
        assert taken["phase"] == "Pending"

    def test_another_generation_is_tried_at_once(self, refusal: Refusal) -> None:
        for owner in (finetune(generation=2), finetune(generation=2, run=2)):
            assert [type(action) for action in plan(observe(owner, refusal=refusal)).actions] == [Create, Create]

    def test_waits_of_the_administrators_choice_are_not_shortened(self, refusal: Refusal) -> None:
        rules = Rules(recheck_interval=900)
        assert plan(observe(refusal=refusal, rules=rules)).requeue == 900


def test_a_claim_is_called_by_its_name() -> None:
    status = plan(observe(refusal=Refusal(422, WORDS, NOW, generation=1, kind="PersistentVolumeClaim"))).status
    assert status is not None
    assert status["message"].startswith("The API server refuses the PersistentVolumeClaim (422)")


@pytest.mark.parametrize("broken", [BROKEN, finetune(deletionPolicy="Orphan")])
def test_a_spec_that_is_broken_within_a_run_is_not_accepted_and_the_run_goes_on(broken) -> None:
    running = status_after(observe(job=job(status=RUNNING)))
    edited = dataclasses.replace(broken, generation=2)
    status = plan(observe(edited, running, job=job(status=RUNNING))).status
    assert status is not None
    assert conditions(status)["Accepted"][0] == "False"
    assert status["phase"] == "Running"
    assert "The run goes on as it was started; the spec was changed since: " in str(status["conditions"])
    assert plan(observe(edited, status, job=job(status=RUNNING))).status is None, "and stays so"
    mended = plan(observe(finetune(generation=3), status, job=job(status=RUNNING))).status
    assert mended is not None
    assert conditions(mended)["Accepted"] == ("True", "Valid")


@pytest.mark.parametrize("label", ["kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"])
def test_a_queue_that_nobody_keeps_is_refused_by_its_label(label: str) -> None:
    decision = plan(observe(missing=Missing("Kueue", "gpu", label), kueue=False))
    assert decision.actions == ()
    assert decision.requeue == 30
    assert decision.status is not None
    assert conditions(decision.status)["Accepted"] == ("False", "KueueNotFound")
    assert decision.status["message"].startswith(f"metadata.labels.{label}: Kueue is not in this cluster")


@pytest.mark.parametrize("owner", [BROKEN, UNSUPPORTED])
def test_a_run_that_has_started_is_accepted_for_good(owner) -> None:
    """An upgraded operator that would not start it any more still sees it through."""
    status = plan(observe(owner, job=job(status=RUNNING))).status
    assert status is not None
    assert conditions(status)["Accepted"][0] == "True"
    assert status["phase"] == "Running"
