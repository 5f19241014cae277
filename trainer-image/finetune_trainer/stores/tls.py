"""TLS for stores and downloads."""

from __future__ import annotations

import os
import ssl
from collections.abc import MutableMapping
from pathlib import Path
from tempfile import gettempdir
from typing import Final

import certifi

from finetune_trainer.errors import ConfigError
from finetune_trainer.files import write_atomically

CA_FILE_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
"""What the clients of stores read: OpenSSL and httpx, requests, curl, and AWS's own."""


def ssl_context() -> ssl.SSLContext:
    """A context with the certificate authorities of SSL_CERT_FILE, where the administrator sets it, or of certifi."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())


def trust(bundle: Path | None, environ: MutableMapping[str, str]) -> None:
    """Trust the authorities of a bundle (PEM) in addition to those that are trusted already, in every client.

    bundle: None, or a file that is not there, changes nothing. environ: of this process and its children. Raises
    ConfigError.
    """
    if bundle is None or not bundle.is_file():
        return
    try:
        ssl.create_default_context(cafile=str(bundle))
        known = Path(environ.get("SSL_CERT_FILE") or certifi.where()).read_text()
        whole = Path(environ.get("TMPDIR") or gettempdir()) / "finetune-authorities.pem"
        write_atomically(whole, f"{known.rstrip()}\n{bundle.read_text()}")  # every rank writes the same
    except (OSError, UnicodeDecodeError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"the certificate authorities of backend.job.trustBundle cannot be read: {error}") from None
    environ.update(dict.fromkeys(CA_FILE_VARIABLES, str(whole)))
