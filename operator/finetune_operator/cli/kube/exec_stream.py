"""A command in a pod over a WebSocket: what it writes, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from finetune_operator.kube.config import Access
from finetune_operator.kube.credential import Credential
from finetune_operator.kube.documents import parse
from finetune_operator.kube.errors import ApiError, Unreachable, from_answer

if TYPE_CHECKING:
    from websocket import WebSocket

PROTOCOL: Final = "v4.channel.k8s.io"


def opened(access: Access, credential: Credential, path: str) -> WebSocket:
    """The command is under way. Raises ApiError where it cannot run."""
    from websocket import WebSocketBadStatusException, WebSocketException, create_connection

    url = f"{access.server}{path}".replace("http", "ws", 1)
    try:
        return create_connection(
            url,
            header=[f"{name}: {value}" for name, value in access.headers(credential)],
            subprotocols=[PROTOCOL],
            suppress_origin=True,
            sslopt=_encryption(access, credential),
            **_way(access.proxy),
        )
    except WebSocketBadStatusException as error:
        body = getattr(error, "resp_body", None) or b""
        raise from_answer(error.status_code, parsed(body) or body.decode("utf-8", "replace"), None) from None
    except (WebSocketException, OSError) as error:
        raise Unreachable(f"{access.server}: {error}") from None


def output(socket: WebSocket) -> Iterator[bytes]:
    """What it writes to stdout. Raises ApiError where it does not end well."""
    from websocket import ABNF, WebSocketException

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


def parsed(body: bytes) -> Any:
    """Its JSON; None where it is none."""
    try:
        return parse(body)
    except ValueError:
        return None


def _encryption(access: Access, credential: Credential) -> dict[str, Any]:
    """The library changes the context that it is given, unless it is told what stands in it already."""
    context = access.ssl_context(credential)
    if context is None:
        return {}
    return {"context": context, "cert_reqs": context.verify_mode, "check_hostname": context.check_hostname}


def _way(proxy: str | None) -> dict[str, Any]:
    """Without a proxy of ours the library looks for one in the environment."""
    if proxy is None:
        return {"http_no_proxy": ["*"]}
    parts = urlsplit(proxy)
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return {"http_proxy_host": parts.hostname, "http_proxy_port": port, "http_proxy_auth": login, "http_no_proxy": []}


def _check_ending(payload: bytes, said: bytes) -> None:
    ending = parsed(payload)
    if not isinstance(ending, dict) or ending.get("status") != "Success":
        words = said.decode("utf-8", "replace").strip()
        message = ending.get("message") if isinstance(ending, dict) else payload.decode("utf-8", "replace")
        raise ApiError(0, "CommandFailed", words or str(message))
