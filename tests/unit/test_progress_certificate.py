"""The certificate that pods check, and the authority that replicas share. The handshakes are real."""

from __future__ import annotations

import copy
import ssl
import stat
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from finetune_operator.kube.errors import AlreadyExists, Conflict, NotFound
from finetune_operator.progress import certificate as module
from finetune_operator.progress.certificate import (
    Authority,
    Certificate,
    ForeignSecret,
    from_files,
    hosts_of,
    issue,
    new_authority,
    self_signed,
    shared_authority,
)

NOW = datetime.now(UTC)
URL = "https://finetune-operator.ml.svc:8443"
HOSTS = hosts_of(URL, "*")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority(NOW)


def handshake(certificate: Certificate, host: str, ca_pem: str | None = None) -> None:
    """A TLS handshake in memory, as strict as Python 3.13 is by default. Raises ssl.SSLError."""
    trust = ssl.create_default_context(cadata=ca_pem or certificate.ca_pem)
    trust.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust.wrap_bio(to_client, to_server, server_hostname=host)
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return
    raise AssertionError("no handshake")


@pytest.mark.parametrize(
    "host", ["finetune-operator.ml.svc", "finetune-operator.ml.svc.cluster.local", "localhost", "127.0.0.1"]
)
def test_pods_accept_it(authority: Authority, host: str) -> None:
    handshake(self_signed(authority, HOSTS, lambda: NOW), host)


def test_not_for_another_name_or_by_another_authority(authority: Authority) -> None:
    certificate = self_signed(authority, HOSTS, lambda: NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(certificate, "kubernetes.default.svc")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate, "localhost", new_authority(NOW).certificate.decode())


def test_the_names() -> None:
    assert HOSTS[:2] == ["finetune-operator.ml.svc", "finetune-operator.ml.svc.cluster.local"]
    assert "*" not in HOSTS
    assert "0.0.0.0" not in hosts_of(URL, "0.0.0.0")
    assert hosts_of("https://127.0.0.1:1", "127.0.0.1") == ["127.0.0.1", "localhost", "::1"]
    assert hosts_of("https://[fd00::1]:1", "::")[0] == "fd00::1"


def test_it_is_renewed_before_its_end_with_the_same_authority(authority: Authority) -> None:
    now = [NOW - timedelta(days=61)]
    certificate = self_signed(authority, HOSTS, lambda: now[0])
    before = certificate.ca_pem
    now[0] += timedelta(days=59)
    assert not certificate.refresh()
    now[0] += timedelta(days=2)
    assert certificate.refresh()
    assert certificate.ca_pem == before
    assert not certificate.refresh()
    handshake(certificate, "localhost")


def test_pods_with_a_slow_clock_accept_it(authority: Authority) -> None:
    pem, _ = issue(authority, HOSTS, NOW)
    assert x509.load_pem_x509_certificate(pem).not_valid_before_utc <= NOW - timedelta(hours=23)


def test_the_key_touches_the_disk_only_privately_and_briefly(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes = []

    class Looking(ssl.SSLContext):
        def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
            modes.append(stat.S_IMODE(Path(keyfile).stat().st_mode))
            super().load_cert_chain(certfile, keyfile, password)

    module._load(Looking(ssl.PROTOCOL_TLS_SERVER), *issue(authority, HOSTS, NOW))
    assert modes == [0o600]
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_administrator_are_read_again_when_they_change(authority: Authority, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt")]

    def write(by: Authority) -> None:
        for path, pem in zip(paths, (*issue(by, ["here"], NOW), by.certificate), strict=True):
            path.write_bytes(pem)

    write(authority)
    certificate = from_files(*map(str, paths))
    handshake(certificate, "here")
    assert not certificate.refresh()
    other = new_authority(NOW)
    write(other)
    assert certificate.refresh()
    assert certificate.ca_pem == other.certificate.decode()
    handshake(certificate, "here")
    paths[1].write_bytes(authority.key)  # half of a rotation
    with pytest.raises(ssl.SSLError):
        certificate.refresh()
    handshake(certificate, "here")


def test_the_key_is_not_shown(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority)


# The shared Secret


class Secrets:
    """The API server's rules for one Secret. `before_write` runs between a contender's read and its write."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] | None = None
        self.version = 0
        self.before_write: list[Any] = []

    async def get(self, path: str) -> dict[str, Any]:
        if self.stored is None:
            raise NotFound(404, "NotFound", path)
        return copy.deepcopy(self.stored)

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        await self._interfere()
        if self.stored is not None:
            raise AlreadyExists(409, "AlreadyExists", path)
        return self._store(body)

    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        await self._interfere()
        if self.stored is None or self.stored["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", path)
        return self._store(body)

    async def _interfere(self) -> None:
        if self.before_write:
            await self.before_write.pop()()

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.stored = copy.deepcopy(body)
        self.stored["metadata"]["resourceVersion"] = str(self.version)
        return self.stored


async def test_all_replicas_get_the_same_authority() -> None:
    secrets = Secrets()
    first = await shared_authority(secrets, "ml", NOW)
    assert await shared_authority(secrets, "ml", NOW + timedelta(days=3000)) == first
    assert secrets.version == 1
    assert secrets.stored is not None
    assert secrets.stored["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "finetune-operator"}


async def test_of_two_that_start_at_the_same_time_one_wins() -> None:
    secrets = Secrets()
    winners: list[Authority] = []

    async def faster() -> None:
        winners.append(await shared_authority(secrets, "ml", NOW))

    secrets.before_write = [faster]
    assert [await shared_authority(secrets, "ml", NOW)] == winners
    assert secrets.version == 1
    assert secrets.stored is not None
    secrets.stored["data"] = {}
    secrets.before_write = [faster]
    assert await shared_authority(secrets, "ml", NOW) == winners[1] != winners[0]
    assert secrets.version == 2


@pytest.mark.parametrize(
    "data",
    [
        {},
        None,
        {"ca.crt": "!", "ca.key": "!"},
        {"ca.crt": "", "ca.key": ""},
        {"ca.crt": "aGk=", "ca.key": "aGk="},
        "half",
    ],
)
async def test_a_broken_secret_is_made_anew(data: Any, authority: Authority) -> None:
    secrets = Secrets()
    await shared_authority(secrets, "ml", NOW)
    assert secrets.stored is not None
    if data == "half":
        other = Secrets()
        await shared_authority(other, "ml", NOW)
        assert other.stored is not None
        data = {**secrets.stored["data"], "ca.key": other.stored["data"]["ca.key"]}
    secrets.stored["data"] = data
    fresh = await shared_authority(secrets, "ml", NOW)
    assert secrets.version == 2
    assert await shared_authority(secrets, "ml", NOW) == fresh
    handshake(self_signed(fresh, HOSTS, lambda: NOW), "localhost")


async def test_an_authority_near_its_end_is_replaced() -> None:
    secrets = Secrets()
    first = await shared_authority(secrets, "ml", NOW)
    assert await shared_authority(secrets, "ml", NOW + timedelta(days=3300)) != first


async def test_a_secret_of_somebody_else_is_left_alone() -> None:
    secrets = Secrets()
    secrets.stored = {
        "metadata": {"namespace": "ml", "name": module.SECRET, "resourceVersion": "7"},
        "data": {"a": "b"},
    }
    before = copy.deepcopy(secrets.stored)
    with pytest.raises(ForeignSecret, match="ml/finetune-operator-progress"):
        await shared_authority(secrets, "ml", NOW)
    assert secrets.stored == before
