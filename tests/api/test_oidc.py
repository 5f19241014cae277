"""`auth-provider: oidc` as kubectl has it, against a provider of our own and an API server that trusts it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.cli.app import run
from finetune_operator.kube import config, resources
from finetune_operator.kube.client import KubeClient
from tests.api import finetunes
from tests.api.identity_provider import CLIENT, SECRET, Provider, identity_provider
from tests.api.kubeconfigs import encoded, kubeconfig
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.cluster.kubectl import Kubectl
from tests.cluster.pki import Authority

Object = dict[str, Any]
Listed = Callable[[Path], tuple[int, str]]
NAME = "log-in"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The provider's, which is nobody else's."""
    return Authority(tmp_path_factory.mktemp("provider"))


@pytest.fixture(scope="module")
def issuing(authority: Authority) -> Iterator[Provider]:
    with identity_provider(authority, "somebody") as made:
        yield made


@pytest.fixture(scope="module")
def api(issuing: Provider, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that takes the provider's tokens."""
    flags = [
        f"--oidc-issuer-url={issuing.url}",
        f"--oidc-client-id={CLIENT}",
        f"--oidc-ca-file={authority.certificate}",
        "--oidc-username-prefix=-",
        "--oidc-signing-algs=ES256",
    ]
    folder = tmp_path_factory.mktemp("oidc") / "plane"
    with ControlPlane(folder, controller_manager=False, apiserver_flags=flags) as plane:
        install_crd(plane)
        plane.kubectl("create", "clusterrolebinding", NAME, "--clusterrole=cluster-admin", "--user=somebody")
        finetunes.create(plane, finetunes.fine_tune(NAME))
        yield plane


@pytest.fixture
def provider(issuing: Provider) -> Provider:
    """As new."""
    issuing.asked.clear()
    issuing.takes, issuing.refresh_token, issuing.gives_id_token = "header", "refresh-1", True
    return issuing


def user_of(provider: Provider, authority: Authority, seconds: float, **changes: str | None) -> Object:
    settings: dict[str, str | None] = {
        "idp-issuer-url": provider.url,
        "idp-certificate-authority-data": encoded(authority.certificate),
        "client-id": CLIENT,
        "client-secret": SECRET,
        "id-token": provider.token(seconds),
        "refresh-token": "refresh-1",
    }
    settings |= {name.replace("_", "-"): value for name, value in changes.items()}
    kept = {name: value for name, value in settings.items() if value is not None}
    return {"auth-provider": {"name": "oidc", "config": kept}}


def stored(file: Path) -> Object:
    """What the kubeconfig says of the provider."""
    found: Object = yaml.safe_load(file.read_text())["users"][0]["user"]["auth-provider"]["config"]
    return found


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Listed:
    """`kubectl finetune list`: exit code, and all that was said."""

    def call(file: Path) -> tuple[int, str]:
        capsys.readouterr()
        code = run(["list", "--kubeconfig", str(file)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


async def by_the_operator(file: Path) -> None:
    async with KubeClient(config.load(str(file))) as client:
        assert (await client.list(resources.finetunes("default")))["items"]


@pytest.mark.parametrize("takes", ["header", "form"])
@pytest.mark.parametrize("first", ["kubectl", "ours", "operator"])
async def test_a_token_that_has_run_out_is_refreshed_once_for_all(
    api: ControlPlane,
    provider: Provider,
    authority: Authority,
    listed: Listed,
    tmp_path: Path,
    first: str,
    takes: str,
) -> None:
    """Whoever comes first writes the new tokens down: the old refresh token works no second time."""
    provider.takes = takes
    file = kubeconfig(api, tmp_path / "config", user_of(provider, authority, -60))
    file.chmod(0o640)
    if first == "kubectl":
        assert NAME in Kubectl(file)("get", "finetunes")
    elif first == "operator":
        await by_the_operator(file)
    before, asked = stored(file)["id-token"] if first == "kubectl" else "", provider.refreshes
    code, said = listed(file)
    assert (code, NAME in said) == (0, True), said
    await by_the_operator(file)
    assert NAME in Kubectl(file)("get", "finetunes")
    assert stored(file)["refresh-token"] == provider.refresh_token == "refresh-2"
    assert stored(file)["client-secret"] == SECRET
    assert file.stat().st_mode & 0o777 == 0o640
    assert first == "ours" or provider.refreshes == asked
    assert before in ("", stored(file)["id-token"])
    assert os.listdir(tmp_path) == ["config"]


async def test_a_token_that_has_not_run_out_is_used(
    api: ControlPlane,
    provider: Provider,
    authority: Authority,
    listed: Listed,
    tmp_path: Path,
) -> None:
    file = kubeconfig(api, tmp_path / "config", user_of(provider, authority, 3600, refresh_token=None))
    assert listed(file)[0] == 0
    await by_the_operator(file)
    assert provider.refreshes == 0


REFUSED: dict[str, tuple[dict[str, str | None], str]] = {
    "a refresh token of somebody else": ({"refresh_token": "refresh-9"}, "gives no new token; log in again"),
    "no refresh token": ({"refresh_token": None}, "there is no refresh-token; log in again"),
    "a provider whom nobody vouches for": ({"idp_certificate_authority_data": None}, "certificate verify failed"),
    "a provider that is not there": ({"idp_issuer_url": "https://127.0.0.1:9"}, "https://127.0.0.1:9/.well-known"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_work_is_said(
    api: ControlPlane,
    provider: Provider,
    authority: Authority,
    listed: Listed,
    tmp_path: Path,
    what: str,
) -> None:
    changes, words = REFUSED[what]
    code, said = listed(kubeconfig(api, tmp_path / "config", user_of(provider, authority, -60, **changes)))
    assert (code, "getting credentials: oidc: " in said, words in said) == (1, True, True), said
    assert SECRET not in said
    assert "refresh-9" not in said
    if "vouches" in what:
        assert provider.asked == [], "no secret goes to a stranger"


def test_a_provider_without_id_tokens(
    api: ControlPlane,
    provider: Provider,
    authority: Authority,
    listed: Listed,
    tmp_path: Path,
) -> None:
    provider.gives_id_token = False
    code, said = listed(kubeconfig(api, tmp_path / "config", user_of(provider, authority, -60)))
    assert (code, "the login needs the scope openid" in said) == (1, True), said


def test_tokens_that_cannot_be_written_down(
    api: ControlPlane,
    provider: Provider,
    authority: Authority,
    listed: Listed,
    tmp_path: Path,
) -> None:
    """Somebody else has the file in hand: kubectl's lock."""
    file = kubeconfig(api, tmp_path / "config", user_of(provider, authority, -60))
    (tmp_path / "config.lock").touch()
    code, said = listed(file)
    assert (code, f"cannot be written into {file}: File exists" in said) == (1, True), said
