"""Oxen.ai: the dataset goes into a repository, a fine-tune is created there (free) and then run (billed by GPU second).

Wire facts: OpenAPI 0.243.1 (fine-tunes) and server OpenAPI 0.52.0 (files). No name, tag or idempotency key travels in
a create, so that the marker is in the path of the uploaded dataset, which is echoed, and in the description.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.backends import Oxen
from finetune_operator.api.convert import to_oxen
from finetune_operator.api.reasons import Reason
from finetune_operator.backends import oxen_states
from finetune_operator.backends.answers import Answer, plain
from finetune_operator.backends.artifacts import Weights, deliver, from_api
from finetune_operator.backends.datasets.prepare import Original, originals
from finetune_operator.backends.failures import Ambiguous, Gone, Permanent, Rejected, UpstreamError
from finetune_operator.backends.keys import bearer
from finetune_operator.backends.marks import bears, marked
from finetune_operator.backends.oxen_states import FILES, Place
from finetune_operator.backends.protocol import Stage
from finetune_operator.backends.upstream import Fetched, Kit, Outcome, Sighting, Step, Traits, UpstreamRun

TRAITS: Final = Traits(
    name="oxen",
    title="Oxen",
    base_url="https://hub.oxen.ai",
    secret_keys=(("api-key",),),
    bills=Step.START,
    starts=True,
    equips=False,
    lookup_trusted=True,
    can_cancel=True,
    gives_weights=True,
)
BRANCH: Final = "main"
TABLES: Final = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
MEDIA: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".mp4", ".mov", ".webm")
PAGE_SIZE: Final = 100
MAX_PAGES: Final = 500
CHECKPOINTS_EVERY: Final = 4
"""Of so many polls of a running fine-tune one asks for its checkpoints (steps and losses) instead of its state."""
REMEMBERED: Final = 10_000
UPLOAD_SECONDS: Final = 1800.0
AUTHOR: Final = {"name": "finetune-operator", "email": "finetune-operator@users.noreply.github.com"}


def repository_path(backend: Oxen) -> str:
    """The repository's address below the base URL."""
    return f"/api/repos/{quote(backend.namespace, safe='')}/{quote(backend.repository, safe='')}"


def folder_of(run: UpstreamRun) -> str:
    """Where the run's dataset is uploaded to: a path that no other run has, which Oxen echoes."""
    return f"finetunes/{run.marker}"


def bears_marker(found: Mapping[str, Any], run: UpstreamRun) -> bool:
    """Whether a fine-tune from a list, or in full, is this run's."""
    path = oxen_states.resource_path(found.get("resource"))
    folder = f"{folder_of(run)}/"
    return folder in f"{path}/" or bears(found.get("description"), run.marker)


def shows_no_marker(found: Mapping[str, Any]) -> bool:
    """A list's items may lack what carries the marker: then the fine-tune itself must be asked."""
    return "resource" not in found and "description" not in found


