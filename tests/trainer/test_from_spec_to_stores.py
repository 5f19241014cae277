"""From a FineTune to its result, from store to store: what the operator puts into the pod is all the trainer gets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.api.names import CONFIG_ANNOTATION
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.api.trainer_config import read_termination_message
from finetune_operator.api.unsupported import unsupported
from finetune_operator.backends.job.manifest import Identity, JobDefaults, build_job
from finetune_trainer.__main__ import main
from finetune_trainer.stop import Stop
from tests.trainer import stores
from tests.trainer.datasets import write_rows
from tests.upstream.fakes.oxen import OxenFake
from tests.upstream.s3_server import S3Server

Object = dict[str, Any]


@pytest.fixture(scope="module")
def oxen() -> Iterator[OxenFake]:
    with stores.beside(stores.oxen()) as running:
        yield running


class Pod:
    """The container's view of a Job, below a folder: the files that the kubelet would mount, and the environment."""

    def __init__(self, root: Path, job: Object, secrets: dict[str, dict[str, str]], claims: dict[str, Path]) -> None:
        template = job["spec"]["template"]
        [container] = template["spec"]["containers"]
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        self._root = root
        for mount in container["volumeMounts"]:
            self._mount(
                volumes[mount["name"]], mount["mountPath"], template["metadata"]["annotations"], secrets, claims
            )
        self.environment = {each["name"]: self._below(each["value"]) for each in container["env"]}
        self.termination_log = Path(self._below(container["terminationMessagePath"]))
        self.termination_log.parent.mkdir(exist_ok=True)

    def _below(self, value: str) -> str:
        return f"{self._root}{value}" if value.startswith("/") else value

    def _mount(
        self, volume: Object, at: str, annotations: Object, secrets: dict[str, dict[str, str]], claims: dict[str, Path]
    ) -> None:
        place = Path(self._below(at))
        place.parent.mkdir(parents=True, exist_ok=True)
        if "secret" in volume:
            stores.secret(place, secrets[volume["secret"]["secretName"]])
        elif (claim := volume.get("persistentVolumeClaim", {}).get("claimName")) in claims:
            place.symlink_to(claims[claim])
        else:
            place.mkdir(exist_ok=True)
        if volume["name"] == "config":
            (place / "config.json").write_text(annotations[CONFIG_ANNOTATION])


@pytest.mark.parametrize("source", ["s3", "oxen"])
def test_a_job_reads_from_a_store_and_writes_to_one(
    source: str, s3: S3Server, oxen: OxenFake, checkpoint: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "data", 2)
    files = stores.files_of(tmp_path / "data")
    stores.put(s3, {f"{source}/{name}": data for name, data in files.items()})
    oxen.repository("ox", "rows").files |= {("main", name): data for name, data in files.items()}
    secrets = {"reader": {"s3": s3.secret, "oxen": {"api-key": oxen.key, "base-url": oxen.url}}[source]}
    uri = {"s3": "s3://bucket/s3/train.jsonl", "oxen": "oxen://ox/rows/main/train.jsonl"}[source]
    shutil.copytree(checkpoint, tmp_path / "models" / "tiny")
    spec = FineTuneSpec.model_validate(
        {
            "baseModel": "pvc://models/tiny",
            "recipe": {
                "imageToText": {
                    "questionColumn": "question",
                    "answerColumn": "answer",
                    "imageColumns": ["image"],
                    "seqLength": 128,
                }
            },
            "dataset": {"uri": uri, "secretRef": {"name": "reader"}},
            "backend": {"job": {"gpus": 0, "storage": {"size": "1Gi"}}},
            "output": {"uri": f"s3://bucket/out-{source}", "secretRef": {"name": "writer"}},
        }
    )
    assert unsupported(spec) == []
    identity = Identity(namespace="default", name="rows", uid="0a1b2c3d-4e5f", run=1, labels={}, owner={})
    job = build_job(identity, spec, resolve_parameters(spec), JobDefaults())
    pod = Pod(tmp_path / "pod", job, {**secrets, "writer": s3.secret}, {"models": tmp_path / "models"})

    with patch.dict(os.environ, pod.environment):
        assert main(Stop()) == 0

    end = read_termination_message(pod.termination_log.read_text())
    assert end is not None
    assert (end.state, end.artifacts[0].uri) == ("Succeeded", f"s3://bucket/out-{source}/adapter_model.safetensors")
    assert len(stores.get(s3, f"out-{source}/adapter_model.safetensors")) == end.artifacts[0].size_bytes
