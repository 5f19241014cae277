"""TLS for stores and downloads."""

from __future__ import annotations

import os
import ssl

import certifi


def ssl_context() -> ssl.SSLContext:
    """A context with the certificate authorities of SSL_CERT_FILE, where the administrator sets it, or of certifi."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
