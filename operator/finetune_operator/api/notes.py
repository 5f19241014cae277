"""What a user should know of a spec that is accepted: told with the condition Accepted. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.spec import FineTuneSpec


def notes(spec: FineTuneSpec) -> Iterator[str]:
    """Sentences, each with the way out."""
    job = spec.backend.job
    if job is None:
        return
    if spec.dataset.uri.startswith("https://") and "?" in spec.dataset.uri:
        yield (
            "The query of dataset.uri can be read by whoever may read this FineTune and its Job. If it is a signature, "
            "put it into a Secret as the key query, name that in dataset.secretRef, and end the uri before the ?."
        )
    if job.storage is None and spec.output is not None and spec.output.uri.startswith("hf://"):
        yield (
            "Checkpoints stay in the pod's own volume, because hf:// keeps every version of a file for ever: a run "
            "whose pod is lost begins at step 0 again. Set backend.job.storage to keep them."
        )
    multi = spec.recipe.multi_image_editing
    if multi is not None and multi.samples is None:
        yield (
            "No samples are made: the documented default of recipe.multiImageEditing.samples has its images at the "
            "provider's hub, and is not applied with backend job. Set samples to see what the model learns."
        )