class OxenUpstream:
    """Oxen behind the protocol of `upstream.py`. Remembers the last sightings of running fine-tunes."""

    traits = TRAITS

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], tuple[int, Sighting]] = OrderedDict()

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """A bearer token."""
        return bearer(credentials, "api-key")

    def explain(self, answer: Answer) -> UpstreamError | None:  # noqa: ARG002
        """Nothing beyond the general reading."""
        return None

    async def prepare(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Upload the dataset to the run's own folder, unless it is in the repository already."""
        assert run.spec is not None
        oxen = _backend(run)
        home = f"oxen://{oxen.namespace}/{oxen.repository}/"
        if run.spec.dataset.uri.startswith(home):
            return Outcome(resource=run.spec.dataset.uri.removeprefix(home))
        async with originals(run, kit) as files:
            tables = _tables(files)
            await self._ensure_repository(oxen, kit)
            for file in tables:
                await self._upload(file, run, kit)
        only = f"/{tables[0].name}" if len(tables) == 1 else ""
        return Outcome(resource=f"{BRANCH}/{folder_of(run)}{only}")

    async def _ensure_repository(self, oxen: Oxen, kit: Kit) -> None:
        body = {"namespace": oxen.namespace, "name": oxen.repository, "user": AUTHOR}
        try:
            await kit.api.call("POST", "/api/repos", json=body, repeatable=True)
        except Rejected as error:
            if error.status != 409:
                raise

    async def _upload(self, file: Original, run: UpstreamRun, kit: Kit) -> None:
        """What is there in the right size is left alone: a second commit of the same bytes is refused by some."""
        repository, target = repository_path(_backend(run)), PurePosixPath(folder_of(run), file.name)
        with suppress(Gone, Rejected):
            known = (await kit.api.get(f"{repository}/metadata/{quote(f'{BRANCH}/{target}')}")).body
            if oxen_states.size_of(known) == file.size:
                return
        with file.path.open("rb") as content:
            await kit.api.call(
                "PUT",
                f"{repository}/file/{quote(f'{BRANCH}/{target.parent}')}",
                files=[("files[]", (target.name, content, "application/octet-stream"))],
                data={**AUTHOR, "message": f"Add the dataset of FineTune {run.namespace}/{run.name}, run {run.run}"},
                repeatable=True,
                timeout=UPLOAD_SECONDS,
            )

    async def find(self, run: UpstreamRun, kit: Kit) -> Outcome | None:
        """By the marker, newest first. The server may cut pages short: only an empty one is the last."""
        base, seen = f"{repository_path(_backend(run))}/fine_tunes", set[str]()
        for page in range(1, MAX_PAGES + 1):
            params = {"page": str(page), "page_size": str(PAGE_SIZE), "sort": "newest"}
            listed = oxen_states.listed((await kit.api.get(base, params)).object())
            fresh = [each for each in listed if each["id"] not in seen]
            for each in fresh:
                seen.add(each["id"])
                if await self._is_it(each, run, kit):
                    return self._outcome(each["id"], run, kit)
            if not fresh:
                return None
        return None

    async def _is_it(self, listed: Mapping[str, Any], run: UpstreamRun, kit: Kit) -> bool:
        if not shows_no_marker(listed):
            return bears_marker(listed, run)
        if oxen_states.older_than(listed, run.intent_time):
            return False
        with suppress(Gone):
            return bears_marker(await self._get(listed["id"], run, kit), run)
        return False

    async def create(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """POST it; then, if that works, write the marker into its description."""
        base = f"{repository_path(_backend(run))}/fine_tunes"
        try:
            answer = await kit.api.call("POST", base, json=to_oxen(run.manifest(), resource=run.resource))
        except Gone as error:
            if error.status == 410:
                raise
            raise Rejected(
                f"there is no such repository, or no {run.resource} in it: {error.message}", status=error.status
            ) from None
        made = oxen_states.fine_tune(answer.object()).get("id")
        if not isinstance(made, str) or not made:
            raise Ambiguous("Oxen has taken the create and names no id", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
        with suppress(UpstreamError):
            words = {"description": marked(f"{run.namespace}/{run.name}", run.marker)}
            await kit.api.call("PATCH", f"{base}/{quote(made, safe='')}", json=words, repeatable=True)
        return self._outcome(made, run, kit)

    async def equip(self, run: UpstreamRun, kit: Kit) -> Outcome:  # noqa: ARG002
        """Nothing."""
        return Outcome()

    async def start(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Run it. Whether a refusal means that it runs already, only a look can tell."""
        assert run.id is not None
        try:
            answer = await kit.api.call("POST", f"{self._path(run)}/actions/run")
        except Rejected:
            sighting = oxen_states.sighting_of(await self._get(run.id, run, kit))
            if sighting.startable:
                raise
            return Outcome(stage=sighting.stage)
        found = oxen_states.fine_tune(answer.object())
        return Outcome(stage=plain(str(found["status"]))[:64] if "status" in found else None)

    async def poll(self, run: UpstreamRun, kit: Kit) -> Sighting:
        """One request, but at the end: the state, or now and then the checkpoints of what was seen running."""
        assert run.id is not None
        place = (kit.api.base_url + repository_path(_backend(run)), run.id)
        polls, before = self._seen.get(place, (0, None))
        if before is not None and before.state.stage is Stage.RUNNING and polls % CHECKPOINTS_EVERY == 1:
            sighting = oxen_states.with_checkpoints(before, await self._checkpoints(run, kit), run)
        else:
            sighting = oxen_states.sighting_of(await self._get(run.id, run, kit), run)
        if sighting.state.stage in (Stage.SUCCEEDED, Stage.FAILED):
            sighting = await self._at_the_end(sighting, run, kit)
        self._remember(place, polls + 1, sighting)
        return sighting

    def _remember(self, place: tuple[str, str], polls: int, sighting: Sighting) -> None:
        self._seen[place] = (polls, sighting)
        self._seen.move_to_end(place)
        if sighting.state.stage.terminal or len(self._seen) > REMEMBERED:
            self._seen.pop(place if sighting.state.stage.terminal else next(iter(self._seen)))

    async def _at_the_end(self, sighting: Sighting, run: UpstreamRun, kit: Kit) -> Sighting:
        """With the last checkpoint, and the last words of what failed; both are nice to have."""
        with suppress(UpstreamError):
            sighting = oxen_states.with_checkpoints(sighting, await self._checkpoints(run, kit), run)
        if sighting.state.stage is Stage.FAILED:
            with suppress(UpstreamError):
                logs = (await kit.api.get(f"{self._path(run)}/logs")).body
                sighting = oxen_states.with_logs(sighting, logs)
        return sighting

    async def _checkpoints(self, run: UpstreamRun, kit: Kit) -> Mapping[str, Any]:
        return (await kit.api.get(f"{self._path(run)}/checkpoints")).object()

    async def cancel(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """Stop what is queued or running."""
        assert run.id is not None
        try:
            await kit.api.call("POST", f"{self._path(run)}/actions/stop", repeatable=True)
        except Gone:
            return Outcome()
        except Rejected:
            sighting = oxen_states.sighting_of(await self._get(run.id, run, kit))
            if not sighting.state.stage.terminal and not sighting.startable:
                raise
        return Outcome()

    async def delete(self, run: UpstreamRun, kit: Kit) -> Outcome:
        """The fine-tune; its dataset stays in the repository."""
        with suppress(Gone):
            await kit.api.call("DELETE", self._path(run))
        return Outcome()

    async def fetch(self, run: UpstreamRun, kit: Kit) -> Fetched:
        """The files of the model's branch."""
        assert run.id is not None
        found = await self._get(run.id, run, kit)
        try:
            checkpoints: Mapping[str, Any] = await self._checkpoints(run, kit)
        except Gone:
            checkpoints = {}
        for place in oxen_states.places_of(found, checkpoints):
            if weights := await self._weights(place, run, kit):
                return await deliver(run, kit, weights)
        raise Permanent(
            f"Oxen says that {run.id} succeeded, and shows no weights", reason=Reason.UPSTREAM_WITHOUT_ARTIFACTS
        )

    async def _weights(self, place: Place, run: UpstreamRun, kit: Kit) -> list[Weights]:
        oxen = _backend(run)
        repository = repository_path(oxen)
        names = [place.path]
        if not place.path.endswith(FILES):
            try:
                listing = await kit.api.get(f"{repository}/dir/{quote(f'{place.branch}/{place.path}')}")
            except (Gone, Rejected):
                return []
            names = [f"{place.path}/{name}" for name in oxen_states.files_in(listing.body)]
        return [
            Weights(
                PurePosixPath(name).name,
                f"oxen://{oxen.namespace}/{oxen.repository}/{place.branch}/{name}",
                from_api(kit, f"{repository}/file/{quote(f'{place.branch}/{name}')}"),
            )
            for name in names
        ]

    async def _get(self, known: str, run: UpstreamRun, kit: Kit) -> dict[str, Any]:
        path = f"{repository_path(_backend(run))}/fine_tunes/{quote(known, safe='')}"
        return oxen_states.fine_tune((await kit.api.get(path)).object())

    def _path(self, run: UpstreamRun) -> str:
        return f"{repository_path(_backend(run))}/fine_tunes/{quote(run.id or '', safe='')}"

    def _outcome(self, known: str, run: UpstreamRun, kit: Kit) -> Outcome:
        oxen = _backend(run)
        return Outcome(id=known, url=f"{kit.api.base_url}/{oxen.namespace}/{oxen.repository}/fine-tunes/{known}")


def _backend(run: UpstreamRun) -> Oxen:
    assert isinstance(run.backend, Oxen)
    return run.backend


def _tables(files: list[Original]) -> list[Original]:
    """Oxen reads tables, and looks for pictures that they name from the root of the repository."""
    tables = [file for file in files if file.name.lower().endswith(TABLES)]
    if not tables:
        raise Permanent(
            "the dataset has no table (parquet, csv or jsonl), which Oxen needs", reason=Reason.DATA_VALIDATION_FAILED
        )
    if any(file.name.lower().endswith(MEDIA) for file in files):
        raise Permanent(
            "Oxen looks for pictures from the root of its repository, where other runs' pictures are: put them into "
            "the parquet file or name them by URL, or commit the dataset to Oxen yourself and use oxen://",
            reason=Reason.DATA_VALIDATION_FAILED,
        )
    return tables
