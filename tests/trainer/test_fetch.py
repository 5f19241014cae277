"""Fetching user-given URLs: the guard, redirects, bounds, retries; and a whole run whose dataset is on the web."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_trainer.data import fetch
from finetune_trainer.data.downloads import Unreachable
from finetune_trainer.data.fetch import Fetcher, FetchError, is_public
from tests.trainer.datasets import encoded, picture, write_rows
from tests.trainer.runs import TrainerRun
from tests.trainer.web import Answer, Web, web


@pytest.fixture
def server() -> Iterator[Web]:
    with web() as running:
        yield running


@pytest.fixture
def fetcher(server: Web) -> Fetcher:
    return Fetcher(frozenset({server.host}), backoff_s=0)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
        "ff02::1", "::",
    ],
)  # fmt: skip
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_addresses_outside_are_public(address: str) -> None:
    assert is_public(address)


def test_a_private_server_is_refused_unless_it_is_allowed(server: Web, fetcher: Fetcher) -> None:
    url = server.serve("/x", Answer(b"content"))
    with pytest.raises(FetchError, match="only https:// is allowed"):
        Fetcher().get(url, 100)
    with pytest.raises(FetchError, match=r"127\.0\.0\.1, which is not a public address"):
        Fetcher().get(url.replace("http://", "https://"), 100)
    assert server.seen == []
    assert fetcher.get(url, 100) == b"content"


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **_: object) -> list[object]:
        return [(0, 0, 0, "", ("1.1.1.1", port)), (0, 0, 0, "", ("10.0.0.7", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(FetchError, match=r"data.example resolves to 10.0.0.7"):
        Fetcher().get("https://data.example/x", 100)


def test_the_connection_goes_to_the_address_that_was_checked(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers differently the second time gains nothing: there is no second time."""
    port = int(server.host.rpartition(":")[2])
    asked: list[str] = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    server.serve("/x", Answer(b"content"))
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", resolve)
        body = Fetcher(frozenset({f"data.example:{port}"})).get(f"http://data.example:{port}/x", 100)
    assert body == b"content"
    assert [host for host in asked if host == "data.example"] == ["data.example"]
    assert server.seen[0][2]["Host"] == f"data.example:{port}"


def test_redirects_pass_the_same_guard(server: Web, fetcher: Fetcher) -> None:
    server.serve("/target", Answer(b"here"))
    assert fetcher.get(server.serve("/a", Answer(status=302, headers={"Location": "/target"})), 100) == b"here"

    inside = server.serve("/b", Answer(status=302, headers={"Location": "https://169.254.169.254/latest"}))
    with pytest.raises(FetchError, match=r"169\.254\.169\.254, which is not a public address"):
        fetcher.get(inside, 100)

    loop = server.serve("/loop", Answer(status=301, headers={"Location": "/loop"}))
    with pytest.raises(FetchError, match="more than 5 redirects"):
        fetcher.get(loop, 100)


def test_sizes_are_bounded_whatever_the_server_announces(server: Web, fetcher: Fetcher) -> None:
    url = server.serve("/big", Answer(b"x" * 1000))
    with pytest.raises(FetchError, match="has 1000 bytes, more than 999"):
        fetcher.get(url, 999)
    silent = server.serve("/silent", Answer(b"x" * 1000, cut=None))
    with pytest.raises(FetchError, match="more than 999"):
        fetcher.get(silent, 999)


def test_what_may_come_back_is_tried_again(server: Web, fetcher: Fetcher, tmp_path: Path) -> None:
    url = server.serve("/x", Answer(status=503), Answer(b"half", cut=10), Answer(status=429), Answer(b"whole"))
    assert fetcher.get(url, 100) == b"whole"

    with pytest.raises(Unreachable, match="4 attempts: the server responded with 500"):
        fetcher.get(server.serve("/y", Answer(status=500)), 100)


def test_a_proxy_that_is_set_and_not_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    with pytest.raises(Unreachable, match=r"\(HTTPS_PROXY: not used for https:// datasets; put the data on s3://"):
        Fetcher(frozenset({"127.0.0.1:1"}), backoff_s=0).get("https://127.0.0.1:1/x", 100)


def test_errors_carry_no_credentials(server: Web, fetcher: Fetcher) -> None:
    with pytest.raises(FetchError) as failure:
        fetcher.get(f"{server.base}/none?X-Amz-Signature=abcdef", 100)
    assert "abcdef" not in str(failure.value)
    with pytest.raises(FetchError) as failure:
        fetcher.get(f"http://user:hunter2@{server.host}/x", 100)
    assert "hunter2" not in str(failure.value)


