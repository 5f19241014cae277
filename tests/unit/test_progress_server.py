"""Every answer of the progress endpoint, over real TLS. Only the API server's TokenReview is a stand-in here."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from finetune_operator.api.names import PROGRESS_AUDIENCE
from finetune_operator.api.progress import MAX_BODY_BYTES
from finetune_operator.kube.errors import ServerError, Unreachable
from finetune_operator.progress.certificate import new_authority, self_signed
from finetune_operator.progress.identity import (
    POD_NAME,
    POD_UID,
    NotAPod,
    NotAuthenticated,
    PodTokens,
    pod_of,
)
from finetune_operator.progress.rate import Rate
from finetune_operator.progress.report import Report
from finetune_operator.progress.server import Receiver, Run, progress_path, serve

GOOD = json.dumps({"trainerStatus": {"progressPercentage": 42}}).encode()
PATH = progress_path("ml", "receipts", 2)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def token(name: str) -> str:
    return f"head.{name}.signature"


def review(
    account: str = "system:serviceaccount:ml:default", pod: str | None = "pod", **changes: Any
) -> dict[str, Any]:
    extra = {POD_NAME: [pod], POD_UID: [f"uid-{pod}"]} if pod else {}
    user = {"username": account, "extra": extra}
    return {"authenticated": True, "audiences": [PROGRESS_AUDIENCE], "user": user} | changes


REVIEWS = {
    token("own"): review(pod="own"),
    token("second"): review(pod="second"),
    token("third"): review(pod="third"),
    token("fourth"): review(pod="fourth"),
    token("neighbour"): review("system:serviceaccount:next:default", pod="neighbour"),
    token("sibling"): review(pod="sibling"),
    token("nobody"): review(pod="nobody"),
    token("lost"): review(pod="lost"),
    token("elsewhere"): review("system:serviceaccount:other:default", pod="own"),
    token("unbound"): review(pod=None),
    token("user"): review("kubernetes-admin", pod="own"),
    token("deaf"): review(audiences=[]),
    token("expired"): {"authenticated": False, "error": "expired"},
}
OWNERS = {
    **dict.fromkeys(("own", "second", "third", "fourth"), ("uid-1", 2)),
    "sibling": ("uid-1", 1),
    "neighbour": ("uid-2", 2),
}
NEIGHBOURS = progress_path("next", "receipts", 2)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for is in the middle of the server
            await asyncio.sleep(0.01)


class World:
    """What the endpoint is wired to, and a client for it."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.reviews = 0
        self.owners_asked = 0
        self.leading = True
        self.fault: Exception | None = None
        self.reports: list[tuple[tuple[str, str], str, int, Report]] = []
        self.codes: list[int] = []
        self.held: asyncio.Event | None = None
        self.port = 0
        self.session: aiohttp.ClientSession
        self.tokens = PodTokens(self, lambda: self.clock, capacity=100)
        self.receiver = Receiver(
            self.tokens,
            run_of=self.run_of,
            owner_of=self.owner_of,
            on_report=lambda *report: self.reports.append(report),
            leading=lambda: self.leading,
            clock=lambda: self.clock,
            now=lambda: NOW,
            count=self.codes.append,
            in_flight=5,
            share=3,
            body_timeout=0.5,
        )

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/apis/authentication.k8s.io/v1/tokenreviews"
        assert body["spec"]["audiences"] == [PROGRESS_AUDIENCE]
        self.reviews += 1
        if self.held:
            await self.held.wait()
        if self.fault:
            raise self.fault
        return {"status": REVIEWS.get(body["spec"]["token"], {"authenticated": False})}

    def run_of(self, namespace: str, name: str) -> Run | None:
        return {("ml", "receipts"): ("uid-1", 2), ("next", "receipts"): ("uid-2", 2)}.get((namespace, name))

    async def owner_of(self, namespace: str, pod: str, uid: str) -> Run | None:
        assert (namespace, uid) == ("next" if pod == "neighbour" else "ml", f"uid-{pod}")
        self.owners_asked += 1
        if pod == "lost":
            raise Unreachable("refused")
        return OWNERS.get(pod)

    async def post(
        self, body: Any = GOOD, *, name: str | None = "own", path: str = PATH, method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, Any], Any]:
        sent = {"Content-Type": "application/json"}
        if name:
            sent["Authorization"] = f"Bearer {token(name)}"
        sent |= {key.replace("_", "-"): value for key, value in headers.items()}
        async with self.session.request(method, path, data=body, headers=sent) as response:
            text = await response.text()
            answer = json.loads(text) if response.content_type == "application/json" else {}
            return response.status, answer, response.headers

    async def refused(self, status: int, *arguments: Any, **named: Any) -> dict[str, Any]:
        """The refusal, which must have changed nothing."""
        before = len(self.reports)
        code, answer, headers = await self.post(*arguments, **named)
        assert (code, answer.get("code"), answer.get("kind")) == (status, status, "Status"), answer
        assert len(self.reports) == before
        return {**answer, "headers": headers}


