"""Which network addresses may be reached on a stranger's word: one table for operator and trainer. Pure: names come
resolved.

A table of our own: `ipaddress.is_global` depends on the version of Python, and lets places pass where the operator of a
network, a cloud or a host decides who answers. Source: IANA's registries of special-purpose addresses for IPv4 and IPv6
(2026-11), of which nothing passes that is not both global and a destination; the clouds' own documents for their
metadata services.
"""

from __future__ import annotations

import ipaddress
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


NO_HOST: Final = _networks(
    "0.0.0.0/8",  # this network; Linux takes it for loopback
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and the broadcast
    "::/128",
    "ff00::/8",  # multicast
)
"""No single machine answers there."""
PRIVATE_V4: Final = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",  # shared by carriers; a cloud's metadata service is at 100.100.100.200
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local; the metadata services of most clouds
    "172.16.0.0/12",
    "192.0.0.0/24",  # IETF protocol assignments; a cloud's metadata service is at .192
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112: whoever is nearest answers
    "192.52.193.0/24",  # relays of multicast (AMT)
    "192.88.99.0/24",  # relays of 6to4
    "192.168.0.0/16",
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "168.63.129.16/32",  # Azure's services for a virtual machine
)
PUBLIC_V6: Final = ipaddress.IPv6Network("2000::/3")
"""All that IANA has given to the internet. Outside are loopback, fc00::/7, fe80::/10, the former site-local fec0::/10,
IPv4-compatible and translated addresses, discarded ones, segment routing, and prefixes of translators of a site."""
PRIVATE_V6: Final = _networks(
    "2001::/23",  # Teredo, ORCHID, benchmarks, AS112 and other protocol assignments
    "2001:db8::/32",  # documentation
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
)
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_V6: Final = _networks("::1/128", "fc00::/7", "fe80::/10", "fec0::/10", "64:ff9b:1::/48")
"""Where a machine may answer that an administrator has named."""
_PLATFORM: Final = _networks(
    "169.254.0.0/16",
    "fe80::/10",
    "168.63.129.16/32",  # Azure
    "100.100.100.200/32",  # Alibaba Cloud
    "192.0.0.192/32",  # Oracle Cloud
    "fd00:ec2::/32",  # AWS
    "fd20:ce::254/128",  # Google Cloud
    "fd00:42::42/128",  # Scaleway
    "fd00:a9fe:a9fe::1/128",  # Akamai
)
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)


def parsed(text: str) -> IPAddress | None:
    """The address, its zone left out; None where it is none."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def unwrapped(address: IPAddress) -> IPAddress:
    """The IPv4 address inside an IPv6 one (mapped, 6to4, NAT64), where that is what will be reached.

    Teredo's is left as it is: none of its addresses is public, whatever is inside.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    return _last_four(address) if address in NAT64 else address


def is_public(address: IPAddress) -> bool:
    """Whether anybody on the internet could reach the same place."""
    return all(_is_public(each) for each in _reached(address))


def is_of_the_platform(address: IPAddress) -> bool:
    """Whether the machine's own platform answers there: link-local, and the metadata services that are elsewhere."""
    return any(_within(each, _PLATFORM) for each in _reached(address))


def is_no_host(address: IPAddress) -> bool:
    """Whether no single machine answers there: multicast, unspecified, reserved."""
    return any(_is_no_host(each) for each in _reached(address))


def may_be_reached(host: str, address: IPAddress, *, permitted: bool) -> bool:
    """Whether a connection to `host`, which has this address, may be made on the word of a user, a dataset or a
    provider. `permitted`: the administrator has named the host, so that private addresses are all right; those of the
    platform only where it was named by number."""
    if is_of_the_platform(address):
        return permitted and parsed(host) == address
    return is_public(address) or (permitted and not is_no_host(address))


def _reached(address: IPAddress) -> tuple[IPAddress, ...]:
    """What may answer: for ISATAP, which a tunnel of the site unwraps, the one or the other."""
    outer = unwrapped(address)
    if isinstance(outer, ipaddress.IPv6Address) and (int(outer) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return outer, _last_four(outer)
    return (outer,)


def _last_four(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def _is_public(address: IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not _within(address, PRIVATE_V4) and not _within(address, NO_HOST)
    return address in PUBLIC_V6 and not _within(address, PRIVATE_V6)


def _is_no_host(address: IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in PUBLIC_V6 and not _within(address, _LOCAL_V6):
        return True
    return _within(address, NO_HOST)


def _within(address: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
