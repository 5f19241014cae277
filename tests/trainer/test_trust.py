"""Private certificate authorities: trusted in addition to the public ones, by every client of a store."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import httpx
import pytest

from finetune_trainer.errors import RunError
from finetune_trainer.outputs.destination import check_destination
from finetune_trainer.stores.tls import CA_FILE_VARIABLES, ssl_context, trust
from tests.cluster.pki import Authority
from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun
from tests.trainer.test_outputs import environment
from tests.trainer.web import Answer, Web, web


@pytest.fixture
def private(tmp_path: Path) -> Iterator[tuple[Web, Path]]:
    """A server whose certificate is a private authority's, and the authority's own."""
    authority = Authority(tmp_path / "pki")
    pair = authority.issue("server", "server", hosts=["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with web(context) as server:
        yield server, authority.certificate


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """What `trust` sets goes into this process's environment, and goes with the test."""
    for name in CA_FILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return {"TMPDIR": str(tmp_path)}


def adopt(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


def test_downloads_trust_the_bundle_and_the_public_authorities(
    private: tuple[Web, Path], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = private
    server.serve("/a", Answer(body=b"here"))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.base}/a", verify=ssl_context())
    trust(authority, environ)
    adopt(environ, monkeypatch)
    assert httpx.get(f"{server.base}/a", verify=ssl_context()).content == b"here"
    assert Path(certifi.where()).read_text().strip() in Path(environ["SSL_CERT_FILE"]).read_text()
    assert {environ[name] for name in CA_FILE_VARIABLES} == {environ["SSL_CERT_FILE"]}


def test_s3_trusts_the_bundle(
    private: tuple[Web, Path], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server is reached (and is no store); without the bundle, no connection comes about."""
    server, authority = private
    secret = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": server.base}
    access = environment(tmp_path, secret).output_access
    with monkeypatch.context() as patched:
        patched.setattr("finetune_trainer.stores.s3.RETRIES", 0)
        with pytest.raises(RunError) as untrusted:
            check_destination("s3://bucket/a", access)
    assert "501" not in untrusted.value.message
    trust(authority, environ)
    adopt(environ, monkeypatch)
    with pytest.raises(RunError, match="501 Not Implemented"):
        check_destination("s3://bucket/a", access)


def test_a_bundle_that_is_none_is_exit_2(new_run: Callable[..., TrainerRun], tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    run = new_run(env={"FINETUNE_TRUST_BUNDLE": str(tmp_path / "ca.crt")})
    write_rows(run.data, 2)
    result = run.execute()
    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert "the certificate authorities of backend.job.trustBundle cannot be read" in result.message


def test_without_a_bundle_nothing_changes(environ: dict[str, str], tmp_path: Path) -> None:
    before = dict(environ)
    trust(None, environ)
    trust(tmp_path / "absent.crt", environ)
    assert environ == before