@pytest.fixture(scope="module")
def authority() -> Any:
    return new_authority(datetime.now(UTC))


@pytest.fixture
async def world(authority: Any) -> AsyncIterator[World]:
    certificate = self_signed(authority, ["localhost", "127.0.0.1"], lambda: datetime.now(UTC))
    world = World()
    trust = ssl.create_default_context(cadata=certificate.ca_pem)
    async with serve("127.0.0.1", 0, certificate.context, world.receiver) as port:
        world.port = port
        connector = aiohttp.TCPConnector(ssl=trust)
        async with aiohttp.ClientSession(f"https://localhost:{port}", connector=connector) as world.session:
            yield world


async def test_accepted(world: World) -> None:
    assert (await world.post())[:2] == (200, {})
    [(key, uid, run, report)] = world.reports
    assert (key, uid, run) == (("ml", "receipts"), "uid-1", 2)
    assert report.progress.percentage == 42
    assert report.progress.last_update_time == "2026-01-02T03:04:05Z"
    assert world.codes == [200]


@pytest.mark.parametrize("name", ["unknown", "expired", "deaf"])
async def test_401_for_a_token_that_is_not_valid(world: World, name: str) -> None:
    refusal = await world.refused(401, name=name)
    assert refusal["headers"]["WWW-Authenticate"] == "Bearer"
    assert world.reviews == 1


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Basic dTpw", "Bearer no-jwt", "Bearer a.b.c!"])
async def test_401_without_asking_the_api_server(world: World, authorization: str) -> None:
    await world.refused(401, name=None, Authorization=authorization)
    await world.refused(401, name=None)
    assert world.reviews == 0


@pytest.mark.parametrize("name", ["sibling", "nobody", "elsewhere", "unbound", "user"])
async def test_403_for_whoever_does_not_belong_to_the_run(world: World, name: str) -> None:
    await world.refused(403, name=name)


@pytest.mark.parametrize(
    "path",
    [
        progress_path("ml", "receipts", 1),
        progress_path("ml", "receipts", 3),
        progress_path("ml", "absent", 2),
        "/apis/trainer.kubeflow.org/v1alpha1/namespaces/ml/trainjobs/receipts-02/status",
        "/apis/trainer.kubeflow.org/v1alpha1/namespaces/ml/trainjobs/receipts/status",
        "/apis/trainer.kubeflow.org/v1alpha1/namespaces/ml/trainjobs/..%2Fx-2/status",
    ],
)
async def test_404_for_a_run_that_is_not(world: World, path: str) -> None:
    await world.refused(404, path=path)


async def test_another_namespace_is_not_told_what_exists(world: World) -> None:
    await world.refused(403, path=progress_path("other", "absent", 1))
    assert (await world.refused(403, name="elsewhere"))["message"] == (
        await world.refused(403, name="elsewhere", path=progress_path("ml", "absent", 1))
    )["message"]


