"""What the HTTP client puts on the wire, byte for byte, and what it makes of connections that break."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType

import pytest

from finetune_operator.backends.errors import Ambiguous, Refused, Transient
from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_operator.backends.http.auth import HeaderAuth
from finetune_operator.backends.http.client import Client, Content, Form

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def fine(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def gone(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 smtp.example.com ESMTP\r\n\r\n")


async def cut_short(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\nthe beginning")
    await writer.drain()
    writer.close()


@dataclass(slots=True)
class Wire:
    """A server that keeps what it reads. `respond`: to every request."""

    respond: Respond = fine
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        """The second word of each request."""
        return [head.split(" ", 2)[1] for head in self.heads]

    def headers(self) -> dict[str, str]:
        """Of the last request."""
        lines = self.heads[-1].strip().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                self.bodies.append(await self._body(reader))
                await self.respond(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _body(self, reader: asyncio.StreamReader) -> bytes:
        if self.headers().get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(self.headers().get("content-length", "0")))
        whole = b""
        while size := int(await reader.readline(), 16):
            whole += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return whole


class Serving:
    """`async with`: a wire and a client that may reach it."""

    def __init__(self, respond: Respond = fine) -> None:
        self._wire = Wire(respond)

    async def __aenter__(self) -> tuple[Wire, Client]:
        self._server = await asyncio.start_server(self._wire.serve, "127.0.0.1", 0)
        self._wire.port = self._server.sockets[0].getsockname()[1]
        self._client = Client(AddressGuard(hosts=["127.0.0.1"]))
        return self._wire, self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
        self._server.close()


async def send(client: Client, url: str, method: str = "GET", content: Content | None = None, **more: object) -> bytes:
    """The body of the answer."""
    async with client.request(method, url, "Provider", content=content, **more) as streamed:  # type: ignore[arg-type]
        return b"".join([chunk async for chunk in streamed.chunks(1 << 20)])


@pytest.mark.parametrize(
    "target",
    [
        "/b/k?X-Amz-Credential=AK%2F2026%2Feu%2Fs3%2Faws4_request&X-Amz-Signature=0a%3D&x=a+b%20c",
        "/b/a%2Fb%2fc%20d%7Ee~f?q=%c3%bc&empty=&flag&twice=1&twice=2",
        "/b/a/../c/./d//e?path=/../x",
        "/b/%2E%2E/%2e/x?a=%",
        "/b/'()*!$,;:@[]?q='()*!$,;:@[]/?",
        "/?",
    ],
)
async def test_a_presigned_url_reaches_the_wire_to_the_letter(target: str) -> None:
    async with Serving() as (wire, client):
        await send(client, wire.url + target)
        await send(client, wire.url + target, "PUT", b"weights", fresh=True)
    assert wire.targets == [target.removesuffix("?") if target == "/?" else target] * 2


async def test_what_no_url_may_hold_is_escaped_and_parameters_are_added() -> None:
    async with Serving() as (wire, client):
        await send(client, f'{wire.url}/ü {{a}}|"<>?q=ö')
        await send(client, f"{wire.url}/x?a=%2F", params={"b": "c/d e"})
        await send(client, wire.url)
    assert wire.targets == ["/%C3%BC%20%7Ba%7D%7C%22%3C%3E?q=%C3%B6", "/x?a=%2F&b=c%2Fd%20e", "/"]


async def test_a_request_says_no_more_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def with_a_cookie(writer: asyncio.StreamWriter) -> None:
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: session=1; Path=/\r\n\r\n"))

    async with Serving(with_a_cookie) as (wire, client):
        for _ in range(2):
            await send(client, f"{wire.url}/x", headers={"X-Own": "1"}, auth=HeaderAuth({"Authorization": "Bearer k"}))
        headers = wire.headers()
    assert headers.pop("user-agent") == "finetune-operator"
    assert headers == {
        "host": f"127.0.0.1:{wire.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "authorization": "Bearer k",
        "x-own": "1",
    }
    assert wire.connections == 1
    assert not list(client._kept.cookies.jar)


async def test_bodies_have_a_length_where_it_is_known() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with Serving() as (wire, client):
        await send(client, wire.url, "PUT", bytes(3 << 20))
        assert (wire.headers()["content-length"], len(wire.bodies[-1])) == (str(3 << 20), 3 << 20)
        await send(client, wire.url, "PUT", pieces(), headers={"Content-Length": "6"})
        assert (wire.headers()["content-length"], wire.bodies[-1]) == ("6", b"onetwo")
        assert "transfer-encoding" not in wire.headers()
        await send(client, wire.url, "PUT", pieces())
        assert wire.bodies[-1] == b"onetwo"
        form = Form(fields={"message": "m"}, file_field="files[]", filename="tä b.csv", file=io.BytesIO(b"a,b"))
        await send(client, wire.url, "PUT", form)
        assert wire.headers()["content-type"].startswith("multipart/form-data; boundary=")
        assert 'name="files[]"; filename="tä b.csv"'.encode() in wire.bodies[-1]
        assert b"a,b" in wire.bodies[-1]
        await send(client, wire.url, "POST")
        assert wire.headers()["content-length"] == "0"
        assert "content-type" not in wire.headers()


@pytest.mark.parametrize("respond", [gone, reset, no_http])
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@pytest.mark.parametrize("fresh", [False, True])
async def test_a_lost_answer_is_ambiguous_and_asked_for_once(respond: Respond, method: str, fresh: bool) -> None:
    async with Serving() as (wire, client):
        await send(client, wire.url)  # leaves a connection behind, on which others would try again
        wire.respond = respond
        with pytest.raises(Ambiguous, match="did not answer"):
            await send(client, wire.url, method, fresh=fresh)
    assert len(wire.heads) == 2
    assert wire.connections == 1 + fresh


async def test_a_server_that_keeps_silent_is_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_: asyncio.StreamWriter) -> None: ...

    async with Serving(silent) as (wire, client):
        for each in (client._kept, client._fresh):
            each.timeout = 0.2
        for fresh in (False, True):
            with pytest.raises(Ambiguous, match="ReadTimeout"):
                await send(client, wire.url, "POST", b"{}", fresh=fresh)


async def test_what_was_not_sent_is_transient() -> None:
    async with Serving() as (wire, client):
        unused = wire.url
    client = Client(AddressGuard(hosts=["127.0.0.1", "nowhere.invalid"]), resolve=_none)
    try:
        with pytest.raises(Transient, match="ConnectError"):
            await send(client, unused, "POST", b"{}", fresh=True)
        with pytest.raises(Transient, match="ConnectError"):
            await send(client, "http://nowhere.invalid/x", "POST", b"{}", fresh=True)
    finally:
        await client.close()


async def test_a_name_that_is_not_resolved_in_time_was_not_sent_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("finetune_operator.backends.http.connections.CONNECT_SECONDS", 0.1)
    client = Client(AddressGuard(hosts=["nowhere.invalid"]), resolve=never)
    try:
        with pytest.raises(Transient, match="cannot be reached"):
            await send(client, "http://nowhere.invalid/x", "POST", b"{}", fresh=True)
    finally:
        await client.close()


async def test_an_answer_that_breaks_off_is_transient() -> None:
    async with Serving(cut_short) as (wire, client):
        with pytest.raises(Transient, match=r"broke off \(ReadError\)"):
            await send(client, wire.url)


@pytest.mark.parametrize("location", ["http://[", "//", "http://127.0.0.1:x/", "\t", "http://10.0.0.7/x"])
async def test_a_redirect_is_shown_wherever_it_leads(location: str) -> None:
    async def redirect(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    async with Serving(redirect) as (wire, client), client.request("GET", wire.url, "Provider") as streamed:
        assert streamed.status == 302
        assert streamed.headers["location"] == location.strip()
    assert len(wire.heads) == 1


@pytest.mark.parametrize("url", ["http://[/", "http://127.0.0.1:port/", "ftp://127.0.0.1/x"])
async def test_what_is_no_url_is_refused(url: str) -> None:
    client = Client(AddressGuard(hosts=["127.0.0.1"]))
    try:
        with pytest.raises(Refused, match="not a valid URL"):
            await send(client, url)
    finally:
        await client.close()


async def test_no_url_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "httpx")
    async with Serving() as (wire, client):
        await send(client, f"{wire.url}/x?X-Amz-Signature=secret")
    assert "secret" not in caplog.text


async def _none(_host: str, _port: int) -> list[str]:
    return []
