"""What a user hears of a spec that is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.notes import notes
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.controller.model import read_finetune
from tests.api.finetunes import Manifest, changed, fine_tune
from tests.unit.observations import job, observe, status_after

STORAGE = "spec.backend.job.storage"
SAMPLES = "spec.recipe.multiImageEditing.samples"


def output(uri: str, **spec: Any) -> Manifest:
    return fine_tune(output={"uri": uri}, **spec)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (fine_tune(), []),
        (output("hf://org/name"), []),
        (
            fine_tune(dataset={"uri": "https://a.example/t.csv?X-Amz-Signature=1"}),
            ["put it into a Secret as the key query"],
        ),
        (fine_tune(dataset={"uri": "https://a.example/t.csv"}), []),
        (fine_tune(dataset={"uri": "https://a.example/t.csv?sig=1"}, backend="oxen"), []),
        (changed(output("hf://org/name"), STORAGE, ...), ["begins at step 0 again. Set backend.job.storage"]),
        (changed(output("s3://bucket/a"), STORAGE, ...), []),
        (changed(output("pvc://claim/a"), STORAGE, ...), []),
        (output("hf://org/name", backend="oxen"), []),
        (fine_tune(recipe="multiImageEditing"), ["No samples are made"]),
        (fine_tune(recipe="multiImageEditing", backend="oxen"), []),
        (changed(fine_tune(recipe="multiImageEditing"), SAMPLES, []), []),
    ],
)
def test_what_is_told(manifest: Manifest, words: list[str]) -> None:
    found = list(notes(FineTuneSpec.model_validate(manifest["spec"])))
    assert len(found) == len(words)
    assert all(each in said for each, said in zip(words, found, strict=True))


def test_it_is_told_with_accepted_from_the_first_status_to_the_last() -> None:
    manifest = changed(output("hf://org/name"), STORAGE, ...)
    manifest["metadata"] |= {"uid": "u", "generation": 1, "resourceVersion": "1"}
    owner = read_finetune(manifest)
    for state in ({"active": 1, "ready": 1}, {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}):
        status = status_after(observe(owner, job=job(owner, status=state)))
        (accepted,) = (each for each in status["conditions"] if each["type"] == "Accepted")
        assert accepted["status"] == "True"
        assert "Set backend.job.storage" in accepted["message"]
