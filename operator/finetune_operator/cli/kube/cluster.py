"""Every call that the command line makes to an API server, with the credentials that kubectl would send.

By urllib3, which the kubernetes package brings; it is imported when a call is made.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlencode, urlsplit

from finetune_operator import __version__
from finetune_operator.api.depth import below
from finetune_operator.api.objects import Object
from finetune_operator.cli.errors import CommandError, UsageError
from finetune_operator.cli.kube.exec_stream import opened, output, parsed
from finetune_operator.cli.options import Target
from finetune_operator.cli.output.printing import SHOWN_LEVELS
from finetune_operator.kube.config import Access, load_for_person
from finetune_operator.kube.credential import Credential
from finetune_operator.kube.errors import (
    ApiError,
    NoCluster,
    NoCredentials,
    NotFound,
    Unauthorized,
    Unreachable,
    from_answer,
)

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

T = TypeVar("T")

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 60.0
PAGE: Final = 500
FIELD_MANAGER: Final = "kubectl-finetune"
AGENT: Final = f"{FIELD_MANAGER}/{__version__}"
CONNECTIONS: Final = 4
"""As many as `doctor` asks at a time."""
NO_NAMESPACE: Final = re.compile(r'namespaces "([^"]+)" not found')


class Cluster:
    """One API server. Methods raise the errors of `kube.errors`."""

    def __init__(self, access: Access, namespace: str) -> None:
        self._access = access
        self._pools: dict[tuple[str, str] | None, PoolManager] = {}
        self.namespace = namespace
        self.server = access.server

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
        """What is gone already is not an error."""
        with suppress(NotFound):
            self._object("DELETE", path, {}, {"gracePeriodSeconds": 0})

    def lines(self, path: str, **query: str) -> Iterator[str]:
        """A stream of text line by line, for as long as the server sends."""
        with self._answer("GET", path, query, read_seconds=None) as answer:
            rest = b""
            for chunk in answer.stream(65_536):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
            if rest:
                yield rest.decode("utf-8", "replace")

    def execute(self, namespace: str, pod: str, command: list[str]) -> Iterator[bytes]:
        """What a command in a pod writes to stdout. Raises ApiError where it cannot run or does not end well."""
        query = urlencode([("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)])
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec?{query}"
        yield from output(self._known(lambda credential: opened(self._access, credential, path)))

    def _object(
        self, method: str, path: str, query: Mapping[str, str], body: Any = None, kind: str | None = None
    ) -> Object:
        with self._answer(method, path, query, body, kind) as answer:
            found = parsed(answer.data)
        if not isinstance(found, dict):
            raise Unreachable(f"{self.server}{path} gives no object: is it a Kubernetes API server?")
        for each in found.get("items") or [found]:
            for inner in below(each, SHOWN_LEVELS):
                inner.clear()
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
    ) -> Iterator[BaseHTTPResponse]:
        from urllib3 import HTTPHeaderDict, Timeout
        from urllib3.exceptions import HTTPError

        url = f"{self.server}{path}{f'?{urlencode(query)}' if query else ''}"
        sent = json.dumps(body).encode() if body is not None else None
        kinds = {"Content-Type": kind or "application/json"} if body is not None else {}
        timeout = Timeout(connect=CONNECT_SECONDS, read=read_seconds)

        def ask(credential: Credential) -> BaseHTTPResponse:
            headers = HTTPHeaderDict({"Accept": "application/json, */*", "User-Agent": AGENT}, **kinds)
            for name, value in self._access.headers(credential):
                headers.add(name, value)
            answer = self._pool(credential).request(
                method, url, body=sent, headers=headers, timeout=timeout, preload_content=False, redirect=False
            )
            if answer.status >= 300:
                said = answer.data
                text = parsed(said) or said.decode("utf-8", "replace")
                raise from_answer(answer.status, text, answer.headers.get("Retry-After"))
            return answer

        try:
            answer = self._known(ask)
            try:
                yield answer
            finally:
                answer.close()
        except (HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"{self.server}: {' '.join(str(reason).split())}") from None

    def _known(self, ask: Callable[[Credential], T]) -> T:
        """Once more with other credentials, where those that were sent are not taken (any more)."""
        source = self._access.source
        credential = source.current()
        try:
            try:
                return ask(credential)
            except Unauthorized:
                if not source.refuse(credential):
                    raise
            return ask(source.current())
        except Unauthorized as error:
            words = f"the API server does not know you; it was sent {self._access.how}"
            raise Unauthorized(error.status, error.reason, words) from None

    def _pool(self, credential: Credential) -> PoolManager:
        """Its connections carry the certificate of the exec plugin, where it gives one."""
        if credential.pair not in self._pools:
            self._pools[credential.pair] = _pool(self._access, credential)
        return self._pools[credential.pair]


def connect(target: Target) -> Cluster:
    """The cluster that kubectl would talk to. Raises UsageError where there is none."""
    try:
        access = load_for_person(target.kubeconfig, target.context)
        access.ssl_context()
    except NoCluster as error:
        raise UsageError(
            f"no cluster to talk to: {error}", "Give --kubeconfig FILE and --context NAME, or set KUBECONFIG."
        ) from None
    return Cluster(access, target.namespace or access.namespace)


def _pool(access: Access, credential: Credential) -> PoolManager:
    import urllib3

    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    if not access.trust.verify:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    # A refused connection is said at once: without this, three retries log themselves to stderr first.
    options: Object = {"ssl_context": access.ssl_context(credential), "retries": False, "maxsize": CONNECTIONS}
    if access.proxy is None:
        return urllib3.PoolManager(**options)
    parts = urlsplit(access.proxy)
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    return urllib3.ProxyManager(access.proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=login), **options)


def is_no_resource(error: ApiError) -> bool:
    """Whether the API server does not know the kind: for an object that is missing it gives a Status with a reason."""
    return error.status == 404 and error.reason != "NotFound"


def explained(error: ApiError) -> CommandError:
    """An answer of the API server that a command did not expect."""
    if isinstance(error, Unreachable):
        return CommandError(
            error.message, "The API server does not answer: try `kubectl get nodes`, then --context or --kubeconfig."
        )
    if isinstance(error, NoCredentials):
        return CommandError(error.message, error.hint or "Log in as for kubectl: `kubectl get nodes` needs the same.")
    if error.status == 401:
        return CommandError(error.message, "Log in again, or choose another --context.")
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
