"""Where the operator's servers listen: on one address, or on every one of the pod, whichever families it has."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from typing import Final

from aiohttp import web

log = logging.getLogger(__name__)

EVERY_ADDRESS: Final = "*"
_BACKLOG: Final = 128
_LACKING: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
"""What the kernel says where a family is switched off."""


async def listen(runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
    """Start serving; returns the port (a free one for port 0). Raises OSError where it is taken.

    Not one socket for both families: whether `::` takes IPv4 too is a setting of the node's kernel.
    """
    if host != EVERY_ADDRESS:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        return int(runner.addresses[0][1])
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
        try:
            bound = _bound(family, address, port)
        except OSError as error:
            if error.errno not in _LACKING:
                raise
            log.info("no %s here: %s", family.name, error.strerror)
            continue
        await web.SockSite(runner, bound, ssl_context=tls, backlog=_BACKLOG).start()
        port = int(bound.getsockname()[1])
    if not runner.addresses:
        raise OSError(errno.EADDRNOTAVAIL, "there is neither IPv4 nor IPv6")
    return port


def _bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made
