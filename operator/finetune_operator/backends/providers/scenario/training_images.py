"""What a Scenario model learns from: pictures and recordings, captioned or in pairs."""

from __future__ import annotations

import base64
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.prepare import Example, Media
from finetune_operator.backends.errors import Gone, Rejected, Retired, Transient
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.json_values import identifier, objects
from finetune_operator.backends.providers.scenario.requests import image_name, model_path, query, stem
from finetune_operator.backends.providers.scenario.responses import NoRoute, member
from finetune_operator.backends.providers.scenario.uploads import upload
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.files import file_digest

Body = dict[str, Any]

INLINE_BYTES: Final = 3 * 2**20
"""Larger pictures are uploaded in parts: a gateway bounds the size of a request."""


class Attaching:
    """What a model learns from. Every step looks at what is there first: it may be the second attempt."""

    def __init__(self, run: UpstreamRun, context: CallContext, model: Body) -> None:
        self._run, self._context, self._path = run, context, f"{model_path(run)}/training-images"
        images = [image for image in objects(model.get("trainingImages")) if identifier(image.get("id"))]
        self._there = {stem(str(image.get("name"))): image for image in images}
        self._pairs = model.get("trainingImagePairs")
        self.remark: str | None = None

    async def attach(self, found: list[Example]) -> None:
        """All of them, in order, with captions or as pairs."""
        pairs = []
        for index, example in enumerate(found):
            if example.source is None:
                image = await self._image(2 * index, example.media, example.where)
                await self._caption(image, example.caption)
                continue
            source = await self._image(2 * index, example.source, example.where)
            target = await self._image(2 * index + 1, example.media, example.where)
            pairs.append({"sourceId": str(source["id"]), "targetId": str(target["id"]), "instruction": example.caption})
        if pairs and pairs != self._pairs:
            await self._context.api.call(
                "PUT", f"{self._path}/pairs", params=query(self._run), json=pairs, repeatable=True
            )

    async def _image(self, index: int, media: Media, where: str) -> Body:
        name = image_name(index, await file_digest(media.path), media.suffix)
        if stem(name) in self._there:
            return self._there[stem(name)]
        try:
            body = await self._body(name, media)
            answer = await self._context.api.call(
                "POST", self._path, params=query(self._run), json=body, repeatable=True
            )
        except Rejected as error:
            raise Rejected(f"{where}: {error.message}", status=error.status) from None
        image = member(answer, "trainingImage")
        if identifier(image.get("id")) is None:
            raise Transient("Scenario names no id of the picture", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
        return image

    async def _body(self, name: str, media: Media) -> Body:
        if media.media_type.startswith("image/") and media.size <= INLINE_BYTES:
            data = base64.b64encode(media.path.read_bytes()).decode()
            return {"data": f"data:{media.media_type};base64,{data}", "name": name}
        return {"assetId": await upload(self._run, self._context, name, media)}

    async def _caption(self, image: Body, caption: str) -> None:
        """Captions are the asset's description; a field of the attaching call is ignored.

        A service without that endpoint captions the pictures itself: that is said, and does not end the run.
        """
        if not caption or image.get("description") == caption or self.remark:
            return
        path = f"/assets/{quote(str(image['id']), safe='')}"
        try:
            await self._context.api.call(
                "PUT", path, params=query(self._run), json={"description": caption}, repeatable=True
            )
        except (Gone, Retired, NoRoute) as error:
            self.remark = f"The captions were not taken; Scenario's own are used: {error.message}"
