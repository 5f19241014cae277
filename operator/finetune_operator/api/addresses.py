"""Which network addresses are on the public internet: one table for operator and trainer. Pure: names come resolved.

Stricter than `is_global`, whose answer depends on the version of Python, and which lets places pass where the operator
of a network, a cloud or a host decides who answers.
"""

from __future__ import annotations

import ipaddress
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_PLATFORM: Final = frozenset({ipaddress.ip_address("168.63.129.16"), ipaddress.ip_address("fd00:ec2::254")})
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # IETF protocol assignments; a cloud's metadata service is at .192
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # Azure's services for a virtual machine
        "::/8",  # IPv4-compatible addresses, and prefixes of translators that only a site knows
        "100::/8",  # discarded
        "2001::/23",  # Teredo and other protocol assignments
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fec0::/10",  # site-local
    )
)


def parsed(text: str) -> IPAddress | None:
    """The address, its zone left out; None where it is none."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def unwrapped(address: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv6 one (mapped, 6to4, NAT64), where that is what will be reached."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: IPAddress) -> bool:
    """Whether anybody on the internet could reach the same place."""
    inner = unwrapped(address)
    return (
        inner.is_global
        and not is_no_host(inner)
        and not any(inner.version == network.version and inner in network for network in _NOT_PUBLIC)
    )


def is_of_the_platform(address: IPAddress) -> bool:
    """Whether the machine's own platform answers there: link-local, and the metadata services that are elsewhere."""
    inner = unwrapped(address)
    return inner.is_link_local or inner in _PLATFORM


def is_no_host(address: IPAddress) -> bool:
    """Whether no single machine answers there: multicast, unspecified, reserved."""
    inner = unwrapped(address)
    return inner.is_multicast or inner.is_unspecified or inner.is_reserved
