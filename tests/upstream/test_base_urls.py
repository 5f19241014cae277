"""Where a base URL may lead: to the address that was checked, at every connection, and nowhere by a redirect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Refused, Transient
from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_operator.backends.http.api import Api
from finetune_operator.backends.http.client import Client
from tests.upstream.fakes.bfl import BflFake
from tests.upstream.test_dataset_addresses import Names

METADATA = "169.254.169.254"


@asynccontextmanager
async def api_at(base_url: str, names: Names) -> AsyncIterator[Api]:
    """A provider whose base URL the administrator has allowed."""
    client = Client(AddressGuard(base_urls=[base_url]), resolve=names, timeout=3)
    try:
        yield Api(client, "Provider", base_url, {"x-key": "bfl-test-key"})
    finally:
        await client.close()


@pytest.mark.parametrize("address", [METADATA, "10.0.0.7", "127.0.0.1", "::1", "fd00:ec2::254", "100.64.0.1"])
async def test_a_public_name_that_resolves_to_a_private_address_is_refused(address: str) -> None:
    names = Names({"tunes.example.com": [[address]]})
    async with api_at("https://tunes.example.com", names) as api:
        with pytest.raises(Refused, match=r"tunes\.example\.com resolves to") as refused:
            await api.get("/v1/my_finetunes")
    assert refused.value.reason == Reason.ADDRESS_NOT_ALLOWED


async def test_one_private_address_among_public_ones_is_refused() -> None:
    names = Names({"tunes.example.com": [["93.184.215.14", METADATA]]})
    async with api_at("https://tunes.example.com", names) as api:
        with pytest.raises(Refused):
            await api.get("/v1/my_finetunes")


async def test_the_second_answer_of_a_name_is_checked_like_the_first() -> None:
    async with BflFake().serve() as fake:
        port = fake.url.rpartition(":")[2]
        names = Names({"localhost": [["127.0.0.1"], [METADATA]]})
        async with api_at(f"http://localhost:{port}", names) as api:
            await api.call("POST", "/v1/delete_finetune", json={"finetune_id": next(iter(fake.finetunes))})
            with pytest.raises(Refused, match=METADATA):  # a POST has a connection of its own
                await api.call("POST", "/v1/delete_finetune", json={"finetune_id": next(iter(fake.finetunes))})
        assert fake.count("delete") == 1
        names = Names({"localhost": [["127.0.0.1"], [METADATA]]})
        async with api_at(f"http://localhost:{port}", names) as api:
            fake.fault("reset", "list")
            with pytest.raises(Transient):
                await api.get("/v1/my_finetunes")
            with pytest.raises(Refused, match=METADATA):  # and so has whoever lost the one that was kept
                await api.get("/v1/my_finetunes")


@pytest.mark.parametrize("target", [f"http://{METADATA}/latest/meta-data", "https://10.0.0.7/x", "http://[::1]:1/x"])
async def test_a_redirect_leads_to_no_private_address(target: str) -> None:
    async with BflFake().serve() as fake:
        async with api_at(fake.url, Names({})) as api:
            fake.fault("redirect", "list", times=2, location=target)
            with pytest.raises(Transient) as redirected:
                await api.get("/v1/my_finetunes")
            assert redirected.value.reason == Reason.UPSTREAM_REDIRECTED
            with pytest.raises(Refused):
                async with api.open("/v1/my_finetunes"):
                    pass
        assert fake.count("list") == 2


@pytest.mark.parametrize("written", ["", "/", "/v1", "/v1/", "/a/b//"])
async def test_a_base_url_keeps_its_path_and_loses_its_last_slash(written: str) -> None:
    async with api_at(f"https://tunes.example.com{written}", Names({})) as api:
        assert not api.base_url.endswith("/")
        assert api.base_url == f"https://tunes.example.com{written.rstrip('/')}"
