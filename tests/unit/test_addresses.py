"""The table of addresses that operator and trainer share. Nothing is connected to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.addresses import is_no_host, is_of_the_platform, is_public, parsed, unwrapped
from finetune_operator.backends.errors import Refused
from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_trainer.data.fetch import Fetcher, FetchError

PUBLIC = [
    "1.1.1.1", "192.0.1.1", "192.88.100.1", "168.63.129.17", "2606:4700:4700::1111", "64:ff9b::101:101",
    "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1", "192.167.255.255",
    "192.169.0.1", "198.17.255.255", "198.20.0.1", "223.255.255.255", "2001:200::1", "2001:db9::1", "2002:101:101::",
    "3ffe::1", "::ffff:1.1.1.1", "2000::1", "2606:4700::5efe:101:101",
]  # fmt: skip
PRIVATE = [
    "10.0.0.1", "172.16.5.5", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255", "127.0.0.1",
    "127.255.255.254", "198.18.0.1", "198.19.255.255", "192.0.2.1", "198.51.100.7", "203.0.113.9", "192.0.0.1",
    "192.0.0.9", "192.0.0.255", "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1",
    "::1", "fd00::1", "fec0::1", "2001:db8::1", "2001::1", "2001:20::1", "3fff::1", "3fff:fff::1",
    "64:ff9b:1::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2002:7f00:1::1", "2002:c0a8:101::",
    "2001:0:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:1::1", "2001:2::1", "2001:3::1", "2001:4:112::1",
    "2001:1ff::1", "2620:4f:8000::1", "2606:4700::5efe:a00:1", "2606:4700::200:5efe:7f00:1", "::ffff:127.0.0.1",
    "::ffff:192.168.0.1", "64:ff9b::7f00:1", "64:ff9b::c000:1", "64:ff9b::c058:6301", "febf::1%1", "fdff:ffff::1",
]  # fmt: skip
PLATFORM = [
    "169.254.169.254", "169.254.170.2", "168.63.129.16", "fd00:ec2::254", "fe80::1%eth0", "fe80::5efe:101:101",
    "::ffff:169.254.169.254",
    "::ffff:168.63.129.16", "64:ff9b::a83f:8110", "2002:a9fe:a9fe::", "100.100.100.200", "192.0.0.192",
    "::ffff:192.0.0.192", "fd20:ce::254", "fd00:ec2::23", "fd00:42::42", "fd00:a9fe:a9fe::1", "169.254.0.23",
    "2002:a83f:8110::1", "2606:4700::5efe:a9fe:a9fe", "64:ff9b::6464:64c8",
]  # fmt: skip
NO_HOST = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", "::ffff:0.0.0.0", "64:ff9b::e000:1",
    "0.1.2.3", "239.255.255.255", "254.1.1.1", "::7f00:1", "::ffff:0:7f00:1", "100::1", "5f00::1", "4000::1", "ff0e::1",
    "2002:e000:1::", "2002::", "::5efe:7f00:1"]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    address = parsed(text)
    assert address is not None
    assert is_public(address)
    AddressGuard().check("data.example.com", 443, [text])


@pytest.mark.parametrize("text", [*PRIVATE, *PLATFORM, *NO_HOST])
def test_not_public(text: str) -> None:
    address = parsed(text)
    assert address is not None
    assert not is_public(address)
    with pytest.raises(Refused):
        AddressGuard().check("data.example.com", 443, [text])


@pytest.mark.parametrize("text", PLATFORM)
def test_the_platform_answers_only_who_names_it_by_number(text: str) -> None:
    address = parsed(text)
    assert address is not None
    assert is_of_the_platform(address)
    with pytest.raises(Refused):
        AddressGuard(hosts=["data.example.com"]).check("data.example.com", 443, [text])


@pytest.mark.parametrize("text", ["168.63.129.16", "169.254.169.254"])
def test_the_platform_named_by_number(text: str) -> None:
    AddressGuard(hosts=[text]).check(text, 80, [text])


@pytest.mark.parametrize("text", ["10.0.0.1", "127.0.0.1", "192.0.0.9", "fd00::1"])
def test_a_private_address_of_a_permitted_host(text: str) -> None:
    AddressGuard(hosts=["data.example.com"]).check("data.example.com", 443, [text])


@pytest.mark.parametrize("text", NO_HOST)
def test_no_host_is_never_reached(text: str) -> None:
    address = parsed(text)
    assert address is not None
    assert is_no_host(address)
    with pytest.raises(Refused):
        AddressGuard(hosts=["data.example.com"]).check("data.example.com", 443, [text])


@pytest.mark.parametrize("text", ["", "127.1", "0x7f.1", "localhost", "1.2.3.4.5", "::g"])
def test_no_address(text: str) -> None:
    assert parsed(text) is None


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_nothing_is_public_that_python_does_not_call_global(address: ipaddress.IPv4Address) -> None:
    inner = unwrapped(address)
    if is_public(address):
        assert inner.is_global
        assert not is_no_host(address)
        assert not is_of_the_platform(address)


def test_operator_and_trainer_have_one_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a name resolves to, and whether the administrator has named the host or not."""
    for permitted in ([], ["data.example.com"]):
        fetcher, guard = Fetcher(frozenset(permitted)), AddressGuard(hosts=permitted)
        for text in (*PUBLIC, *PRIVATE, *PLATFORM, *NO_HOST):
            answer = [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", (text, 443))]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, answer=answer, **__: answer)
            outcomes = [_passes(fetcher._checked, "https://data.example.com/a.png")]
            outcomes.append(_passes(guard.check, "data.example.com", 443, [text]))
            assert outcomes[0] == outcomes[1], text


def _passes(check: Callable[..., Any], *arguments: Any) -> bool:
    try:
        check(*arguments)
    except (FetchError, Refused):
        return False
    return True
