"""A pod's volumes as folders on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .api import KubeApi
from .environment import Host, expand
from .fields import FieldError, pod_field, resource_field
from .mounts import Mount
from .payload import File, PayloadError, project

_DEFAULT_MODE = 0o644
_TOKEN_REFRESH = 0.8  # of its lifetime; the kubelet's fraction


class VolumeError(Exception):
    """A volume cannot be set up (yet); the text is what the kubelet's FailedMount event says after the colon."""

    def __init__(self, volume: str, message: str) -> None:
        super().__init__(f'MountVolume.SetUp failed for volume "{volume}" : {message}')


class Volumes:
    """The volumes of one pod below one folder. `prepare` is called again to pick up changed objects."""

    def __init__(self, api: KubeApi, pod: Mapping[str, Any], folder: Path, host: Host) -> None:
        self._api = api
        self._pod = pod
        self._folder = folder
        self._host = host
        self._hosts: dict[str, Path] = {}
        self._tokens: dict[tuple[str, str], tuple[bytes, float]] = {}

    @property
    def live(self) -> bool:
        """Whether any volume follows objects that may change."""
        kinds = {"secret", "configMap", "downwardAPI", "projected"}
        return any(kinds & volume.keys() for volume in self._pod["spec"].get("volumes") or ())

    def prepare(self, pod: Mapping[str, Any]) -> None:
        """Sets every volume up, or brings it up to date. Raises VolumeError and ApiError."""
        self._pod = pod
        for volume in pod["spec"].get("volumes") or ():
            try:
                self._hosts[volume["name"]] = self._set_up(volume)
            except (FieldError, PayloadError, OSError) as error:
                raise VolumeError(volume["name"], str(error)) from error

    def mounts(self, container: Mapping[str, Any], env: Mapping[str, str]) -> list[Mount]:
        """The container's mount points; sub-paths are made where they are missing. Raises VolumeError."""
        result = []
        for mount in container.get("volumeMounts") or ():
            root = self._hosts[mount["name"]]
            sub_path = mount.get("subPath") or expand(mount.get("subPathExpr") or "", env)
            host = root / sub_path if sub_path else root
            if ".." in Path(sub_path).parts or Path(sub_path).is_absolute():
                raise VolumeError(mount["name"], f"subPath {sub_path!r} must stay inside the volume")
            try:
                host.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                pass  # a single file
            except OSError as error:
                raise VolumeError(mount["name"], f"subPath {sub_path!r}: {error}") from error
            result.append(Mount(mount["mountPath"], host))
        return result

    def _set_up(self, volume: Mapping[str, Any]) -> Path:
        name: str = volume["name"]
        if "hostPath" in volume:
            return _host_path(name, volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            return self._claim(name, volume["persistentVolumeClaim"]["claimName"])
        folder = self._folder / name
        if "emptyDir" in volume:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
            return folder
        project(folder, self._files(name, volume))
        return folder

    def _files(self, name: str, volume: Mapping[str, Any]) -> dict[str, File]:
        if "secret" in volume:
            source = volume["secret"]
            return self._object(name, {**source, "name": source["secretName"]}, source.get("defaultMode"), secret=True)
        if "configMap" in volume:
            return self._object(name, volume["configMap"], volume["configMap"].get("defaultMode"), secret=False)
        if "downwardAPI" in volume:
            return self._downward(volume["downwardAPI"], volume["downwardAPI"].get("defaultMode"))
        if "projected" in volume:
            files: dict[str, File] = {}
            mode = volume["projected"].get("defaultMode")
            for source in volume["projected"].get("sources") or ():
                files |= self._projected(name, source, mode)
            return files
        kinds = ", ".join(sorted(key for key in volume if key != "name"))
        raise VolumeError(name, f"volume type {kinds} is not supported where pods run as processes")

    def _projected(self, name: str, source: Mapping[str, Any], mode: int | None) -> dict[str, File]:
        if "secret" in source:
            return self._object(name, source["secret"], mode, secret=True)
        if "configMap" in source:
            return self._object(name, source["configMap"], mode, secret=False)
        if "downwardAPI" in source:
            return self._downward(source["downwardAPI"], mode)
        if "serviceAccountToken" in source:
            request = source["serviceAccountToken"]
            token = self._token(request.get("audience") or "", int(request.get("expirationSeconds") or 3600))
            # The kubelet narrows a token to its owner; so does this.
            return {request["path"]: File(token, 0o600)}
        raise VolumeError(name, f"projected source {', '.join(source)} is not supported where pods run as processes")

    def _object(self, volume: str, source: Mapping[str, Any], mode: int | None, *, secret: bool) -> dict[str, File]:
        kind = "secret" if secret else "configmap"
        data = self._api.data(f"{kind}s", self._pod["metadata"]["namespace"], source["name"])
        optional = bool(source.get("optional"))
        if data is None:
            if optional:
                return {}
            raise VolumeError(volume, f'{kind} "{source["name"]}" not found')
        default = _DEFAULT_MODE if mode is None else mode
        if not source.get("items"):
            return {key: File(value, default) for key, value in data.items()}
        files = {}
        for item in source["items"]:
            if item["key"] in data:
                files[item["path"]] = File(data[item["key"]], item.get("mode", default))
            elif not optional:
                word = "secret" if secret else "config"
                raise VolumeError(volume, f"references non-existent {word} key: {item['key']}")
        return files

    def _downward(self, source: Mapping[str, Any], mode: int | None) -> dict[str, File]:
        default = _DEFAULT_MODE if mode is None else mode
        files = {}
        for item in source.get("items") or ():
            if "fieldRef" in item:
                text = pod_field(self._pod, item["fieldRef"]["fieldPath"], self._host.address)
            else:
                reference = item["resourceFieldRef"]
                text = resource_field(self._container(reference["containerName"]), reference, self._host.allocatable)
            files[item["path"]] = File(text.encode(), item.get("mode", default))
        return files

    def _container(self, name: str) -> Mapping[str, Any]:
        spec = self._pod["spec"]
        for container in (*spec["containers"], *(spec.get("initContainers") or ())):
            if container["name"] == name:
                return container  # type: ignore[no-any-return]
        raise FieldError(f"unknown container {name}")

    def _token(self, audience: str, lifetime: int) -> bytes:
        """A token bound to the pod, requested again when most of its lifetime is over."""
        cached = self._tokens.get((audience, str(lifetime)))
        if cached is not None and time.monotonic() < cached[1]:
            return cached[0]
        metadata = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName") or "default"
        pod = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        spec: dict[str, Any] = {"expirationSeconds": lifetime, "boundObjectRef": pod}
        if audience:
            spec["audiences"] = [audience]
        answer = self._api.request(
            "POST",
            f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        token = answer["status"]["token"].encode()
        self._tokens[audience, str(lifetime)] = (token, time.monotonic() + _TOKEN_REFRESH * lifetime)
        return token  # type: ignore[no-any-return]

    def _claim(self, volume: str, claim_name: str) -> Path:
        namespace = self._pod["metadata"]["namespace"]
        claim = self._api.find(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim_name}")
        if claim is None:
            raise VolumeError(volume, f'persistentvolumeclaim "{claim_name}" not found')
        bound_to = claim["spec"].get("volumeName")
        if (claim.get("status") or {}).get("phase") != "Bound" or not bound_to:
            raise VolumeError(volume, f'persistentvolumeclaim "{claim_name}" is not bound')
        persistent = self._api.find(f"/api/v1/persistentvolumes/{bound_to}")
        if persistent is None:
            raise VolumeError(volume, f'persistentvolume "{bound_to}" not found')
        source = persistent["spec"].get("hostPath") or persistent["spec"].get("local")
        if source is None:
            raise VolumeError(volume, f'persistentvolume "{bound_to}" is neither a hostPath nor a local volume')
        return _host_path(volume, source)


def _host_path(volume: str, source: Mapping[str, Any]) -> Path:
    path: Path = Path(source["path"])
    kind = source.get("type") or "DirectoryOrCreate"
    if kind == "DirectoryOrCreate" and not path.exists():
        path.mkdir(parents=True)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch()
    checks: dict[str, tuple[Callable[[], bool], str]] = {
        "Directory": (path.is_dir, "a directory"),
        "File": (path.is_file, "a file"),
        "FileOrCreate": (path.is_file, "a file"),
        "Socket": (path.is_socket, "a socket file"),
        "CharDevice": (path.is_char_device, "a character device"),
        "BlockDevice": (path.is_block_device, "a block device"),
    }
    if kind in checks and not checks[kind][0]():
        raise VolumeError(volume, f"hostPath type check failed: {path} is not {checks[kind][1]}")
    return path
