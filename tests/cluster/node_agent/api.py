"""The agent's calls to the API server. Objects are plain JSON, so that fields newer than any client library survive."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from kubernetes import client, config

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
_WATCH_SECONDS = 120


class ApiError(Exception):
    """The API server refused a call, or could not be reached (`code` 0). The text holds its own message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def temporary(self) -> bool:
        """Whether the same call may succeed later."""
        return self.code in (0, 429) or self.code >= 500


class KubeApi:
    """A thread-safe client of one API server, configured by a kubeconfig."""

    def __init__(self, kubeconfig: Path, timeout: float = 15.0) -> None:
        settings = client.Configuration()
        config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
        headers = {"Accept": "application/json", "User-Agent": "finetune-node-agent"}
        if token := settings.api_key.get("authorization"):
            headers["Authorization"] = token
        self.host: str = settings.host
        self._ca_file: str | None = settings.ssl_ca_cert
        self._http = httpx.Client(
            base_url=settings.host,
            headers=headers,
            verify=_ssl_context(settings),
            timeout=timeout,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
            trust_env=False,
        )

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One call; returns the decoded body. Raises ApiError."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if content is not None else {}
        try:
            response = self._http.request(method, path, content=content, headers=headers, params=params)
        except httpx.TransportError as error:
            raise ApiError(0, f"{method} {path}: {error or type(error).__name__}") from error
        if response.is_error:
            raise ApiError(response.status_code, _message(response.content))
        return response.json()  # type: ignore[no-any-return]

    def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Reads an object. Raises ApiError."""
        return self.request("GET", path, params=params)

    def find(self, path: str) -> dict[str, Any] | None:
        """Reads an object; None if it does not exist. Raises ApiError for anything else."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def watch(self, path: str, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """The events of one watch call, until the server ends it. Raises ApiError (410: list again)."""
        query = {**params, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH_SECONDS)}
        silence = httpx.Timeout(15.0, read=_WATCH_SECONDS + 30.0)
        try:
            with self._http.stream("GET", path, params=query, timeout=silence) as response:
                if response.is_error:
                    raise ApiError(response.status_code, _message(response.read()))
                for line in response.iter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(int(event["object"].get("code", 500)), str(event["object"].get("message", "")))
                    yield event
        except httpx.TransportError as error:
            raise ApiError(0, f"watch {path}: {error or type(error).__name__}") from error

    def data(self, resource: str, namespace: str, name: str) -> dict[str, bytes] | None:
        """The contents of a Secret (`secrets`) or ConfigMap (`configmaps`); None if there is none. Raises ApiError."""
        found = self.find(f"/api/v1/namespaces/{namespace}/{resource}/{name}")
        if found is None:
            return None
        values = found.get("data") or {}
        if resource == "secrets":
            return {key: base64.b64decode(value) for key, value in values.items()}
        binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
        return {key: value.encode() for key, value in values.items()} | binary

    def close(self) -> None:
        self._http.close()


def _ssl_context(settings: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if not settings.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content[:500].decode(errors="replace")
