"""Datasets must not lead the operator to what only the cluster can reach, by whatever way the address comes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.datasets.prepare import examples
from finetune_operator.backends.errors import Refused, UpstreamError
from tests.upstream.contexts import PICTURES, client, context_of, png, run_of
from tests.upstream.web import Site, redirecting, serving

PRIVATE = [
    "127.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "224.0.0.1",
    "[::1]",
    "[::]",
    "[fd00::1]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
]


class Names:
    """A resolver whose answers the test chooses; a name with several lists gives them one after the other."""

    def __init__(self, answers: dict[str, list[Sequence[str]]]) -> None:
        self.answers, self.asked = answers, list[str]()

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        left = self.answers.get(host, [[host]])
        return list(left.pop(0) if len(left) > 1 else left[0])


async def refusal(uri: str, folder: Path, hosts: Sequence[str] = (), names: Names | None = None) -> UpstreamError:
    async with client(hosts, names) as http:
        with pytest.raises(UpstreamError) as refused:
            async with examples(run_of(uri), context_of(http, folder / "spool"), PICTURES):
                pass
    return refused.value


@pytest.mark.parametrize("address", PRIVATE)
async def test_by_number(address: str, tmp_path: Path) -> None:
    error = await refusal(f"https://{address}/t.csv", tmp_path)
    assert isinstance(error, Refused)
    assert error.reason == Reason.ADDRESS_NOT_ALLOWED
    assert "not on the public internet" in error.message


@pytest.mark.parametrize("written", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "LocalHost"])
async def test_loopback_in_disguise(written: str, tmp_path: Path) -> None:
    """Through the system's resolver, which knows these forms."""
    async with serving(Site()) as site:
        error = await refusal(f"https://{written}:{site.port}/t.csv", tmp_path)
    assert isinstance(error, Refused)
    assert not site.requests


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["2606:4700::1111", "::ffff:10.0.0.1"]])
async def test_by_name(addresses: list[str], tmp_path: Path) -> None:
    """One bad address among good ones is enough; nothing is connected to."""
    names = Names({"data.example.com": [addresses]})
    error = await refusal("https://data.example.com/t.csv", tmp_path, names=names)
    assert isinstance(error, Refused)
    assert names.asked == ["data.example.com"]


async def test_a_name_that_changes_its_mind(tmp_path: Path) -> None:
    """The first answer is permitted and redirects to itself; the second answer is the metadata service."""
    async with serving(Site()) as site:
        names = Names({"rebind.example.com": [["127.0.0.1"], ["169.254.169.254"]]})
        here = f"http://rebind.example.com:{site.port}"
        site.files["/t.csv"] = redirecting(f"{here}/again.csv")
        error = await refusal(f"{here}/t.csv", tmp_path, ["rebind.example.com"], names)
    assert isinstance(error, Refused)
    assert "169.254.169.254" in error.message
    assert [path for _, path, _ in site.requests] == ["/t.csv"]
    assert names.asked == ["rebind.example.com"] * 2


@pytest.mark.parametrize("target", ["http://10.0.0.5/x.csv", "https://169.254.169.254/latest/meta-data/iam.csv"])
async def test_a_redirect_is_checked_like_the_first_address(target: str, tmp_path: Path) -> None:
    async with serving(Site()) as site:
        site.files["/t.csv"] = redirecting(target)
        error = await refusal(site.url("/t.csv"), tmp_path, [site.host])
    assert isinstance(error, Refused)


async def test_another_port_of_a_permitted_host_is_not_permitted(tmp_path: Path) -> None:
    async with serving(Site()) as site, serving(Site()) as other:
        site.files["/t.csv"] = redirecting(other.url("/t.csv"))
        error = await refusal(site.url("/t.csv"), tmp_path, [site.host])
    assert isinstance(error, Refused)
    assert not other.requests


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:70/x"])
async def test_a_redirect_to_another_scheme(target: str, tmp_path: Path) -> None:
    async with serving(Site()) as site:
        site.files["/t.csv"] = redirecting(target)
        assert isinstance(await refusal(site.url("/t.csv"), tmp_path, [site.host]), Refused)


async def test_an_endless_chain_of_redirects(tmp_path: Path) -> None:
    async with serving(Site()) as site:
        site.files["/t.csv"] = redirecting(site.url("/t.csv"))
        error = await refusal(site.url("/t.csv"), tmp_path, [site.host])
    assert "redirects more than" in error.message
    assert len(site.requests) <= 6


@pytest.mark.parametrize("cell", ["https://10.0.0.7/a.png", "http://169.254.169.254/a.png", "https://[::1]/a.png"])
async def test_addresses_inside_a_table(cell: str, tmp_path: Path) -> None:
    async with serving(Site()) as site:
        site.files["/t.csv"] = f"image,caption\nok.png,fine\n{cell},x\n".encode()
        site.files["/ok.png"] = png()
        error = await refusal(site.url("/t.csv"), tmp_path, [site.host])
    assert isinstance(error, Refused)
    assert "row 1 of t.csv, column 'image'" in error.message


@pytest.mark.parametrize(
    ("uri", "key"), [("s3://bucket/t.csv", "AWS_ENDPOINT_URL"), ("hf://datasets/a/b/t.csv", "HF_ENDPOINT")]
)
@pytest.mark.parametrize("endpoint", ["https://10.0.0.1:9000", "https://169.254.169.254", "http://minio.example.com"])
async def test_endpoints_out_of_secrets(uri: str, key: str, endpoint: str, tmp_path: Path) -> None:
    names = Names({"minio.example.com": [["10.0.0.1"]]})
    async with client([], names) as http:
        context = context_of(http, tmp_path / "spool", dataset={key: endpoint})
        with pytest.raises(Refused):
            async with examples(run_of(uri), context, PICTURES):
                pass


async def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name again, behind the guard's back."""
    async with serving(Site()) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url())
        names = Names({"data.example.com": [["10.0.0.1"]]})
        error = await refusal("https://data.example.com/t.csv", tmp_path, names=names)
    assert isinstance(error, Refused)
    assert not proxy.requests