def serve_dataset(server: Web, folder: Path) -> str:
    rows = write_rows(folder, 4)
    for row in rows[:2]:
        server.serve(f"/set/{row['image']}", Answer((folder / row["image"]).read_bytes()))
    rows[2]["image"] = server.serve("/elsewhere.png", Answer(encoded(picture(9))))
    text = "".join(json.dumps(row) + "\n" for row in rows[:3])
    return server.serve("/set/train.jsonl", Answer(text.encode()))


def test_a_run_on_a_dataset_from_the_web(server: Web, new_run: Callable[..., TrainerRun], tmp_path: Path) -> None:
    url = serve_dataset(server, tmp_path / "site")
    run = new_run(dataset=url, env={"FINETUNE_ALLOW_DATASET_HOSTS": server.host}, recipe={"epochs": 1})

    result = run.execute()

    assert (result.code, result.message) == (0, "")
    assert run.manifest()["dataset"]["rows"] == 3


def test_a_signature_in_a_url_is_told_nobody(
    server: Web, new_run: Callable[..., TrainerRun], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither that of the dataset nor that of an image, whether the run succeeds or not."""
    write_rows(tmp_path / "site", 2)
    signed = "X-Amz-Signature=TOPSECRET"
    picture_url = server.serve("/p.png", Answer((tmp_path / "site/images/0.png").read_bytes())) + f"?{signed}"
    missing = f"{server.base}/none.png?{signed}"
    for number, (image, code) in enumerate(((picture_url, 0), (missing, 3))):
        row = json.dumps({"question": "q", "answer": "a", "image": image})
        url = server.serve(f"/{number}.jsonl", Answer(row.encode() + b"\n")) + f"?{signed}&sig=TOPSECRET"
        run = new_run(
            f"run-{number}", dataset=url, env={"FINETUNE_ALLOW_DATASET_HOSTS": server.host}, recipe={"epochs": 1}
        )
        result = run.execute()
        assert result.code == code, result.message
        written = [path.read_bytes() for path in run.run_dir.rglob("*") if path.is_file()]
        assert not any(b"TOPSECRET" in content for content in written)
        assert "TOPSECRET" not in json.dumps(result.termination)
        printed = "".join(capfd.readouterr())
        assert '"dataset"' in printed
        assert "TOPSECRET" not in printed
    assert run.dataset.partition("?")[0] in printed


def test_a_signature_can_come_from_a_secret(
    server: Web, new_run: Callable[..., TrainerRun], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is sent, and stands nowhere else."""
    write_rows(tmp_path / "site", 2)
    image = server.serve("/p.png", Answer((tmp_path / "site/images/0.png").read_bytes()))
    url = server.serve("/train.jsonl", Answer(json.dumps({"question": "q", "answer": "a", "image": image}).encode()))
    secret = tmp_path / "secret"
    secret.mkdir()
    env = {"FINETUNE_ALLOW_DATASET_HOSTS": server.host, "FINETUNE_DATASET_SECRET_DIR": str(secret)}
    run = new_run("run", dataset=url, env=env, recipe={"epochs": 1})
    (secret / "query").write_text("?X-Amz-Signature=TOPSECRET\n")
    result = run.execute()
    assert result.code == 0, result.message
    assert any(path == "/train.jsonl?X-Amz-Signature=TOPSECRET" for _, path, _, _ in server.seen)
    assert not any(b"TOPSECRET" in path.read_bytes() for path in run.root.glob("storage/**/*") if path.is_file())
    assert "TOPSECRET" not in "".join(capfd.readouterr()) + json.dumps(result.termination)


def test_a_secret_without_the_signature_is_refused(
    server: Web, new_run: Callable[..., TrainerRun], tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "api-key").write_text("x")
    env = {"FINETUNE_ALLOW_DATASET_HOSTS": server.host, "FINETUNE_DATASET_SECRET_DIR": str(tmp_path / "secret")}
    result = new_run("run", dataset=f"{server.base}/train.jsonl", env=env).execute()
    assert (result.code, result.reason) == (2, "SecretKeyMissing")
    assert "needs the key query" in result.message


def test_a_missing_dataset_is_no_retry_and_a_dead_server_is(
    server: Web, new_run: Callable[..., TrainerRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    allowed = {"FINETUNE_ALLOW_DATASET_HOSTS": server.host}
    missing = new_run("missing", dataset=f"{server.base}/none.csv", env=allowed).execute()
    assert (missing.code, missing.reason) == (3, "DatasetNotFound")
    assert "responded with 404" in missing.message

    server.serve("/down.csv", Answer(status=503))
    down = new_run("down", dataset=f"{server.base}/down.csv", env=allowed).execute()
    assert (down.code, down.reason) == (1, "DatasetUnavailable")

    refused = new_run("refused", dataset=f"{server.base}/down.csv").execute()
    assert refused.code == 3
    assert "only https://" in refused.message