async def test_other_paths_and_methods(world: World) -> None:
    assert (await world.post(path="/"))[0] == 404
    assert (await world.post(method="GET", body=None))[0] == 405
    assert (await world.post(method="PUT"))[0] == 405
    assert world.reports == []


async def test_413_by_the_header_and_by_the_bytes(world: World) -> None:
    large = b'{"trainerStatus": {}, "x": "' + b"x" * MAX_BODY_BYTES + b'"}'
    await world.refused(413, large)

    produced = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal produced
        while produced < 10_000_000:
            produced += 65_536
            yield b" " * 65_536

    try:
        await world.refused(413, endless())
    except aiohttp.ClientError:  # closed while still sending
        assert world.codes[-1] == 413
    just_fits = GOOD + b" " * (MAX_BODY_BYTES - len(GOOD))
    assert (await world.post(just_fits))[0] == 200


async def test_415(world: World) -> None:
    await world.refused(415, Content_Type="text/plain")
    await world.refused(415, gzip.compress(GOOD), Content_Encoding="gzip")


async def test_400_and_422(world: World) -> None:
    await world.refused(400, b"{")
    await world.refused(400, b"")
    answer = await world.refused(422, b'{"trainerStatus": {"progressPercentage": 101}}')
    assert "progressPercentage" in answer["message"]


async def test_429_after_the_burst_and_again_a_second_later(world: World) -> None:
    assert [(await world.post())[0] for _ in range(5)] == [200] * 5
    refusal = await world.refused(429)
    assert refusal["headers"]["Retry-After"] == "1"
    world.clock += 1.01
    assert (await world.post())[0] == 200
    await world.refused(429)
    assert len(world.reports) == 6


async def test_429_for_who_tries_tokens(world: World) -> None:
    codes = [(await world.post(name=f"guess-{index}"))[0] for index in range(30)]
    assert codes == [401] * 20 + [429] * 10
    assert world.reviews == 20


async def test_a_foreign_pod_cannot_make_the_operator_ask_without_end(world: World) -> None:
    codes = [(await world.post(name="nobody"))[0] for _ in range(10)]
    assert codes == [403] * 5 + [429] * 5
    assert world.owners_asked == 5
    assert world.reviews == 1


async def test_a_token_is_reviewed_once_a_minute_and_an_owner_once(world: World) -> None:
    for _ in range(4):
        await world.post()
        world.clock += 14.9
    assert world.reviews == 1
    world.clock += 0.5
    assert (await world.post())[0] == 200
    assert (world.reviews, world.owners_asked) == (2, 1)


async def test_memory_is_bounded(world: World) -> None:
    for index in range(150):
        REVIEWS[token(f"pod{index}")] = review(pod=f"pod{index}")
        await world.tokens.review(token(f"pod{index}"))
    assert len(world.tokens._known) == 100
    assert world.tokens.known(token("pod149")) is not None
    assert world.tokens.known(token("pod0")) is None
    rate = Rate(1, 1, lambda: world.clock, capacity=10)
    assert [rate.take(index) for index in range(50)] == [0.0] * 50
    assert len(rate._buckets) == 10


@pytest.mark.parametrize("fault", [Unreachable("refused"), ServerError(500, "x", "y", 7.0)])
async def test_503_while_the_api_server_does_not_answer(world: World, fault: Exception) -> None:
    world.fault = fault
    refusal = await world.refused(503)
    assert refusal["headers"]["Retry-After"] == ("7" if isinstance(fault, ServerError) else "5")
    assert "refused" not in refusal["message"]
    world.fault = None
    await world.refused(503, name="lost")
    assert (await world.post())[0] == 200


async def test_503_on_a_standby(world: World) -> None:
    world.leading = False
    await world.refused(503)
    assert world.reviews == 0


