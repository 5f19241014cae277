"""Every way in which a kubeconfig, or a pod, lets one in, on the real API server: `kubectl finetune` and the operator
get through wherever kubectl does; what they do not honour they refuse in words."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.cli.app import run
from finetune_operator.cli.kube.cluster import connect
from finetune_operator.cli.options import Target
from finetune_operator.kube import config, resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import ApiError, Forbidden, NoCluster, NoCredentials, NotFound, Unauthorized
from tests.api import finetunes
from tests.api.kubeconfigs import V1, Plugin, account, encoded, kubeconfig, proxy, token_of
from tests.api.test_run import Operator, eventually
from tests.cluster import binary
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.paths import CHECKOUT

Object = dict[str, Any]
FINETUNES = resources.finetunes("default")
NAME = "log-in"
BOGUS = "bogus-0123456789"
"""A token that nobody has given, and that nobody must read anywhere."""


@pytest.fixture(scope="module", autouse=True)
def known(api: ControlPlane) -> Iterator[None]:
    """Who logs in, and the FineTune that is looked at."""
    account(api, NAME)
    finetunes.create(api, finetunes.fine_tune(NAME))
    yield
    finetunes.delete(api, NAME)


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path / "plugin")


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`kubectl finetune list`: exit code, and all that was said."""

    def call(file: Path, *more: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run(["list", "--kubeconfig", str(file), *more])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


async def asked_by_the_operator(file: Path) -> Object:
    """A request as the operator makes it."""
    async with KubeClient(config.load(str(file))) as client:
        return await client.list(FINETUNES)


async def gets_through(file: Path, listed: Callable[..., tuple[int, str]]) -> None:
    """Where kubectl does: the commands, a stream out of a pod, and the operator."""
    assert NAME in Kubectl(file)("get", "finetunes")
    code, said = listed(file)
    assert (code, NAME in said) == (0, True), said
    with pytest.raises(NotFound, match='pods "absent" not found'):
        list(connect(Target(str(file), None, None)).execute("default", "absent", ["true"]))
    assert NAME in [each["metadata"]["name"] for each in (await asked_by_the_operator(file))["items"]]


WAYS = [
    *("certificate files", "certificate data", "token", "token file", "token and file"),
    *("exec token", "exec certificate", "exec by a relative path"),
]


def user_of(api: ControlPlane, way: str, folder: Path, plugin: Plugin) -> Object:
    admin = api.authority.issue("log-in", "log-in", organizations=["system:masters"])
    (folder / "token").write_text(f"{token_of(api, NAME)}\n")
    (folder / "own.crt").write_bytes(admin.certificate.read_bytes())
    (folder / "own.key").write_bytes(admin.key.read_bytes())
    if way == "exec certificate":
        plugin.says(
            clientCertificateData=admin.certificate.read_text(), clientKeyData=admin.key.read_text(), lifetime="3600"
        )
    else:
        plugin.says(token=token_of(api, NAME), lifetime="3600")
    users: dict[str, Object] = {
        "certificate files": {"client-certificate": "own.crt", "client-key": "own.key"},
        "certificate data": {
            "client-certificate-data": encoded(admin.certificate),
            "client-key-data": encoded(admin.key),
        },
        "token": {"token": token_of(api, NAME)},
        "token file": {"tokenFile": "token"},
        "token and file": {"token": BOGUS, "tokenFile": "token"},
        "exec token": plugin.user(),
        "exec certificate": plugin.user(),
        "exec by a relative path": plugin.user(command="plugin/log-in"),
    }
    return users[way]


@pytest.mark.parametrize("way", WAYS)
async def test_whoever_kubectl_lets_in_gets_through(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], plugin: Plugin, tmp_path: Path, way: str
) -> None:
    """Relative paths begin at the kubeconfig, not at the folder that one works in."""
    await gets_through(kubeconfig(api, tmp_path / "config", user_of(api, way, tmp_path, plugin)), listed)


