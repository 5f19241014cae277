"""A small Hugging Face hub: trees, files behind a redirect, and commits with Git LFS.

The tests hold it against the real `huggingface_hub` client before they hold the operator against it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from tests.upstream.web import Site

PAGE = 3
SMALL = 1000
"""Files from here on go through LFS."""
CHUNK = 5_000_000
"""LFS objects from here on go in parts."""


@dataclass
class Hub:
    """`site` is the hub; `storage` is where it redirects to: another origin, which must not see the token.

    `repositories`: "datasets/org/name" or "models/org/name" -> path -> bytes.
    """

    site: Site
    storage: Site
    token: str = "hf_secretToken123"
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    summaries: list[str] = field(default_factory=list)
    private: set[str] = field(default_factory=set)
    read_only: set[str] = field(default_factory=set)
    """The token may read these and no more."""

    def install(self) -> None:
        """Let the sites answer."""
        self.site.answer = self.answer  # type: ignore[method-assign]
        self.storage.answer = self.stored  # type: ignore[method-assign]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The hub itself."""
        self.site.requests.append((request.method, request.path_qs, dict(request.headers)))
        parts = unquote(request.raw_path.partition("?")[0]).strip("/").split("/")
        if parts[:2] == ["lfs", "complete"]:
            if "Authorization" in request.headers:
                return web.json_response({"error": "The address is signed already"}, status=400)
        elif request.method != "GET" and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "Invalid credentials in Authorization header"}, status=401)
        if parts[:2] == ["api", "repos"]:
            return await self._create(request)
        if parts[0] == "api" and len(parts) > 3:
            return await self._api(request, "/".join(parts[1:4]), (parts[4:] or ["revision"])[0], parts[6:])
        if request.path.endswith("/info/lfs/objects/batch"):
            return await self._batch(request)
        if parts[:1] == ["lfs"]:
            return await self._lfs(request, parts)
        at = parts.index("resolve") if "resolve" in parts else 0
        kind = "/".join(parts[:at]) if parts[0] == "datasets" else f"models/{'/'.join(parts[:at])}"
        files = self._readable(request, kind)
        path = "/".join(parts[at + 2 :])
        if files is None or path not in files:
            return _missing("Entry not found")
        digest = hashlib.sha256(files[path]).hexdigest()
        self.objects[digest] = files[path]
        headers = {
            "Location": self.storage.url(f"/{digest}?X-Amz-Signature=abc"),
            "X-Repo-Commit": self.commit_of(kind),
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(files[path])),
        }
        return web.Response(status=302, headers=headers)

    def commit_of(self, repository: str) -> str:
        """Changes with the content."""
        content = sorted(
            (path, hashlib.sha256(data).hexdigest()) for path, data in self.repositories[repository].items()
        )
        return hashlib.sha1(repr(content).encode()).hexdigest()

    def _readable(self, request: web.Request, repository: str) -> dict[str, bytes] | None:
        if repository in self.private and request.headers.get("Authorization") != f"Bearer {self.token}":
            return None
        return self.repositories.get(repository)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        assert asked["type"] == "model"
        made = f"models/{asked['organization']}/{asked['name']}"
        if made in self.repositories:
            return web.json_response({"error": "You already created this model repo"}, status=409)
        self.repositories[made] = {}
        if asked.get("visibility") == "private":
            self.private.add(made)
        return web.json_response({"url": self.site.url(f"/{asked['organization']}/{asked['name']}")})

    async def _api(self, request: web.Request, repository: str, call: str, rest: list[str]) -> web.StreamResponse:
        files = self._readable(request, repository)
        if files is None:
            return _missing("Repository not found")
        if call == "revision":
            return web.json_response(
                {"id": repository.partition("/")[2], "sha": self.commit_of(repository), "siblings": []}
            )
        if call == "auth-check":
            return self._auth_check(request, repository)
        if call == "tree":
            return self._tree(request, files, "/".join(rest))
        if call == "preupload":
            asked = await request.json()
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["size"] >= SMALL else "regular",
                    "shouldIgnore": False,
                }
                for each in asked["files"]
            ]
            return web.json_response({"files": modes})
        assert call == "commit"
        return await self._commit(request, files)

    def _tree(self, request: web.Request, files: dict[str, bytes], folder: str) -> web.StreamResponse:
        inside = [path for path in sorted(files) if not folder or path.startswith(f"{folder}/")]
        if folder and not inside:
            return _missing("Entry not found")
        start = int(request.query.get("cursor", 0))
        page: list[dict[str, Any]] = [
            {"type": "file", "path": path, "size": len(files[path]), "oid": hashlib.sha1(files[path]).hexdigest()}
            for path in inside[start : start + PAGE]
        ]
        headers = {}
        if start + PAGE < len(inside):
            following = request.url.update_query({"cursor": str(start + PAGE)})
            headers["Link"] = f'<{following}>; rel="next"'
        return web.json_response([{"type": "directory", "path": "folder", "oid": "0" * 40}, *page], headers=headers)

    def _auth_check(self, request: web.Request, repository: str) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "Invalid username or password."}, status=401)
        if repository in self.read_only:
            return web.json_response({"error": "You have read access but not the required permissions."}, status=403)
        return web.json_response({})

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        assert asked["operation"] == "upload"
        objects = [self._action(each["oid"], each["size"]) for each in asked["objects"]]
        return web.json_response({"transfer": "basic", "objects": objects})

    def _action(self, oid: str, size: int) -> dict[str, Any]:
        if oid in self.objects:
            return {"oid": oid, "size": size}
        if size < CHUNK:
            upload: dict[str, Any] = {"href": self.storage.url(f"/{oid}?sig=1")}
        else:
            count = -(-size // CHUNK)
            urls = {f"{number:05d}": self.storage.url(f"/{oid}/{number}?sig=1") for number in range(1, count + 1)}
            upload = {"href": self.site.url(f"/lfs/complete/{oid}"), "header": {"chunk_size": str(CHUNK), **urls}}
        verify = {"href": self.site.url("/lfs/verify"), "header": {}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    async def _lfs(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        asked = await request.json()
        if parts[1] == "complete":
            given = self.parts.pop(asked["oid"])
            assert [each["partNumber"] for each in asked["parts"]] == sorted(given)
            assert [each["etag"] for each in asked["parts"]] == [f'"{number}"' for number in sorted(given)]
            self.objects[asked["oid"]] = b"".join(given[number] for number in sorted(given))
            return web.json_response({})
        data = self.objects[asked["oid"]]
        assert len(data) == asked["size"]
        assert hashlib.sha256(data).hexdigest() == asked["oid"]
        return web.json_response({})

    async def _commit(self, request: web.Request, files: dict[str, bytes]) -> web.StreamResponse:
        lines = [json.loads(line) for line in (await request.read()).splitlines() if line]
        assert lines[0]["key"] == "header"
        self.summaries.append(lines[0]["value"]["summary"])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
                assert value["size"] == len(files[value["path"]])
            else:
                assert (line["key"], value["encoding"]) == ("file", "base64")
                files[value["path"]] = base64.b64decode(value["content"], validate=True)
        url = self.site.url("/org/name/commit/" + "0" * 40)
        return web.json_response({"success": True, "commitOid": "0" * 40, "commitUrl": url})

    async def stored(self, request: web.Request) -> web.StreamResponse:
        """The object storage behind it."""
        self.storage.requests.append((request.method, request.path_qs, dict(request.headers)))
        parts = request.path.strip("/").split("/")
        if request.method == "PUT":
            data = await request.read()
            if len(parts) == 1:
                self.objects[parts[0]] = data
                return web.Response()
            self.parts.setdefault(parts[0], {})[int(parts[1])] = data
            return web.Response(headers={"ETag": f'"{parts[1]}"'})
        return web.Response(body=self.objects[parts[0]], headers={"ETag": f'"{parts[0]}"'})


def _missing(words: str) -> web.Response:
    code = "RepoNotFound" if words.startswith("Repo") else "EntryNotFound"
    return web.json_response({"error": words}, status=404, headers={"X-Error-Code": code, "X-Error-Message": words})
