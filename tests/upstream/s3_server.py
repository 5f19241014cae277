"""A real S3-compatible server for the tests: moto, which checks every signature with AWS's own signing code.

It lives in an environment of its own in the cache, because botocore and the `kubernetes` package want different
releases of python-dateutil.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.paths import cache_dir
from tests.cluster.ports import free_port

PACKAGES = ("moto[s3,iam,server]==5.2.5", "boto3==1.44.5")
DIE_WITH_PARENT = Path(__file__).parents[1] / "cluster" / "die_with_parent.py"
SETTING_UP = 4
"""Calls before credentials are checked: user, policy, key, bucket."""
SET_UP = """
import boto3, json, sys
place = dict(endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
iam = boto3.client("iam", **place)
allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
iam.create_user(UserName="operator")
iam.put_user_policy(UserName="operator", PolicyName="all", PolicyDocument=json.dumps(allow))
key = iam.create_access_key(UserName="operator")["AccessKey"]
boto3.client("s3", **place).create_bucket(Bucket=sys.argv[2])
print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"]]))
"""
ASK = """
import base64, boto3, json, sys
url, access, secret, call, arguments = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=access,
                  aws_secret_access_key=secret)
answer = getattr(s3, call)(**json.loads(arguments))
answer.pop("ResponseMetadata", None)
if "Body" in answer:
    answer["Body"] = base64.b64encode(answer["Body"].read()).decode()
print(json.dumps(answer, default=str))
"""


@dataclass(frozen=True, slots=True)
class S3Server:
    """`secret`: what a user's Secret would hold."""

    url: str
    bucket: str
    secret: dict[str, str]
    python: Path

    @property
    def host(self) -> str:
        """host:port."""
        return self.url.removeprefix("http://")

    def ask(self, call: str, **arguments: object) -> dict[str, object]:
        """A call of AWS's own client, for what the operator wrote; `Body` as base64."""
        keys = [self.secret["AWS_ACCESS_KEY_ID"], self.secret["AWS_SECRET_ACCESS_KEY"]]
        command = [str(self.python), "-c", ASK, self.url, *keys, call, json.dumps(arguments)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, object] = json.loads(answer.stdout)
        return found


@contextmanager
def s3_server(bucket: str = "bucket") -> Iterator[S3Server]:
    """Running, with one bucket and one user."""
    python = _environment() / "bin" / "python"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(python), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        [str(python), "-I", "-S", str(DIE_WITH_PARENT), str(os.getpid()), *command],
        env={"INITIAL_NO_AUTH_ACTION_COUNT": str(SETTING_UP), "HOME": "/nonexistent"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(url, process)
        made = subprocess.run([str(python), "-c", SET_UP, url, bucket], check=True, capture_output=True, text=True)
        access, secret = json.loads(made.stdout)
        keys = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_ENDPOINT_URL": url}
        yield S3Server(url, bucket, keys, python)
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "moto ended at once"
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError("moto did not start within a minute")


def _environment() -> Path:
    """The environment with moto; made once."""
    folder = cache_dir() / "tools" / ("moto-" + PACKAGES[0].rpartition("=")[2])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
            uv = Path(sys.executable).with_name("uv")
            subprocess.run([uv, "pip", "install", "-q", "-p", folder / "bin" / "python", *PACKAGES], check=True)
            (folder / "complete").touch()
    return folder