async def test_in_a_pod(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the kubelet mounts; the namespace is the pod's."""
    (tmp_path / "token").write_text(token_of(api, NAME))
    (tmp_path / "ca.crt").write_bytes(api.authority.certificate.read_bytes())
    (tmp_path / "namespace").write_text("kube-public")
    monkeypatch.setattr(config, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    cluster = connect(Target(None, None, None))
    assert cluster.namespace == "kube-public"
    assert cluster.items(FINETUNES)
    async with KubeClient(config.load()) as client:
        assert (await client.list(FINETUNES))["items"]
    # A kubeconfig goes over it for a person; for the operator only one that it is given.
    (tmp_path / ".kube").mkdir()
    kubeconfig(api, tmp_path / ".kube" / "config", {"token": BOGUS})
    with pytest.raises(Unauthorized):
        connect(Target(None, None, None)).items(FINETUNES)
    async with KubeClient(config.load()) as client:
        assert (await client.list(FINETUNES))["items"]


# Credentials that run out


def test_a_watch_outlives_the_plugins_tokens(api: ControlPlane, plugin: Plugin, tmp_path: Path) -> None:
    plugin.says(token=token_of(api, NAME), lifetime="1")
    file, log = kubeconfig(api, tmp_path / "config", plugin.user()), tmp_path / "log"
    command = [sys.executable, "-m", "finetune_operator.cli", "watch", NAME, "--kubeconfig", str(file)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "operator")}
    with log.open("wb") as said:
        watching = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 60
        while len(plugin.runs) < 4:
            assert watching.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the plugin was not asked again"
            time.sleep(0.1)
        ended = {"phase": "Succeeded", "reason": "TrainingSucceeded", "completionTime": "2026-01-02T03:04:05Z"}
        assert finetunes.patch(api, NAME, {"status": {"run": 1, **ended}}, "/status") == ""
        assert watching.wait(60) == 0
    finally:
        watching.kill()
        watching.wait()


def test_what_has_not_run_out_is_not_asked_for_again(api: ControlPlane, plugin: Plugin, tmp_path: Path) -> None:
    plugin.says(token=token_of(api, NAME), lifetime="3600")
    cluster = connect(Target(str(kubeconfig(api, tmp_path / "config", plugin.user())), None, None))
    for _ in range(3):
        cluster.items(FINETUNES)
    assert len(plugin.runs) == 1


def test_a_refusal_asks_the_plugin_once_more(api: ControlPlane, plugin: Plugin, tmp_path: Path) -> None:
    plugin.says(token=BOGUS)
    cluster = connect(Target(str(kubeconfig(api, tmp_path / "config", plugin.user())), None, None))
    with pytest.raises(Unauthorized, match="does not know you") as refused:
        cluster.items(FINETUNES)
    assert len(plugin.runs) == 2
    assert str(plugin.command) in str(refused.value)
    assert BOGUS not in str(refused.value)
    plugin.says(token=token_of(api, NAME))
    assert cluster.items(FINETUNES)
    assert len(plugin.runs) == 3
    with pytest.raises(NotFound):
        list(cluster.execute("default", "absent", ["true"]))
    assert len(plugin.runs) == 3


def test_a_refusal_reads_the_token_file_anew(api: ControlPlane, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(BOGUS)
    cluster = connect(Target(str(kubeconfig(api, tmp_path / "config", {"tokenFile": str(token)})), None, None))
    with pytest.raises(Unauthorized, match=str(token)):
        cluster.items(FINETUNES)
    token.write_text(token_of(api, NAME))
    assert cluster.items(FINETUNES)
    token.unlink()
    assert cluster.items(FINETUNES), "the last one is still good"


async def test_the_operators_next_call_has_another_token(api: ControlPlane, plugin: Plugin, tmp_path: Path) -> None:
    plugin.says(token=BOGUS)
    async with KubeClient(config.load(str(kubeconfig(api, tmp_path / "config", plugin.user())))) as client:
        with pytest.raises(Unauthorized):
            await client.list(FINETUNES)
        plugin.says(token=token_of(api, NAME))
        assert (await client.list(FINETUNES))["items"]
    assert len(plugin.runs) == 2


async def test_the_operator_works_with_a_plugins_tokens(api: ControlPlane, plugin: Plugin, tmp_path: Path) -> None:
    """Its watches too: the first token is refused, and each later one runs out."""
    plugin.says(token=BOGUS, lifetime="1")
    file = kubeconfig(api, tmp_path / "config", plugin.user())
    operator = Operator(api, tmp_path / "log", kubeconfig=str(file), **{"leader-election": "false"})
    name = "log-in-run"
    try:
        await eventually(partial(plugin.has_run_since, 1), operator)
        plugin.says(token=token_of(api, NAME), lifetime="1")
        for again in ("first", "second"):
            finetunes.create(api, finetunes.fine_tune(f"{name}-{again}"))
            await eventually(partial(api.find, f"/apis/batch/v1/namespaces/default/jobs/{name}-{again}-1"), operator)
            await eventually(partial(plugin.has_run_since, len(plugin.runs)), operator)
    finally:
        operator.process.kill()
        operator.process.wait()
        for again in ("first", "second"):
            finetunes.delete(api, f"{name}-{again}")
    log = operator.log.read_text()
    assert BOGUS not in log
    assert "Traceback" not in log


# What goes wrong with a plugin


def same_words(file: Path, listed: Callable[..., tuple[int, str]], words: str) -> str:
    """kubectl says these, and so does ours; all that ours says."""
    with pytest.raises(KubectlError) as failed:
        Kubectl(file)("get", "finetunes")
    assert words in str(failed.value)
    code, said = listed(file)
    assert (code, words in said) == (1, True), said
    assert "Traceback" not in said
    return said


async def test_a_plugin_that_is_not_installed(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], plugin: Plugin, tmp_path: Path
) -> None:
    missing = plugin.user(command="log-in-plugin-of-nobody")
    file = kubeconfig(api, tmp_path / "config", missing)
    said = same_words(file, listed, "getting credentials: exec: executable log-in-plugin-of-nobody not found")
    assert "https://kubernetes.io/docs" in said
    with pytest.raises(NoCredentials, match="executable log-in-plugin-of-nobody not found"):
        await asked_by_the_operator(file)
    missing["exec"]["installHint"] = "Get it from \x1b[31mexample.com"
    said = same_words(kubeconfig(api, file, missing), listed, "log-in-plugin-of-nobody not found")
    assert "Get it from [31mexample.com" in said


async def test_a_plugin_that_fails(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], plugin: Plugin, tmp_path: Path
) -> None:
    plugin.says(token=BOGUS, code=3)
    file = kubeconfig(api, tmp_path / "config", plugin.user())
    said = same_words(file, listed, f"getting credentials: exec: executable {plugin.command} failed with exit code 3")
    assert BOGUS not in said
    with pytest.raises(NoCredentials) as failed:
        await asked_by_the_operator(file)
    assert BOGUS not in f"{failed.value!r} {failed.value}"


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"token": BOGUS, "version": f"{V1}beta1"}, "gives another version"),
        ({"token": ""}, "neither a token nor a certificate"),
        ({"clientCertificateData": BOGUS}, "only one of certificate and key"),
        ({"clientCertificateData": BOGUS, "clientKeyData": BOGUS}, "client certificate: "),
        ({"token": f"{BOGUS}\n"}, "characters that no token has"),
        ({"token": BOGUS, "expirationTimestamp": BOGUS}, "is not a time"),
    ],
)
def test_a_plugin_that_says_what_nobody_can_use(
    api: ControlPlane,
    listed: Callable[..., tuple[int, str]],
    plugin: Plugin,
    tmp_path: Path,
    says: dict[str, str],
    words: str,
) -> None:
    plugin.says(**says)  # type: ignore[arg-type]
    code, said = listed(kubeconfig(api, tmp_path / "config", plugin.user()))
    assert (code, words in said, BOGUS in said) == (1, True, False), said


