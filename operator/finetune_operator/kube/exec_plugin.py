"""Exec plugins (EKS, GKE, AKS and others): a program that prints an ExecCredential, run as client-go runs it.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
What it prints holds the token: no error of ours shows any of it. What it writes to stderr goes to ours, as it does with
kubectl: it may ask a person to log in.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from finetune_operator.api.objects import Object
from finetune_operator.kube.credential import Credential, Fetched, bearer
from finetune_operator.kube.errors import NoCredentials
from finetune_operator.kube.kubeconfig import Part

GROUP: Final = "client.authentication.k8s.io"
VERSIONS: Final = (f"{GROUP}/v1", f"{GROUP}/v1beta1")
CLUSTER_FIELDS: Final = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression")
PATIENCE_SECONDS: Final = 60.0
"""Where nobody is at hand who may be asked, or who ends it."""
HELP: Final = (
    "It is a credential plugin that is not installed here: install it, or add it to PATH. "
    "https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins"
)


@dataclass(frozen=True, slots=True)
class Plugin:
    """What to run, and how."""

    command: str
    arguments: tuple[str, ...] = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)
    version: str
    hint: str
    cluster: Object | None
    interactive: bool
    patience: float | None

    def fetch(self) -> Fetched:
        """Run it. Raises NoCredentials."""
        return _read(self, self._run())

    def _run(self) -> bytes:
        info: Object = {"kind": "ExecCredential", "apiVersion": self.version, "spec": {"interactive": self.interactive}}
        if self.cluster is not None:
            info["spec"]["cluster"] = self.cluster
        program = shutil.which(self.command)
        if program is None:
            raise self.error(f"executable {self.command} not found", HELP)
        try:
            done = subprocess.run(
                [program, *self.arguments],
                stdin=None if self.interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env={**os.environ, **self.environment, "KUBERNETES_EXEC_INFO": json.dumps(info)},
                timeout=self.patience,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise self.error(f"executable {self.command} did not end within {self.patience:g} s") from None
        except OSError as error:
            raise self.error(f"executable {self.command}: {error.strerror}") from None
        if done.returncode != 0:
            raise self.error(f"executable {self.command} failed with exit code {done.returncode}")
        return done.stdout

    def error(self, words: str, hint: str = "") -> NoCredentials:
        """To be raised; the kubeconfig's own hint comes first."""
        return NoCredentials(f"exec: {words}", self.hint or hint)


def plugin_of(user: Part, cluster: Part, authority: bytes | None, *, at_hand: bool) -> Plugin | None:
    """The plugin that the kubeconfig's user names. `at_hand`: somebody may be asked. Raises NoCluster."""
    named = user.below("exec")
    if named is None:
        return None
    command, version = named.text("command"), named.text("apiVersion")
    if not command:
        raise named.error("command is missing")
    if version not in VERSIONS:
        raise named.error(f"apiVersion must be {' or '.join(VERSIONS)}")
    if os.path.dirname(command):
        command = str(named.file.parent / command)
    return Plugin(
        command=command,
        arguments=tuple(str(each) for each in named.items("args")),
        environment=_environment(named),
        version=version,
        hint=_plain(named.text("installHint")),
        cluster=_cluster_info(cluster, authority) if named.flag("provideClusterInfo") else None,
        interactive=_interactive(named, at_hand),
        patience=None if at_hand else PATIENCE_SECONDS,
    )


def _plain(text: str) -> str:
    """Without the escape codes by which it could write over what stands on the terminal."""
    return "".join(letter for letter in text if letter.isprintable() or letter == "\n").strip()


def _environment(named: Part) -> dict[str, str]:
    variables = {}
    for each in named.items("env"):
        if not isinstance(each, dict) or not each.get("name"):
            raise named.error("env must be a list of names and values")
        variables[str(each["name"])] = str(each.get("value") or "")
    return variables


def _interactive(named: Part, at_hand: bool) -> bool:
    mode = named.text("interactiveMode") or "IfAvailable"
    if mode not in ("Never", "IfAvailable", "Always"):
        raise named.error("interactiveMode must be Never, IfAvailable or Always")
    available = at_hand and sys.stdin is not None and sys.stdin.isatty()
    if mode == "Always" and not available:
        raise named.error(
            "the plugin must ask somebody (interactiveMode: Always), and standard input is not a terminal"
        )
    return available and mode != "Never"


def _cluster_info(cluster: Part, authority: bytes | None) -> Object:
    info: Object = {name: cluster.fields[name] for name in CLUSTER_FIELDS if cluster.fields.get(name)}
    if authority is not None:
        info["certificate-authority-data"] = base64.b64encode(authority).decode()
    for each in cluster.items("extensions"):
        if isinstance(each, dict) and each.get("name") == f"{GROUP}/exec":
            info["config"] = each.get("extension")
    return info


def _read(plugin: Plugin, said: bytes) -> Fetched:
    try:
        answer = json.loads(said)
    except ValueError:
        raise plugin.error(f"what {plugin.command} prints is not valid JSON") from None
    if not isinstance(answer, dict) or answer.get("kind") != "ExecCredential":
        raise plugin.error(f"what {plugin.command} prints is not an ExecCredential")
    if answer.get("apiVersion") != plugin.version:
        raise plugin.error(f"the kubeconfig asks for {plugin.version}, and {plugin.command} gives another version")
    status = answer.get("status")
    fields = {name: status.get(name) for name in _FIELDS} if isinstance(status, dict) else {}
    if any(value is not None and not isinstance(value, str) for value in fields.values()):
        raise plugin.error(f"what {plugin.command} prints is not an ExecCredential")
    token, certificate, key = (fields.get(name) for name in _FIELDS[:3])
    if bool(certificate) != bool(key):
        raise plugin.error(f"{plugin.command} gives only one of certificate and key")
    if not token and not certificate:
        raise plugin.error(f"{plugin.command} gives neither a token nor a certificate")
    authorization = bearer(token).authorization if token else None
    pair = (certificate, key) if certificate and key else None
    return Fetched(Credential(authorization, pair), _time(plugin, fields.get("expirationTimestamp")))


_FIELDS: Final = ("token", "clientCertificateData", "clientKeyData", "expirationTimestamp")


def _time(plugin: Plugin, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise plugin.error(f"the expirationTimestamp of {plugin.command} is not a time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
