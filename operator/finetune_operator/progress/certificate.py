"""What the endpoint proves itself with, and what pods check it by.

Without files of the administrator's, a certificate authority of the operator's own is kept in a Secret, so that all
replicas and the next version share it; each process signs a certificate of its own with it and keeps that in memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import logging
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune_operator.api.names import MANAGED_BY, MANAGED_BY_LABEL
from finetune_operator.api.objects import Object
from finetune_operator.kube.errors import AlreadyExists, Conflict, NotFound
from finetune_operator.kube.resources import core
from finetune_operator.listen import EVERY_ADDRESS

log = logging.getLogger(__name__)

SECRET: Final = "finetune-operator-progress"  # noqa: S105 - its name
AUTHORITY_LIFETIME: Final = timedelta(days=3650)
AUTHORITY_RESERVE: Final = timedelta(days=365)
"""An authority that ends sooner is replaced; pods that run then report no more."""
LIFETIME: Final = timedelta(days=90)
RESERVE: Final = timedelta(days=30)
_SKEW: Final = timedelta(days=1)
_CHECK_SECONDS: Final = 3600.0


class ForeignSecret(Exception):
    """The Secret's name is taken by something that the operator did not make."""


class Client(Protocol):
    """The calls that it makes; by a client that the Lease does not guard: standbys serve too."""

    async def get(self, path: str) -> Object: ...

    async def create(self, path: str, body: Object) -> Object: ...

    async def replace(self, path: str, body: Object) -> Object: ...


# Pure


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    def ends(self) -> datetime:
        """When. Raises ValueError where the PEM is broken or the two do not belong together."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        if certificate.public_key() != _private(self.key).public_key():
            raise ValueError("the key is not the certificate's")
        return certificate.not_valid_after_utc


def new_authority(now: datetime) -> Authority:
    """A fresh one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("finetune-operator progress CA")
    usage = _usage(sign_certificates=True)
    builder = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def issue(authority: Authority, hosts: Sequence[str], now: datetime) -> tuple[bytes, bytes]:
    """(certificate, key), PEM, for the given names and addresses; passes Python 3.13's strict checks too."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    builder = (
        _builder(_name("finetune-operator progress"), issuer.subject, public, now, LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_issuer_identifier(issuer), critical=False)
    )
    return _pem(builder.sign(_private(authority.key), hashes.SHA256())), _key_pem(key)


def hosts_of(progress_url: str, progress_host: str) -> list[str]:
    """Every name and address that pods, and people trying it out, may use."""
    host = urlsplit(progress_url).hostname or ""
    names = [host, f"{host}.cluster.local" if host.endswith(".svc") else "", progress_host]
    names += ["localhost", "127.0.0.1", "::1"]
    return [name for name in dict.fromkeys(names) if name and name not in (EVERY_ADDRESS, "0.0.0.0", "::")]  # noqa: S104


# The certificate in use


class Certificate:
    """`context` serves; `ca_pem` is for the pods. `keep_fresh()` in a task of its own."""

    def __init__(self, renew: Callable[[], tuple[bytes, bytes, bytes] | None]) -> None:
        self._renew = renew
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.ca_pem = ""
        if not self.refresh():
            raise AssertionError("nothing to serve with")

    def refresh(self) -> bool:
        """Takes a new certificate where it is time; connections that are open keep theirs."""
        renewed = self._renew()
        if renewed is None:
            return False
        certificate, key, authority = renewed
        _load(self.context, certificate, key)
        self.ca_pem = authority.decode()
        return True

    async def keep_fresh(self) -> None:
        """Looks once an hour until it is cancelled. What cannot be renewed is said, and served on."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                if self.refresh():
                    log.info("progress: serving with a new certificate")
            except (OSError, ValueError) as error:
                log.error("progress: the certificate could not be renewed: %s", error)


def from_files(certificate: str, key: str, authority: str) -> Certificate:
    """The administrator's own; read again when a file has changed. Raises OSError, ssl.SSLError."""
    paths = [Path(certificate), Path(key), Path(authority or certificate)]
    seen: list[tuple[bytes, ...]] = []

    def renew() -> tuple[bytes, bytes, bytes] | None:
        now = certificate_pem, key_pem, authority_pem = tuple(path.read_bytes() for path in paths)
        if seen[-1:] == [now]:
            return None
        seen[:] = [now]
        return certificate_pem, key_pem, authority_pem

    return Certificate(renew)


def self_signed(authority: Authority, hosts: Sequence[str], now: Callable[[], datetime]) -> Certificate:
    """One of the operator's own, renewed a month before its end."""
    ends: list[datetime] = []

    def renew() -> tuple[bytes, bytes, bytes] | None:
        moment = now()
        if ends and ends[-1] - moment > RESERVE:
            return None
        certificate, key = issue(authority, hosts, moment)
        ends[:] = [x509.load_pem_x509_certificate(certificate).not_valid_after_utc]
        return certificate, key, authority.certificate

    return Certificate(renew)


async def shared_authority(client: Client, namespace: str, now: datetime) -> Authority:
    """The one in the Secret; made where there is none, or none that is good for another year.

    Raises ForeignSecret where the name is taken, and ApiError.
    """
    path = core(namespace, "secrets", SECRET)
    while True:
        try:
            secret = await client.get(path)
        except NotFound:
            secret = None
        if secret is not None and (found := _stored(secret, now)) is not None:
            return found
        fresh = new_authority(now)
        try:
            if secret is None:
                await client.create(core(namespace, "secrets"), _secret(namespace, fresh))
            else:
                await client.replace(path, {**secret, "data": _secret(namespace, fresh)["data"]})
        except (AlreadyExists, Conflict, NotFound) as error:
            if secret is None and isinstance(error, NotFound):
                raise  # the namespace is missing
            continue  # another replica was faster: take its
        return fresh


def _stored(secret: Object, now: datetime) -> Authority | None:
    if (secret["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) != MANAGED_BY:
        where = f"{secret['metadata']['namespace']}/{secret['metadata']['name']}"
        raise ForeignSecret(f"Secret {where} is not the operator's: remove it, or give --progress-cert-file")
    data = secret.get("data") or {}
    try:
        authority = Authority(base64.b64decode(data["ca.crt"]), base64.b64decode(data["ca.key"]))
        return authority if authority.ends() - now > AUTHORITY_RESERVE else None
    except (KeyError, ValueError, TypeError, binascii.Error):
        log.warning("progress: the certificate authority in Secret %s is broken and is made anew", SECRET)
        return None


def _secret(namespace: str, authority: Authority) -> Object:
    data = {"ca.crt": authority.certificate, "ca.key": authority.key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": namespace, "name": SECRET, "labels": {MANAGED_BY_LABEL: MANAGED_BY}},
        "type": "Opaque",
        "data": {name: base64.b64encode(pem).decode() for name, pem in data.items()},
    }


# X.509


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL reads keys from files only; this one is the user's alone and gone at once."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        for file, pem in zip(files, (certificate, key), strict=True):
            file.touch(mode=0o600)
            file.write_bytes(pem)
        context.load_cert_chain(*files)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)  # pods' clocks may be behind
        .not_valid_after(now + lifetime)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _issuer_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic-curve key")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