async def test_503_when_too_many_come_at_the_same_time(world: World) -> None:
    world.held = asyncio.Event()
    waiting = [asyncio.create_task(world.post(name=name)) for name in ("own", "second", "third")]
    await until(lambda: world.reviews == 3)
    await world.refused(503, name="fourth")
    world.held.set()
    assert [(await task)[0] for task in waiting] == [200] * 3
    assert (await world.post())[0] == 200, "the places are free again"


async def _slow(until_sent: asyncio.Event) -> AsyncIterator[bytes]:
    yield GOOD[:5]
    await until_sent.wait()
    yield GOOD[5:]


async def test_pods_with_slow_bodies_take_their_namespaces_share_and_no_other_one(world: World) -> None:
    sent = asyncio.Event()
    slow = [asyncio.create_task(world.post(_slow(sent), name=name)) for name in ("own", "second", "third")]
    await until(lambda: world.owners_asked == 3)
    refusal = await world.refused(503, name="fourth")
    assert "of this namespace" in refusal["message"]
    assert refusal["headers"]["Retry-After"] == "1"
    assert (await world.post(name="neighbour", path=NEIGHBOURS))[0] == 200
    sent.set()
    assert [(await task)[0] for task in slow] == [200] * 3
    assert (await world.post(name="fourth"))[0] == 200


async def test_a_pod_has_one_report_in_flight(world: World) -> None:
    sent = asyncio.Event()
    slow = asyncio.create_task(world.post(_slow(sent)))
    await until(lambda: world.owners_asked == 1)
    for _ in range(8):
        refusal = await world.refused(429)
        assert "still on its way" in refusal["message"]
        assert refusal["headers"]["Retry-After"] == "1"
    assert (await world.post(name="second"))[0] == 200
    sent.set()
    assert (await slow)[0] == 200
    assert (await world.post())[0] == 200


async def test_slow_bodies_are_given_up_and_their_places_are_free_again(world: World) -> None:
    never = asyncio.Event()
    slow = [asyncio.create_task(world.post(_slow(never), name=name)) for name in ("own", "second", "third")]
    await until(lambda: world.owners_asked == 3)
    await until(lambda: world.codes == [408] * 3)
    assert (await world.post(name="fourth"))[0] == 200
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_408_for_a_body_that_does_not_come(world: World) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    try:
        await world.refused(408, stalled())
    except aiohttp.ClientError:
        assert world.codes == [408]
    assert (await world.post())[0] == 200


async def test_a_client_that_goes_away_is_no_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=_blind())
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    writer.write(f"{head}Authorization: Bearer {token('own')}\r\n\r\n{{".encode())
    await writer.drain()
    await until(lambda: world.owners_asked == 1)
    writer.transport.abort()
    await until(lambda: world.receiver._free == 5)
    del reader
    assert (await world.post())[0] == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_tokens_and_bodies_never_reach_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for body in (GOOD, b"{secret-body", b'{"trainerStatus": {"progressPercentage": "secret-body"}}'):
        for name in ("own", "expired", "sibling", "lost"):
            await world.post(body, name=name)
    assert "signature" not in caplog.text
    assert "secret-body" not in caplog.text


async def test_plain_http_and_an_unknown_authority_are_refused(world: World) -> None:
    url = f"localhost:{world.port}{PATH}"
    async with aiohttp.ClientSession() as other:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await other.post(f"https://{url}", data=GOOD)
        with pytest.raises(aiohttp.ClientError):
            await other.post(f"http://{url}", data=GOOD)


def _blind() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ({}, NotAuthenticated),
        (review(authenticated=False), NotAuthenticated),
        (review(audiences=["https://kubernetes.default.svc"]), NotAuthenticated),
        (review(audiences=None), NotAuthenticated),
        (review(user=None), NotAPod),
        (review("system:serviceaccount:ml:default:x"), NotAPod),
        (review("system:node:ml"), NotAPod),
        (review(pod=None), NotAPod),
    ],
)
def test_who_is_no_pod(status: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        pod_of(status)


def test_a_pod() -> None:
    assert pod_of(review(pod="a")) == ("ml", "a", "uid-a")
