"""Makes a folder on this machine for every claim of the local storage class, and removes it with the claim.

The controller manager's own host path provisioner makes folders that only root can write to, and keeps them in one
place for all clusters of the machine. Runs as `python -m tests.cluster.provisioner`.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.node_agent.api import ApiError, KubeApi

STORAGE_CLASS = "finetune-local"
PROVISIONER = "finetune.dev/local"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
RETRY_SECONDS = 1.0

Rule = Callable[[KubeApi, dict[str, Any], Path], None]

log = logging.getLogger(__name__)


def storage_class() -> dict[str, Any]:
    """The default storage class."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def wants_volume(claim: dict[str, Any]) -> bool:
    """Whether the claim asks this class for a new volume."""
    spec = claim["spec"]
    waits = claim.get("status", {}).get("phase") == "Pending" and not spec.get("volumeName")
    return bool(
        waits and spec.get("storageClassName") == STORAGE_CLASS and not claim["metadata"].get("deletionTimestamp")
    )


def volume_for(claim: dict[str, Any], volumes: Path) -> dict[str, Any]:
    """The volume, bound to the claim from its start; its folder is `volumes/<name of the volume>`."""
    metadata, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{metadata['uid']}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": str(volumes / name), "type": "Directory"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }


def is_released(volume: dict[str, Any]) -> bool:
    """Whether the volume is ours and its claim is gone."""
    ours = volume["metadata"].get("annotations", {}).get(PROVISIONED_BY) == PROVISIONER
    return bool(ours and volume.get("status", {}).get("phase") == "Released")


def provision(api: KubeApi, claim: dict[str, Any], volumes: Path) -> None:
    """Makes folder and volume; a second call for the same claim changes nothing."""
    volume = volume_for(claim, volumes)
    folder = Path(volume["spec"]["hostPath"]["path"])
    folder.mkdir(parents=True, exist_ok=True)
    # Pods run as any user, and a host path takes no fsGroup. The folder above is closed to other users of the machine.
    folder.chmod(0o777)
    try:
        api.request("POST", "/api/v1/persistentvolumes", volume)
    except ApiError as error:
        if error.code != 409:
            raise
        return
    log.info("made %s for claim %s/%s", folder, claim["metadata"]["namespace"], claim["metadata"]["name"])


def reclaim(api: KubeApi, volume: dict[str, Any], volumes: Path) -> None:
    """Deletes the folder, then the volume."""
    name = volume["metadata"]["name"]
    folder = Path(volume["spec"]["hostPath"]["path"])
    if folder == volumes / name:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        api.request("DELETE", f"/api/v1/persistentvolumes/{name}")
    except ApiError as error:
        if error.code != 404:
            raise
    log.info("removed %s", folder)


def provision_wanted(api: KubeApi, claim: dict[str, Any], volumes: Path) -> None:
    """A volume for the claim, if it waits for one of ours."""
    if wants_volume(claim):
        provision(api, claim, volumes)


def reclaim_released(api: KubeApi, volume: dict[str, Any], volumes: Path) -> None:
    """The end of the volume, if it is ours and its claim is gone."""
    if is_released(volume):
        reclaim(api, volume, volumes)


RULES: dict[str, Rule] = {
    "/api/v1/persistentvolumeclaims": provision_wanted,
    "/api/v1/persistentvolumes": reclaim_released,
}
"""What is done for each object, decided by that object's own state: no rule waits for another controller."""


def follow(api: KubeApi, path: str, volumes: Path) -> None:
    """Every object of a collection, then each as it changes, until the API server ends the watch. Raises ApiError."""
    listed = api.get(path)
    for found in listed["items"]:
        RULES[path](api, found, volumes)
    for event in api.watch(path, {"resourceVersion": listed["metadata"]["resourceVersion"]}):
        if event["type"] in ("ADDED", "MODIFIED"):
            RULES[path](api, event["object"], volumes)


def follow_always(api: KubeApi, path: str, volumes: Path) -> None:
    """`follow`, again and again."""
    while True:
        try:
            follow(api, path, volumes)
        except ApiError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("%s", path)  # one rule's end would leave claims or volumes waiting for ever
        time.sleep(RETRY_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--volumes", type=Path, required=True, help="the folder that holds the volumes' folders")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    api = KubeApi(arguments.kubeconfig)
    volumes = arguments.volumes.absolute()
    threads = [threading.Thread(target=follow_always, args=(api, path, volumes), daemon=True) for path in RULES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
