"""Where the API server is and how to be let in, read by the kubernetes package's own loader."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client, config

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class NoCluster(Exception):
    """No usable kubeconfig and not in a pod."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an API server. `authorization` is asked anew for every request: tokens rotate."""

    server: str
    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    verify: bool
    authorization: Callable[[], str | None]

    def ssl_context(self) -> ssl.SSLContext | None:
        """None for plain http. Raises OSError or ssl.SSLError where a file is missing or broken."""
        if not self.server.startswith("https"):
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


def load(kubeconfig: str | None = None, context: str | None = None) -> Access:
    """Access from the named kubeconfig, else from the pod's service account, else from the default kubeconfig.

    Raises NoCluster with what was tried.
    """
    configuration = client.Configuration()
    try:
        if kubeconfig or context:
            config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
        else:
            _load_default(configuration)
    except (config.ConfigException, OSError) as error:
        raise NoCluster(f"no cluster to talk to: {error}; give --kubeconfig, or run in a pod") from error

    def authorization() -> str | None:
        # The loaders of the package keep it under the first name; older ones kept it under the second.
        value: str | None = configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return value

    return Access(
        server=configuration.host.rstrip("/"),
        ca_file=configuration.ssl_ca_cert,
        cert_file=configuration.cert_file,
        key_file=configuration.key_file,
        verify=configuration.verify_ssl,
        authorization=authorization,
    )


def _load_default(configuration: client.Configuration) -> None:
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        config.load_kube_config(client_configuration=configuration)
