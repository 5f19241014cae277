"""The process environment: every path reaches the trainer through it, none through the configuration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from tempfile import gettempdir
from typing import Final

from finetune_operator.api import trainer_config
from finetune_trainer.errors import ConfigError

PROCESSES_ENV: Final = "FINETUNE_PROCESSES"
RANK_ENV: Final = "FINETUNE_RANK"
RANKS_ENV: Final = "FINETUNE_RANKS"
RANKS_DIR_ENV: Final = "FINETUNE_RANKS_DIR"
KEPT_CHECKPOINTS: Final = ".finetune-checkpoints"
"""The folder below `output.uri` for the checkpoints of runs without storage: one folder for each run."""
PUBLIC_KEYS: Final = frozenset({"AWS_REGION", "AWS_ENDPOINT_URL", "HF_ENDPOINT", "base-url"})
"""Keys of a Secret whose values messages may contain. Credentials in URLs are removed in any case."""


@dataclass(frozen=True)
class Claims:
    """The PersistentVolumeClaims that the pod mounts, each at `root/<claim>`."""

    root: Path

    def path(self, uri: str) -> Path:
        """The local path of `pvc://<claim>/<path>`. Raises ConfigError if it leaves the claim or is not mounted."""
        claim, _, inner = uri.removeprefix("pvc://").partition("/")
        if not claim or ".." in PurePosixPath(inner).parts or claim in (".", ".."):
            raise ConfigError(f"{uri} is not of the form pvc://<claim>/<path inside the claim>")
        folder = self.root / claim
        if not folder.is_dir():
            raise ConfigError(f"the claim {claim} of {uri} is not mounted at {folder}")
        path = folder / inner
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"{uri} leads out of its claim through a symbolic link")
        return path


@dataclass(frozen=True)
class ModelAccess:
    """Access to the base model. secret: HF_TOKEN and HF_ENDPOINT; empty without a Secret."""

    claims: Claims
    secret: Mapping[str, str]


@dataclass(frozen=True)
class DatasetAccess:
    """Access to the dataset. secret: the keys of its Secret; empty without one."""

    claims: Claims
    secret: Mapping[str, str]
    cache_dir: Path
    allowed_hosts: frozenset[str]
    """`host` or `host:port` that may be fetched from even if its address is private, and over http."""
    max_download_bytes: int


@dataclass(frozen=True)
class OutputAccess:
    """Access to the output location. secret: the keys of its Secret; empty without one."""

    claims: Claims
    secret: Mapping[str, str]
    durable: bool
    """Whether the run's own copy of the result outlives the pod."""


@dataclass(frozen=True)
class RunStorage:
    """The run's folder, and the claim that holds it. storage_dir: where the claim is mounted; None without a claim.

    kept: folder and URI of the checkpoints of a run without storage whose output is on a claim: they are kept there.
    """

    run_dir: Path
    storage_dir: Path | None
    claim: str | None
    kept: tuple[Path, str] | None = None

    def with_output(self, uri: str | None, claims: Claims) -> "RunStorage":
        """The storage of a run with this output. Raises ConfigError."""
        if self.claim is not None or uri is None or not uri.startswith("pvc://"):
            return self
        inner = f"{KEPT_CHECKPOINTS}/{self.run_dir.name}"
        return replace(self, kept=(claims.path(uri) / inner, f"{uri.rstrip('/')}/{inner}"))

    @property
    def output_dir(self) -> Path:
        """The folder of the result."""
        return self.run_dir / trainer_config.OUTPUT_FOLDER

    @property
    def checkpoints_dir(self) -> Path:
        """The folder of the checkpoints."""
        if self.kept is not None:
            return self.kept[0]
        return self.run_dir / trainer_config.CHECKPOINTS_FOLDER

    def uri(self, path: Path) -> str | None:
        """`pvc://<claim>/<path>` of a path on the claim; None for a path that does not outlive the pod."""
        if self.kept is not None and path.is_relative_to(self.kept[0]):
            return f"{self.kept[1]}/{path.relative_to(self.kept[0]).as_posix()}"
        if self.claim is None or self.storage_dir is None or not path.is_relative_to(self.storage_dir):
            return None
        return f"pvc://{self.claim}/{path.relative_to(self.storage_dir).as_posix()}"


