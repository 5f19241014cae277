"""The servers answer on every address of the pod, whichever families it has."""

from __future__ import annotations

import errno
import socket

import aiohttp
import pytest
from aiohttp import web

from finetune_operator import listen as module
from finetune_operator.listen import EVERY_ADDRESS, listen
from finetune_operator.settings import Settings


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def answers(hosts: list[str], listening: str = EVERY_ADDRESS) -> dict[str, bool]:
    """Whether each address is answered, on one port."""
    application = web.Application()
    application.router.add_get("/", _answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    found = {}
    try:
        port = await listen(runner, listening, 0)
        async with aiohttp.ClientSession() as session:
            for host in hosts:
                try:
                    async with session.get(f"http://{host}:{port}/") as response:
                        found[host] = response.status == 200
                except aiohttp.ClientError:
                    found[host] = False
    finally:
        await runner.cleanup()
    return found


async def _answer(_: web.Request) -> web.Response:
    return web.Response()


def test_that_is_the_default() -> None:
    assert (Settings().metrics_host, Settings().progress_host) == (EVERY_ADDRESS, EVERY_ADDRESS)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
async def test_both_families() -> None:
    assert await answers(["127.0.0.1", "[::1]"]) == {"127.0.0.1": True, "[::1]": True}


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
async def test_one_address_alone() -> None:
    assert await answers(["127.0.0.1", "[::1]"], "::1") == {"127.0.0.1": False, "[::1]": True}


@pytest.mark.parametrize("lacking", [socket.AF_INET6, socket.AF_INET])
async def test_one_family_where_the_kernel_has_no_other(
    monkeypatch: pytest.MonkeyPatch, lacking: socket.AddressFamily
) -> None:
    bound = module._bound

    def without(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
        if family == lacking:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return bound(family, address, port)

    monkeypatch.setattr(module, "_bound", without)
    if lacking == socket.AF_INET6:
        assert await answers(["127.0.0.1"]) == {"127.0.0.1": True}
    elif has_ipv6():
        assert await answers(["[::1]"]) == {"[::1]": True}


async def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        runner = web.AppRunner(web.Application())
        await runner.setup()
        with pytest.raises(OSError, match="in use"):
            await listen(runner, EVERY_ADDRESS, taken.getsockname()[1])
        await runner.cleanup()
