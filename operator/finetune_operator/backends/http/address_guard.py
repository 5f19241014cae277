"""Which network addresses a URL of a user or a provider may lead to. Pure: names come resolved.

Only addresses of the public internet (`api/addresses.py`), unless the administrator has named the place. Those of the
platform (the metadata services of the clouds) are refused unless named by number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from finetune_operator.api.addresses import is_public, may_be_reached, parsed
from finetune_operator.backends.errors import Refused

_INTERNAL_SUFFIXES = (".svc", ".svc.cluster.local", ".localhost")


@dataclass(frozen=True, slots=True)
class Place:
    """A host, and a port or any."""

    host: str
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        """Whether it is this one."""
        return self.host == host.lower().rstrip(".") and self.port in (None, port)


def place_of_url(url: str) -> Place:
    """The place that a URL names; with the scheme's port where it names none."""
    parts = urlsplit(url)
    return Place((parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80))


def place_of_host(text: str) -> Place:
    """`data.example.com`, `data.example.com:8443` or `[::1]:8443`."""
    parts = urlsplit(f"//{text}")
    return Place((parts.hostname or "").lower(), parts.port)


class AddressGuard:
    """`base_urls` permit a private address only where they name it; `hosts` permit whatever the name resolves to."""

    def __init__(self, base_urls: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        self._permitted = [place for place in map(place_of_url, base_urls) if _names_a_private_address(place.host)]
        self._permitted += map(place_of_host, hosts)

    def permits(self, host: str, port: int) -> bool:
        """Whether the administrator has named this place, so that plain HTTP and private addresses are all right."""
        return any(place.covers(host, port) for place in self._permitted)

    def check(self, host: str, port: int, addresses: Sequence[str]) -> None:
        """Every address that the name resolves to must be allowed: an honest name does not mix. Raises Refused."""
        permitted = self.permits(host, port)
        for text in addresses:
            address = parsed(text)
            if address is None:
                raise Refused(f"{host} resolves to {text}, which is not an IP address")
            if not may_be_reached(host, address, permitted=permitted):
                raise Refused(
                    f"{host} resolves to {address}, which is not on the public internet; "
                    "the administrator can permit it with --allow-dataset-host or --allow-base-url"
                )


def _names_a_private_address(host: str) -> bool:
    address = parsed(host)
    if address is not None:
        return not is_public(address)
    return host == "localhost" or host.endswith(_INTERNAL_SUFFIXES)
