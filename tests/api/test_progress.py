"""Progress on the real API server: real tokens bound to real pods, and transformers' own callback as a sender."""

from __future__ import annotations

import asyncio
import io
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from finetune_operator.api.names import NAME_LABEL, PROGRESS_AUDIENCE, RUN_LABEL, UID_LABEL
from finetune_operator.kube import config
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import NotFound
from finetune_operator.kube.resources import core
from finetune_operator.progress.certificate import SECRET, self_signed, shared_authority
from finetune_operator.progress.identity import PodTokens
from finetune_operator.progress.report import Report
from finetune_operator.progress.server import Receiver, Run, progress_path, serve
from tests.cluster.control_plane import ControlPlane

NAMESPACE, OTHER = "progress", "progress-other"
UID, RUN = "0d6ff1f5-9b2f-4d6b-8b52-1b1a6a2c8a11", 2
PATH = progress_path(NAMESPACE, "receipts", RUN)


@pytest.fixture(scope="module")
def namespaces(control_plane: ControlPlane) -> Iterator[None]:
    for name in (NAMESPACE, OTHER):
        control_plane.kubectl("create", "namespace", name)
        control_plane.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")
    yield
    control_plane.kubectl("delete", "namespace", NAMESPACE, OTHER, "--wait=false")


class World:
    """The endpoint on a real API server, and what it accepted."""

    def __init__(self, client: KubeClient) -> None:
        self.client = client
        self.skipped = 0.0
        self.reports: list[Report] = []
        self.tokens = PodTokens(client, self.clock)
        self.receiver = Receiver(
            self.tokens,
            run_of=lambda namespace, name: (UID, RUN) if (namespace, name) == (NAMESPACE, "receipts") else None,
            owner_of=self.owner_of,
            on_report=lambda _key, _uid, _run, report: self.reports.append(report),
            leading=lambda: True,
            clock=self.clock,
            now=lambda: datetime.now(UTC),
        )
        self.session: aiohttp.ClientSession
        self.url = ""
        self.ca_pem = ""

    def clock(self) -> float:
        return time.monotonic() + self.skipped

    async def owner_of(self, namespace: str, name: str, uid: str) -> Run | None:
        """By the labels of the pod, as long as it is the pod of the token."""
        try:
            metadata = (await self.client.get(core(namespace, "pods", name)))["metadata"]
        except NotFound:
            return None
        labels = metadata.get("labels") or {}
        return (labels[UID_LABEL], int(labels[RUN_LABEL])) if metadata["uid"] == uid and UID_LABEL in labels else None

    async def pod(self, name: str, run: int | None, namespace: str = NAMESPACE) -> dict[str, Any]:
        labels = {UID_LABEL: UID, RUN_LABEL: str(run), NAME_LABEL: "receipts"} if run else {}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "trainer", "image": "nowhere/none"}]},
        }
        return await self.client.create(core(namespace, "pods"), body)

    async def token(
        self, pod: dict[str, Any] | None, *, audience: str = PROGRESS_AUDIENCE, namespace: str = NAMESPACE
    ) -> str:
        """What the kubelet projects into a pod; without a pod, what `kubectl create token` gives."""
        spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 600}
        if pod:
            metadata = pod["metadata"]
            spec["boundObjectRef"] = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            }
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self.client.create(f"{core(namespace, 'serviceaccounts', 'default')}/token", body)
        return str(answer["status"]["token"])

    async def post(self, token: str, *, path: str = PATH, body: bytes | None = None) -> int:
        sent = body if body is not None else json.dumps({"trainerStatus": {"progressPercentage": 42}}).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        async with self.session.post(path, data=io.BytesIO(sent), headers=headers) as response:
            return response.status


@pytest.fixture
async def world(control_plane: ControlPlane, namespaces: None) -> AsyncIterator[World]:
    async with KubeClient(config.load(str(control_plane.kubeconfig))) as client:
        world = World(client)
        authority = await shared_authority(client, NAMESPACE, datetime.now(UTC))
        certificate = self_signed(authority, ["localhost", "127.0.0.1"], lambda: datetime.now(UTC))
        world.ca_pem = certificate.ca_pem
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=certificate.ca_pem))
        async with serve("127.0.0.1", 0, certificate.context, world.receiver) as port:
            world.url = f"https://localhost:{port}"
            async with aiohttp.ClientSession(world.url, connector=connector) as world.session:
                yield world