@dataclass(frozen=True)
class Environment:
    """The process environment, read once. Paths are those of the contract between operator and trainer."""

    config: Path
    run_dir: Path
    storage_dir: Path | None
    storage_claim: str | None
    cache_dir: Path
    pvc_dir: Path
    dataset_secret_dir: Path | None = None
    output_secret_dir: Path | None = None
    model_secret_dir: Path | None = None
    termination_log: Path | None = None
    trust_bundle: Path | None = None
    """Further certificate authorities, PEM."""
    progress_url: str | None = None
    progress_ca: Path | None = None
    progress_token: Path | None = None
    progress_interval: float = 5.0
    """Seconds between two progress POSTs."""
    allowed_hosts: frozenset[str] = field(default_factory=frozenset)
    """`host` or `host:port` that may be fetched from even if its address is private, and over http."""
    max_download_bytes: int = 200 * 2**30
    devices: int = 0
    """Devices that the Job asks for; 0 where it asks for none, and the run may train on the CPU."""
    processes: int | None = None
    """Number of training processes; None for one per GPU, or one on the CPU."""
    rank: int | None = None
    """Rank of this process among those that the launcher has started; None without a launcher."""
    world_size: int = 1
    rendezvous_dir: Path | None = None
    """Folder for the rendezvous of the pod's processes; None without a launcher."""

    @classmethod
    def read(cls, env: Mapping[str, str] | None = None) -> "Environment":
        """Read the environment. Raises ConfigError that names the variable that is missing or malformed."""
        env = os.environ if env is None else env
        run_dir = _required(env, trainer_config.RUN_DIR_ENV)
        cache = env.get(trainer_config.CACHE_DIR_ENV) or str(Path(gettempdir()) / "finetune-cache")
        return cls(
            config=Path(_required(env, trainer_config.CONFIG_ENV)),
            run_dir=Path(run_dir),
            storage_dir=_path(env, trainer_config.STORAGE_DIR_ENV),
            storage_claim=env.get(trainer_config.STORAGE_CLAIM_ENV) or None,
            cache_dir=Path(cache),
            pvc_dir=Path(env.get(trainer_config.PVC_DIR_ENV) or "/finetune/pvc"),
            dataset_secret_dir=_path(env, trainer_config.DATASET_SECRET_DIR_ENV),
            output_secret_dir=_path(env, trainer_config.OUTPUT_SECRET_DIR_ENV),
            model_secret_dir=_path(env, trainer_config.MODEL_SECRET_DIR_ENV),
            termination_log=_path(env, trainer_config.TERMINATION_LOG_ENV),
            trust_bundle=_path(env, trainer_config.TRUST_BUNDLE_ENV),
            progress_url=env.get(trainer_config.SERVER_URL_ENV) or None,
            progress_ca=_path(env, trainer_config.SERVER_CA_CERT_ENV),
            progress_token=_path(env, trainer_config.SERVER_TOKEN_ENV),
            progress_interval=_number(env, "FINETUNE_PROGRESS_INTERVAL", 5.0),
            allowed_hosts=frozenset(filter(None, env.get("FINETUNE_ALLOW_DATASET_HOSTS", "").lower().split(","))),
            max_download_bytes=int(_number(env, "FINETUNE_MAX_DOWNLOAD_BYTES", 200 * 2**30)),
            devices=int(_number(env, trainer_config.DEVICES_ENV, 0)),
            processes=int(_number(env, PROCESSES_ENV, 0)) or None,
            rank=int(env[RANK_ENV]) if env.get(RANK_ENV) else None,
            world_size=int(env.get(RANKS_ENV) or 1),
            rendezvous_dir=_path(env, RANKS_DIR_ENV),
        )

    @property
    def first(self) -> bool:
        """Whether this process validates, writes and reports: the only process, or rank 0."""
        return not self.rank

    @property
    def storage(self) -> RunStorage:
        """Where the run writes its checkpoints and its result."""
        return RunStorage(self.run_dir, self.storage_dir, self.storage_claim)

    @property
    def model_access(self) -> ModelAccess:
        """Access to the base model."""
        return ModelAccess(Claims(self.pvc_dir), _secret(self.model_secret_dir))

    @property
    def dataset_access(self) -> DatasetAccess:
        """Access to the dataset."""
        secret = _secret(self.dataset_secret_dir)
        return DatasetAccess(Claims(self.pvc_dir), secret, self.cache_dir, self.allowed_hosts, self.max_download_bytes)

    @property
    def output_access(self) -> OutputAccess:
        """Access to the output location."""
        return OutputAccess(Claims(self.pvc_dir), _secret(self.output_secret_dir), bool(self.storage_claim))

    def secret_values(self) -> list[str]:
        """Every mounted secret value, to redact messages; endpoints and regions are not secret."""
        folders = [self.dataset_secret_dir, self.output_secret_dir, self.model_secret_dir]
        files = [file for folder in folders if folder is not None and folder.is_dir() for file in folder.iterdir()]
        files = [file for file in files if file.name not in PUBLIC_KEYS]
        files += [self.progress_token] if self.progress_token else []
        return [text for file in files if (text := _text(file))]


def _required(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise ConfigError(f"the environment variable {name} is not set")
    return env[name]


def _path(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]) if env.get(name) else None


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(env.get(name) or default)
    except ValueError as error:
        raise ConfigError(f"the environment variable {name} is not a number") from error


def _secret(folder: Path | None) -> dict[str, str]:
    if folder is None or not folder.is_dir():
        return {}
    return {file.name: text for file in folder.iterdir() if (text := _text(file)) and not file.name.startswith(".")}


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip() if file.is_file() else None
    except (OSError, UnicodeDecodeError):
        return None
