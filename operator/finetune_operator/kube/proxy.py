"""The HTTP proxy on the way to the API server: the kubeconfig's, else, where a person asks, that of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

SCHEMES: Final = ("http", "https")


def refusal(url: str) -> str:
    """Why this proxy cannot be used; empty where it can."""
    parts = urlsplit(url)
    if parts.scheme in SCHEMES and parts.hostname:
        return ""
    return f"a proxy must begin with http:// or https:// and name a host; {parts.scheme or 'this one'} cannot be used"


def of_environment(server: str, environ: Mapping[str, str]) -> str | None:
    """As Go has it: HTTPS_PROXY or HTTP_PROXY by the server's scheme, NO_PROXY, and never for this very machine."""
    parts = urlsplit(server)
    url = _variable(environ, f"{parts.scheme}_proxy")
    if not url or _bypassed(parts.hostname or "", parts.port, _variable(environ, "no_proxy")):
        return None
    return url if "://" in url else f"http://{url}"


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name.upper()) or environ.get(name) or ""


def _bypassed(host: str, port: int | None, rules: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for rule in filter(None, (each.strip().lower() for each in rules.split(","))):
        if rule == "*":
            return True
        name, _, named_port = rule.rpartition(":") if rule.count(":") == 1 else (rule, "", "")
        if named_port and named_port != str(port):
            continue
        if address is None:
            suffix = name.removeprefix("*").lstrip(".")
            if host == suffix or host.endswith(f".{suffix}"):
                return True
        elif _holds(name, host):
            return True
    return False


def _holds(rule: str, address: str) -> bool:
    try:
        return ip_address(address) in ip_network(rule, strict=False)
    except ValueError:
        return False