async def test_a_pod_reports_for_its_own_run_and_no_other(world: World) -> None:
    own = await world.token(await world.pod("own", RUN))
    assert await world.post(own) == 200
    assert [report.progress.percentage for report in world.reports] == [42]
    assert await world.post(own, path=progress_path(NAMESPACE, "receipts", 1)) == 404
    assert await world.post(own, path=progress_path(OTHER, "receipts", RUN)) == 403

    earlier = await world.token(await world.pod("earlier", 1))
    stranger = await world.token(await world.pod("stranger", None))
    elsewhere = await world.token(await world.pod("own", RUN, OTHER), namespace=OTHER)
    unbound = await world.token(None)
    for token in (earlier, stranger, elsewhere, unbound):
        assert await world.post(token) == 403
    assert len(world.reports) == 1


async def test_tokens_that_are_not_for_this(world: World) -> None:
    pod = await world.pod("other-audience", RUN)
    good = await world.token(pod)
    header, claims, signature = good.split(".")
    for token in (
        await world.token(pod, audience="https://kubernetes.default.svc.cluster.local"),
        f"{header}.{claims}.{signature[::-1]}",
        "a.b.c",
        "nonsense",
    ):
        assert await world.post(token) == 401
    assert await world.post(good, body=b" " * 10_000_000) == 413
    assert await world.post(good, body=b"{") == 400
    assert await world.post(good, body=b"{}") == 422
    assert world.reports == []


async def test_a_token_ends_with_its_pod(world: World) -> None:
    pod = await world.pod("ended", RUN)
    token = await world.token(pod)
    assert await world.post(token) == 200
    await world.client.delete(core(NAMESPACE, "pods", "ended"), uid=pod["metadata"]["uid"])
    # The API server's own token cache lasts 10 s, ours up to 60 s.
    async with asyncio.timeout(60):
        while await world.post(token) != 401:
            world.skipped += 61
            await asyncio.sleep(1)
    namesake = await world.token(await world.pod("ended", RUN))
    assert await world.post(namesake) == 200


async def test_the_authority_survives_a_restart(world: World, control_plane: ControlPlane) -> None:
    again = await shared_authority(world.client, NAMESPACE, datetime.now(UTC))
    assert again.certificate.decode() == world.ca_pem
    stored = json.loads(control_plane.kubectl("get", "secret", SECRET, "-n", NAMESPACE, "-o", "json"))
    assert set(stored["data"]) == {"ca.crt", "ca.key"}


async def test_replicas_that_start_together_share_one_authority(world: World) -> None:
    found = await asyncio.gather(*(shared_authority(world.client, OTHER, datetime.now(UTC)) for _ in range(5)))
    assert len(set(found)) == 1


SENDER = """
from types import SimpleNamespace
from transformers.integrations.integration_utils import KubeflowCallback
callback = KubeflowCallback()
callback._MIN_UPDATE_INTERVAL = 0.0
state = SimpleNamespace(is_world_process_zero=True, max_steps=10, global_step=0, epoch=0.0)
callback.on_train_begin(None, state, None)
callback.on_log(None, state, None, logs={"loss": 1.5, "learning_rate": 2e-5})
state.global_step, state.epoch = 4, 0.4
callback.on_step_end(None, state, None)
"""


async def test_a_hugging_face_trainer_reports_by_itself(world: World, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(world.ca_pem)
    (tmp_path / "token").write_text(await world.token(await world.pod("hugging-face", RUN)))
    environment = os.environ | {
        "KUBEFLOW_TRAINER_SERVER_URL": world.url + PATH,
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(tmp_path / "ca.crt"),
        "KUBEFLOW_TRAINER_SERVER_TOKEN": str(tmp_path / "token"),
        "NO_PROXY": "*",
    }
    sender = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", SENDER], env=environment, capture_output=True, text=True, timeout=300
    )
    assert sender.returncode == 0, sender.stderr
    began, stepped = (report.progress.wire() for report in world.reports)
    assert (began["percentage"], began["totalSteps"]) == (0, 10)
    assert (stepped["summary"], stepped["loss"], stepped["epoch"]) == ("40% 4/10", "1.5000", 0.4)