@pytest.mark.parametrize("printed", [BOGUS, "[]", '{"kind": "Secret"}', '{"kind": "ExecCredential", "status": 1}'])
def test_a_plugin_that_prints_something_else(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], tmp_path: Path, printed: str
) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho '{printed}'\n")
    script.chmod(0o755)
    user = {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "interactiveMode": "Never"}
    }
    code, said = listed(kubeconfig(api, tmp_path / "config", user))
    assert (code, "getting credentials: exec: " in said, BOGUS in said) == (1, True, False), said


def test_a_plugin_is_told_of_the_cluster_where_it_wants_to_know(
    api: ControlPlane, plugin: Plugin, tmp_path: Path
) -> None:
    plugin.says(token=token_of(api, NAME))
    more = {"extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "us"}}]}
    file = kubeconfig(api, tmp_path / "config", plugin.user(provideClusterInfo=True), **more)
    Kubectl(file)("get", "finetunes")
    connect(Target(str(file), None, None)).items(FINETUNES)
    theirs, ours = plugin.runs
    assert ours == theirs
    assert ours["spec"]["cluster"]["config"] == {"audience": "us"}


# What else a kubeconfig may say


async def test_whom_one_impersonates_one_is(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    user = {"token": token_of(api, NAME), "as": "stranger"}
    file = kubeconfig(api, tmp_path / "config", user)
    code, said = listed(file)
    assert (code, 'User "stranger" cannot list' in said) == (1, True), said
    with pytest.raises(Forbidden, match='User "stranger"'):
        list(connect(Target(str(file), None, None)).execute("default", "absent", ["true"]))
    with pytest.raises(Forbidden, match='User "stranger"'):
        await asked_by_the_operator(file)
    more = {"as-groups": ["one", "system:masters"], "as-uid": "7", "as-user-extra": {"scopes/odd": ["a", "b"]}}
    await gets_through(kubeconfig(api, file, user | more), listed)
    reviewed = connect(Target(str(file), None, None)).create(
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
    )["status"]["userInfo"]
    assert (reviewed["username"], reviewed["uid"], reviewed["extra"]) == ("stranger", "7", {"scopes/odd": ["a", "b"]})
    assert {"one", "system:masters"} <= set(reviewed["groups"])


@pytest.mark.parametrize("name", ["kubernetes", "elsewhere"])
async def test_the_name_that_the_certificate_must_have(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], tmp_path: Path, name: str
) -> None:
    file = kubeconfig(api, tmp_path / "config", {"token": token_of(api, NAME)}, tls_server_name=name)
    if name == "kubernetes":
        await gets_through(file, listed)
        return
    code, said = listed(file)
    assert (code, name in said) == (1, True), said
    with pytest.raises(ApiError, match="elsewhere"):
        list(connect(Target(str(file), None, None)).execute("default", "absent", ["true"]))
    with pytest.raises(ApiError, match="elsewhere"):
        await asked_by_the_operator(file)


async def test_no_authority_and_no_check(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    user = {"token": token_of(api, NAME)}
    unchecked = {"certificate_authority": None, "insecure_skip_tls_verify": True}
    await gets_through(kubeconfig(api, tmp_path / "config", user, **unchecked), listed)
    checked = kubeconfig(api, tmp_path / "config", user, certificate_authority=None)
    code, said = listed(checked)
    assert (code, "certificate verify failed" in said) == (1, True), said
    with pytest.raises(ApiError, match="certificate verify failed"):
        await asked_by_the_operator(checked)


@pytest.mark.parametrize("login", ["", "me:p%40ss@"])
async def test_by_the_kubeconfigs_proxy(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], tmp_path: Path, login: str
) -> None:
    with proxy() as way:
        url = f"http://{login}127.0.0.1:{way.port}"
        file = kubeconfig(api, tmp_path / "config", {"token": token_of(api, NAME)}, proxy_url=url)
        await gets_through(file, listed)
    assert len(way.asked) >= 4
    assert all(head.startswith(f"CONNECT 127.0.0.1:{api.port} ") for head in way.asked)
    # base64 of me:p@ss
    assert all("proxy-authorization: basic bwu6cebzcw==" in head.lower() for head in way.asked) == bool(login)


def test_several_files_are_merged_as_kubectl_does(
    api: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first file that names a thing has it, and relative paths begin at the file that they stand in."""
    first, second = tmp_path / "one" / "config", tmp_path / "two" / "config"
    for file in (first, second):
        file.parent.mkdir()
    (second.parent / "token").write_text(token_of(api, NAME))
    kubeconfig(api, second, {"tokenFile": "token"})
    more = yaml.safe_load(second.read_text())
    more["current-context"] = "nowhere"
    more["contexts"].append({"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "kube-public"}})
    second.write_text(yaml.safe_dump(more))
    own = {"name": "u", "user": {"token": BOGUS}}
    first.write_text(yaml.safe_dump({"current-context": "here", "users": [own]}))
    monkeypatch.setenv("KUBECONFIG", f"{second}{os.pathsep}{tmp_path / 'absent'}{os.pathsep}{first}")

    def kubectl(*arguments: str) -> str:
        command = [str(binary.kubernetes() / "kubectl"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    assert NAME in kubectl("get", "finetunes", "--context", "here")
    assert run(["list", "--context", "here"]) == 0
    assert NAME in capsys.readouterr().out
    assert connect(Target(None, "other", None)).namespace == "kube-public"
    assert run(["list"]) == 2
    assert 'context "nowhere" does not exist; there are: here, other' in capsys.readouterr().err
    monkeypatch.setenv("KUBECONFIG", f"{first}{os.pathsep}{second}")
    assert kubectl("get", "finetunes") == ""
    assert run(["list"]) == 1
    assert "does not know you; it was sent a token (user u of" in capsys.readouterr().err
    assert config.load(context="other").namespace == "kube-public"


def test_a_name_and_a_password_are_sent_and_named_when_they_are_refused(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, said = listed(kubeconfig(api, tmp_path / "config", {"username": "me", "password": BOGUS}))
    assert (code, "which Kubernetes itself has not taken since 1.19" in said, BOGUS in said) == (1, True, False), said


def test_who_is_nobody_is_told_so(api: ControlPlane, listed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, said = listed(kubeconfig(api, tmp_path / "config", None))
    assert (code, "it was sent no credentials: its context names no user" in said) == (1, True), said


REFUSED: dict[str, tuple[Object, Object, str]] = {
    "gcp": ({"auth-provider": {"name": "gcp"}}, {}, "gke-gcloud-auth-plugin"),
    "azure": ({"auth-provider": {"name": "azure"}}, {}, "kubelogin"),
    "another provider": ({"auth-provider": {"name": "mine"}}, {}, "no auth-provider mine"),
    "oidc without an issuer": ({"auth-provider": {"name": "oidc", "config": {}}}, {}, "idp-issuer-url"),
    "two ways": ({"token": BOGUS, "username": "me"}, {}, "only one way to log in"),
    "two more ways": (
        {"auth-provider": {"name": "oidc"}, "exec": {"command": "c", "apiVersion": V1}},
        {},
        "only one way to log in",
    ),
    "a plugin of old": (
        {"exec": {"command": "c", "apiVersion": f"{V1}alpha1"}},
        {},
        "v1beta1",
    ),
    "a plugin that asks": (
        {"exec": {"command": "c", "apiVersion": V1, "interactiveMode": "Always"}},
        {},
        "not a terminal",
    ),
    "groups alone": ({"token": BOGUS, "as-groups": ["system:masters"]}, {}, "whom to impersonate"),
    "no text": ({"token": 12345}, {}, "token must be text"),
    "no base64": (
        {"client-certificate-data": f"{BOGUS}!", "client-key-data": "!"},
        {},
        "client-certificate-data is not base64",
    ),
    "half a certificate": ({"client-certificate": "own.crt"}, {}, "go together"),
    "a file that is not there": ({"client-certificate": "own.crt", "client-key": "own.key"}, {}, "own.crt"),
    "socks": ({}, {"proxy_url": "socks5://127.0.0.1:9"}, "socks5 cannot be used"),
    "unchecked and checked": ({}, {"insecure_skip_tls_verify": True}, "exclude each other"),
    "an authority that is not there": ({}, {"certificate_authority": "absent.crt"}, "absent.crt"),
    "no server": ({}, {"server": None}, "server is missing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_honoured_is_refused_in_words(
    api: ControlPlane, listed: Callable[..., tuple[int, str]], tmp_path: Path, what: str
) -> None:
    user, cluster, words = REFUSED[what]
    file = kubeconfig(api, tmp_path / "config", user, **cluster)
    code, said = listed(file)
    assert (code, words in said, BOGUS in said) == (2, True, False), said
    with pytest.raises(NoCluster, match=words) as refused:
        config.load(str(file)).ssl_context()
    assert BOGUS not in str(refused.value)
