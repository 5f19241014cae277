"""The table of addresses that operator and trainer share. Nothing is connected to."""

from __future__ import annotations

import pytest

from finetune_operator.api.addresses import is_no_host, is_of_the_platform, is_public, parsed
from finetune_operator.backends.errors import Refused
from finetune_operator.backends.http.address_guard import AddressGuard

PUBLIC = ["1.1.1.1", "192.0.1.1", "192.88.100.1", "168.63.129.17", "2606:4700:4700::1111", "64:ff9b::101:101"]
PRIVATE = [
    "10.0.0.1", "172.16.5.5", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.100.100.200", "127.0.0.1",
    "198.18.0.1", "192.0.2.1", "198.51.100.7", "203.0.113.9", "192.0.0.1", "192.0.0.9", "192.0.0.192", "192.88.99.1",
    "::1", "fd00::1", "fec0::1", "2001:db8::1", "2001::1", "2001:20::1", "3fff::1", "3fff:fff::1", "5f00::1", "100::1",
    "64:ff9b:1::1", "::7f00:1", "::ffff:10.0.0.1", "::ffff:192.0.0.192", "64:ff9b::a00:1", "2002:a00:1::",
]  # fmt: skip
PLATFORM = [
    "169.254.169.254", "169.254.170.2", "168.63.129.16", "fd00:ec2::254", "fe80::1%eth0", "::ffff:169.254.169.254",
    "::ffff:168.63.129.16", "64:ff9b::a83f:8110", "2002:a9fe:a9fe::",
]  # fmt: skip
NO_HOST = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", "::ffff:0.0.0.0", "64:ff9b::e000:1"]


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
