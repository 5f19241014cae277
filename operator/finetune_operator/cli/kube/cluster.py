"""Every call that the command line makes to an API server, by the kubernetes package.

That package takes half a second to import, so it is imported when a connection is made.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from finetune_operator.api.objects import Object
from finetune_operator.cli.errors import CommandError, UsageError
from finetune_operator.cli.options import Target
from finetune_operator.kube.config import SERVICE_ACCOUNT_NAMESPACE
from finetune_operator.kube.errors import ApiError, Unreachable, from_answer

if TYPE_CHECKING:
    from kubernetes.client import Configuration

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 60.0
PAGE: Final = 500
FIELD_MANAGER: Final = "kubectl-finetune"
NO_NAMESPACE: Final = re.compile(r'namespaces "([^"]+)" not found')


class Cluster:
    """One API server. Methods raise the errors of `kube.errors`."""

    def __init__(self, configuration: Configuration, namespace: str) -> None:
        from kubernetes.client.api_client import ApiClient

        # A refused connection is said at once: without this, three retries log themselves to stderr first.
        configuration.retries = False
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self.namespace = namespace
        self.server = configuration.host

    def get(self, path: str, **query: str) -> Object:
        """One object, or one page of a list."""
        return self._object("GET", path, query)

    def items(self, path: str, **query: str) -> list[Object]:
        """All items, page by page."""
        items: list[Object] = []
        following = ""
        while True:
            more = {"continue": following} if following else {}
            page = self.get(path, limit=str(PAGE), **query, **more)
            kind, version = str(page.get("kind", "")).removesuffix("List"), page.get("apiVersion")
            # Items of a list carry neither: -o yaml has to show both.
            items += [{"apiVersion": version, "kind": kind, **item} for item in page.get("items") or ()]
            following = (page.get("metadata") or {}).get("continue") or ""
            if not following:
                return items

    def create(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """As stored. Unknown fields are refused."""
        query = {"fieldValidation": "Strict", "fieldManager": FIELD_MANAGER}
        return self._object("POST", path, query | ({"dryRun": "All"} if dry_run else {}), dict(body))

    def patch(self, path: str, operations: list[Object]) -> Object:
        """A JSON patch; Invalid where one of its tests fails."""
        query = {"fieldValidation": "Strict", "fieldManager": FIELD_MANAGER}
        return self._object("PATCH", path, query, operations, "application/json-patch+json")

    def delete(self, path: str) -> None:
        """What is gone already is no error."""
        from finetune_operator.kube.errors import NotFound

        with suppress(NotFound):
            self._object("DELETE", path, {}, {"gracePeriodSeconds": 0})

    def lines(self, path: str, **query: str) -> Iterator[str]:
        """A stream of text line by line, for as long as the server sends."""
        with self._answer("GET", path, query, read_seconds=None) as answer:
            rest = b""
            for chunk in answer.response.stream(65_536):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
            if rest:
                yield rest.decode("utf-8", "replace")

    def execute(self, namespace: str, pod: str, command: list[str]) -> Iterator[bytes]:
        """What a command in a pod writes to stdout. Raises ApiError where it cannot run or does not end well."""
        from kubernetes.stream.ws_client import V4_CHANNEL_PROTOCOL, create_websocket
        from websocket import ABNF, WebSocketBadStatusException, WebSocketException

        query = urlencode([("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)])
        url = f"{self.server}/api/v1/namespaces/{namespace}/pods/{pod}/exec?{query}".replace("http", "ws", 1)
        headers = {**self._authorization(), "sec-websocket-protocol": V4_CHANNEL_PROTOCOL}
        try:
            socket = create_websocket(self._configuration, url, headers)
        except WebSocketBadStatusException as error:
            body = getattr(error, "resp_body", None) or b""
            raise from_answer(error.status_code, _json(body) or body.decode("utf-8", "replace"), None) from None
        except (WebSocketException, OSError) as error:
            raise Unreachable(f"{self.server}: {error}") from None
        said = b""
        try:
            while True:
                operation, data = socket.recv_data()
                if operation == ABNF.OPCODE_CLOSE:
                    raise Unreachable("the connection to the pod broke off")
                channel, payload = data[:1], data[1:]
                if channel == b"\x01":
                    yield payload
                elif channel == b"\x02":
                    said = (said + payload)[-1000:]
                elif channel == b"\x03":
                    _check_ending(payload, said)
                    return
        except (WebSocketException, OSError) as error:
            raise Unreachable(f"the connection to the pod broke off: {error}") from None
        finally:
            socket.close()

    def _object(
        self, method: str, path: str, query: Mapping[str, str], body: Any = None, kind: str | None = None
    ) -> Object:
        with self._answer(method, path, query, body, kind) as answer:
            found = _json(answer.read())
        if not isinstance(found, dict):
            raise Unreachable(f"{self.server}{path} gives no object: is it a Kubernetes API server?")
        return found

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any = None,
        kind: str | None = None,
        read_seconds: float | None = READ_SECONDS,
    ) -> Iterator[Any]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        url = f"{self.server}{path}{f'?{urlencode(query)}' if query else ''}"
        headers = {"Accept": "application/json, */*", **self._authorization()}
        if body is not None:
            headers["Content-Type"] = kind or "application/json"
        try:
            answer = self._client.call_api(method, url, headers, body, _request_timeout=(CONNECT_SECONDS, read_seconds))
            try:
                if answer.status >= 300:
                    said = answer.read()
                    text = _json(said) or said.decode("utf-8", "replace")
                    raise from_answer(answer.status, text, answer.headers.get("Retry-After"))
                yield answer
            finally:
                answer.response.close()
        except (HTTPError, ApiException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"{self.server}: {' '.join(str(reason).split())}") from None

    def _authorization(self) -> dict[str, str]:
        value = self._configuration.get_api_key_with_prefix("authorization")
        return {"authorization": value} if value else {}


def connect(target: Target) -> Cluster:
    """The cluster that kubectl would talk to. Raises UsageError where there is none."""
    from kubernetes import client, config

    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    configuration = client.Configuration()
    try:
        config.load_kube_config(target.kubeconfig, target.context, configuration)
        namespace = _namespace_of_context(target)
    except (config.ConfigException, OSError) as error:
        if target.kubeconfig or target.context or not SERVICE_ACCOUNT_NAMESPACE.exists():
            raise UsageError(
                f"no cluster to talk to: {error}", "Give --kubeconfig FILE and --context NAME, or set KUBECONFIG."
            ) from None
        config.load_incluster_config(configuration)
        namespace = SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
    return Cluster(configuration, target.namespace or namespace or "default")


def _namespace_of_context(target: Target) -> str:
    from kubernetes import config

    contexts, current = config.list_kube_config_contexts(target.kubeconfig)
    chosen = next((each for each in contexts if each["name"] == target.context), current)
    return str((chosen or {}).get("context", {}).get("namespace") or "default")


def is_no_resource(error: ApiError) -> bool:
    """Whether the API server does not know the kind: for an object that is missing it gives a Status with a reason."""
    return error.status == 404 and error.reason != "NotFound"


def explained(error: ApiError) -> CommandError:
    """An answer of the API server that a command did not expect."""
    if isinstance(error, Unreachable):
        return CommandError(
            error.message, "The API server does not answer: try `kubectl get nodes`, then --context or --kubeconfig."
        )
    if error.status == 401:
        return CommandError("the API server does not know you", "Log in again, or choose another --context.")
    if error.status == 403:
        return CommandError(error.message, "Ask for that permission; `kubectl finetune doctor` lists what is needed.")
    if is_no_resource(error):
        return CommandError(
            "this cluster has no FineTune resource", "Install the operator's chart, then `kubectl finetune doctor`."
        )
    if missing := NO_NAMESPACE.fullmatch(error.message):
        return CommandError(
            f"there is no namespace {missing[1]}",
            f"Make it: kubectl create namespace {missing[1]}; or name another one: -n.",
        )
    if error.status in (400, 422):
        return UsageError(error.message, "Nothing was changed. The fields: `kubectl explain finetune.spec`.")
    return CommandError(error.message or str(error), "Try again; if it stays so: `kubectl finetune doctor`.")


def _check_ending(payload: bytes, said: bytes) -> None:
    ending = _json(payload)
    if not isinstance(ending, dict) or ending.get("status") != "Success":
        words = said.decode("utf-8", "replace").strip()
        message = ending.get("message") if isinstance(ending, dict) else payload.decode("utf-8", "replace")
        raise ApiError(0, "CommandFailed", words or str(message))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
