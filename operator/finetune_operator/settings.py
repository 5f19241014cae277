"""Every setting of the operator, defined once: the fields of `Settings` are the definition list.

From each field come the flag (`--poll-interval`), the environment variable (the flag in capitals:
`FINETUNE_POLL_INTERVAL`), the default, the help text and the name of the chart's value. A flag wins over the
environment, and an empty environment variable counts as unset.
"""

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from finetune_operator import __version__
from finetune_operator.api.base import Quantity
from finetune_operator.listen import EVERY_ADDRESS

PREFIX: Final = "FINETUNE_"
_EVERY: Final = f"{EVERY_ADDRESS} is every one of the pod, IPv4 and IPv6"
SERVICE_NAME: Final = "finetune-operator"
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Parser = Callable[[str], Any]
"""Text to value; raises ValueError whose message says what would be right."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One setting, as the documentation, the chart and the command line see it."""

    name: str
    flag: str
    environment: str
    default: Any
    help: str
    chart: str
    parse: Parser
    choices: tuple[str, ...]
    """The words that it takes and no others; none: it is not a choice."""
    repeatable: bool
    is_switch: bool

    @property
    def default_text(self) -> str:
        """The default as a user would write it; empty where there is none."""
        if self.is_switch:
            return str(self.default).lower()
        return ",".join(self.default) if self.repeatable else str(self.default)


# Text to value


def _text(value: str) -> str:
    return value


def _integer(low: int, high: int) -> Parser:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", value) or not low <= int(value) <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return int(value)

    return parse


_SUFFIXES: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def _bytes(low: int, high: int) -> Parser:
    def parse(value: str) -> int:
        found = re.fullmatch(r"([0-9]{1,15})([kMGT]|[KMG]i)?", value)
        size = int(found[1]) * _SUFFIXES[found[2] or ""] if found else -1
        if not low <= size <= high:
            raise ValueError(f"give bytes from {low} to {high}, such as 512Mi or 2Gi")
        return size

    return parse


_UNITS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(low: float, high: float) -> Parser:
    def parse(value: str) -> float:
        found = re.fullmatch(r"([0-9]{1,10}(?:\.[0-9]{1,9})?)(ms|s|m|h)?", value)
        seconds = float(found[1]) * _UNITS[found[2] or ""] if found else math.nan
        if not low <= seconds <= high:
            raise ValueError(f"give seconds from {low:g} to {high:g}, or a number with ms, s, m or h")
        return seconds

    return parse


def _switch(value: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if value.lower() not in words:
        raise ValueError("give true or false")
    return words[value.lower()]


def _one_of(*choices: str) -> Parser:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"choose from {', '.join(choices)}")
        return value

    return parse


def _dns_label(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise ValueError("give a name of at most 63 lower-case letters, digits and dashes")
    return value


def _quantity(value: str) -> str:
    try:
        TypeAdapter(Quantity).validate_python(value)
    except ValidationError as error:
        raise ValueError("give a quantity such as 1Gi or 512Mi") from error
    return value


def _url(*schemes: str) -> Parser:
    def parse(value: str) -> str:
        parts = _split_url(value)
        if parts is None or parts.scheme not in schemes or parts.query or parts.fragment or "@" in parts.netloc:
            wanted = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"give an address that starts with {wanted}, without user name, query and fragment")
        return value.rstrip("/")

    return parse


def _split_url(value: str) -> Any:
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises where it is not a port
    except ValueError:
        return None
    return parts if parts.hostname and not re.search(r"\s", value) else None


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.\-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?", value):
        raise ValueError("give a host such as data.example.com or data.example.com:8443, without https:// and path")
    return value.lower()


def _object_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", value):
        raise ValueError("give a name of at most 253 lower-case letters, digits, dashes and dots")
    return value


def _user(value: str) -> int | None:
    if value.lower() == "none":
        return None
    try:
        return int(_integer(1, 2_147_483_647)(value))
    except ValueError as error:
        raise ValueError(f"{error}, or none") from None


def _existing_file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError("there is no such file")
    return value


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


_PORT: Final = _integer(0, 65_535)


def _setting(
    default: Any,
    help_text: str,
    parse: Parser = _text,
    *,
    chart: str,
) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text, "parse": parse, "chart": chart})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the administrator chose. Times are in seconds. `chart` names the value in the chart's values.yaml."""

    # The API server
    kubeconfig: str = _setting("", "The kubeconfig file; without one, the pod's service account.", chart="")
    context: str = _setting("", "The context of the kubeconfig.", chart="")
    namespace: tuple[str, ...] = _setting(
        (),
        "A namespace to serve; repeat it for more. Without any, the whole cluster.",
        _dns_label,
        chart="namespaces",
    )
    operator_namespace: str = _setting(
        "",
        "Where the Lease and the certificate live (default: the pod's namespace, else `default`).",
        _dns_label,
        chart="",
    )
    client_concurrency: int = _setting(
        16, "Calls to the API server at the same time.", _integer(1, 256), chart="client.concurrency"
    )
    client_timeout: float = _setting(
        15.0, "How long a call to the API server may take.", _seconds(1, 300), chart="client.timeout"
    )

    # The controller
    workers: int = _setting(16, "FineTunes reconciled at the same time.", _integer(1, 256), chart="workers")
    backoff_base: float = _setting(
        0.005, "Wait before the first retry of a failed reconcile.", _seconds(0.001, 60), chart="backoff.base"
    )
    backoff_cap: float = _setting(60.0, "Longest wait before a retry.", _seconds(0.1, 3600), chart="backoff.cap")
    sweep_period: float = _setting(
        300.0, "How often everything is listed and compared with the cache.", _seconds(1, 86_400), chart="sweepPeriod"
    )
    recheck_interval: float = _setting(
        30.0,
        "How often what is missing, refused or in the way is looked for again.",
        _seconds(0.1, 3600),
        chart="recheckInterval",
    )
    watch_silence: float = _setting(
        120.0,
        "How long a watch may say nothing, bookmarks included, before it is begun anew.",
        _seconds(1, 3600),
        chart="watchSilence",
    )
    pending_status_delay: float = _setting(
        2.0,
        "How long a Job that has not started waits for its status (in a rush: as long as recheck-interval).",
        _seconds(0, 60),
        chart="pendingStatusDelay",
    )
    volume_grace: float = _setting(
        10.0,
        "How long a pod's volumes may fail before its status says so: first failures often heal by themselves.",
        _seconds(0, 600),
        chart="volumeGrace",
    )
    drain_timeout: float = _setting(
        20.0, "On SIGTERM, how long reconciles in progress may take to finish.", _seconds(0, 600), chart="drainTimeout"
    )

    # Leader election
    leader_election: bool = _setting(
        True, "Act only while holding the Lease; the other replicas stand by.", _switch, chart="leaderElection.enabled"
    )
    lease_name: str = _setting("finetune-operator", "Name of the Lease.", _dns_label, chart="leaderElection.leaseName")
    lease_duration: float = _setting(
        15.0,
        "After this long without a sign of the leader, another takes over.",
        _seconds(1, 600),
        chart="leaderElection.leaseDuration",
    )
    renew_deadline: float = _setting(
        10.0,
        "After this long without a renewal, the leader stops writing and ends.",
        _seconds(0.5, 600),
        chart="leaderElection.renewDeadline",
    )
    retry_period: float = _setting(
        2.0, "Time between two looks at the Lease.", _seconds(0.1, 600), chart="leaderElection.retryPeriod"
    )

    # Jobs
    trainer_image: str = _setting(
        f"finetune-trainer:{__version__}", "The trainer image of Jobs that name none.", chart="trainer.image"
    )
    trainer_image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = _setting(
        "IfNotPresent", "When it is pulled: Always, IfNotPresent or Never.", chart="trainer.imagePullPolicy"
    )
    default_shm_size: str = _setting(
        "1Gi", "Size of /dev/shm in training pods; counts against their memory.", _quantity, chart="trainer.shmSize"
    )

    trainer_user: int | None = _setting(
        1000,
        "User and group of training pods, and the group of their volumes; `none` leaves them to the cluster "
        "(OpenShift's ranges).",
        _user,
        chart="trainer.user",
    )
    trainer_trust_bundle: str = _setting(
        "",
        "ConfigMap in the namespaces of FineTunes; its key ca.crt has further certificate authorities for the trainer.",
        _object_name,
        chart="trainer.trustBundle",
    )

    # Upstream APIs
    upstream_ca_file: str = _setting(
        "",
        "File with further certificate authorities, PEM, for providers and stores.",
        _existing_file,
        chart="upstream.caFile",
    )
    poll_interval: float = _setting(
        30.0, "How often a run at a provider is looked at.", _seconds(0.1, 3600), chart="upstream.pollInterval"
    )
    settling_window: float = _setting(
        600.0,
        "How long a provider's listing may lag behind a create whose answer was lost.",
        _seconds(0, 86_400),
        chart="upstream.settlingWindow",
    )
    cancel_bound: float = _setting(
        300.0,
        "How long stopping a run at a provider is tried before a deleted FineTune goes, or a raised run begins.",
        _seconds(0, 86_400),
        chart="upstream.cancelBound",
    )
    upstream_timeout: float = _setting(
        30.0, "How long a call to a provider may take.", _seconds(0.1, 600), chart="upstream.timeout"
    )
    upstream_concurrency: int = _setting(
        16, "Calls to all providers at the same time.", _integer(1, 256), chart="upstream.concurrency"
    )
    provider_concurrency: int = _setting(
        4, "Calls to one provider at the same time.", _integer(1, 64), chart="upstream.providerConcurrency"
    )
    allow_base_url: tuple[str, ...] = _setting(
        (),
        "A base URL that FineTunes may name besides the providers' own; repeat it for more.",
        _url("https", "http"),
        chart="upstream.allowBaseUrls",
    )
    allow_dataset_host: tuple[str, ...] = _setting(
        (),
        "A host with a private address that datasets may come from; repeat it for more.",
        _host,
        chart="upstream.allowDatasetHosts",
    )

    spool_dir: str = _setting(
        "", "Folder for datasets and weights on their way (default: $TMPDIR, else /tmp).", chart="upstream.spool.dir"
    )
    spool_limit: int = _setting(
        2 * 2**30,
        "Bytes that all of them together may occupy there, and so the largest dataset for a provider.",
        _bytes(2**20, 2**50),
        chart="upstream.spool.limit",
    )

    # Progress reports
    progress_host: str = _setting(
        EVERY_ADDRESS, f"Address that the progress endpoint listens on; {_EVERY}.", chart="progress.host"
    )
    progress_port: int = _setting(8443, "Its port; 0 turns progress reports off.", _PORT, chart="progress.port")
    progress_url: str = _setting(
        "",
        f"How pods reach it (default: https://{SERVICE_NAME}.<operator namespace>.svc:<progress port>).",
        _url("https"),
        chart="progress.url",
    )
    progress_cert_file: str = _setting(
        "", "Its certificate, PEM (default: made by the operator).", _existing_file, chart="progress.certFile"
    )
    progress_key_file: str = _setting("", "Its private key, PEM.", _existing_file, chart="progress.keyFile")
    progress_ca_file: str = _setting(
        "", "What pods check it by, PEM (default: the certificate itself).", _existing_file, chart="progress.caFile"
    )
    progress_interval: float = _setting(
        10.0, "Least time between two progress updates of one FineTune.", _seconds(0, 3600), chart="progress.interval"
    )

    # Metrics, probes and the log
    metrics_host: str = _setting(
        EVERY_ADDRESS, f"Address that /metrics and the probes listen on; {_EVERY}.", chart="metrics.host"
    )
    metrics_port: int = _setting(8080, "Their port; 0 turns them off.", _PORT, chart="metrics.port")
    per_run_metrics: bool = _setting(
        False, "Export metrics for each run: one set of series per FineTune.", _switch, chart="metrics.perRun"
    )
    liveness_queue_age: float = _setting(
        300.0, "Not alive: a queued key has been waiting for this long.", _seconds(1, 86_400), chart="liveness.queueAge"
    )
    liveness_watch_silence: float = _setting(
        300.0,
        "Not alive: a watch has been silent for this long while the API server answers.",
        _seconds(1, 86_400),
        chart="liveness.watchSilence",
    )
    liveness_loop_lag: float = _setting(
        10.0, "Not alive: the event loop has been stuck for this long.", _seconds(0.1, 3600), chart="liveness.loopLag"
    )
    log_format: Literal["json", "text"] = _setting("json", "Form of the log: json or text.", chart="log.format")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "Least level logged.", chart="log.level")


def definitions() -> Iterator[Definition]:
    """Every setting, in the order of `Settings`."""
    for field in dataclasses.fields(Settings):
        choices = get_args(field.type) if get_origin(field.type) is Literal else ()
        yield Definition(
            name=field.name,
            flag="--" + field.name.replace("_", "-"),
            environment=PREFIX + field.name.upper(),
            default=field.default,
            help=field.metadata["help"],
            chart=field.metadata["chart"],
            parse=_one_of(*choices) if choices else field.metadata["parse"],
            choices=choices,
            repeatable=isinstance(field.default, tuple),
            is_switch=isinstance(field.default, bool),
        )


def parse(argv: Sequence[str], environ: Mapping[str, str], prog: str = "finetune-operator run") -> Settings:
    """Settings from the command line, then the environment, then the defaults.

    A bad value writes one line that names it to stderr and raises SystemExit(2); `--help` raises SystemExit(0).
    """
    parser = _parser(prog)
    given = vars(parser.parse_args(argv))
    try:
        values = {each.name: _value(each, given[each.name], environ) for each in definitions()}
        return _completed(Settings(**values))
    except ValueError as error:
        parser.exit(2, f"{prog}: {error}\n")


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _OneLineParser(
        prog=prog,
        description="Run the operator. Times are in seconds, or a number with ms, s, m or h.",
        epilog="Lists in environment variables are separated by commas.",
        allow_abbrev=False,
    )
    for each in definitions():
        default = f" [{each.default_text}]" if each.default_text else ""
        parser.add_argument(
            each.flag,
            dest=each.name,
            action="append",
            nargs="?" if each.is_switch else None,
            const="true" if each.is_switch else None,
            metavar="true|false" if each.is_switch else each.flag.rsplit("-", 1)[-1].upper(),
            help=f"{each.help}{default} (${each.environment})".replace("%", "%%"),
        )
    return parser


def _value(definition: Definition, given: list[str] | None, environ: Mapping[str, str]) -> Any:
    texts, source = given or [], definition.flag
    if not texts and environ.get(definition.environment, "").strip():
        text = environ[definition.environment].strip()
        texts, source = (text.split(",") if definition.repeatable else [text]), definition.environment
    if not texts:
        return definition.default
    values = tuple(_parsed(definition, source, text.strip()) for text in texts if text.strip())
    if definition.repeatable:
        return tuple(dict.fromkeys(values))
    return values[-1] if values else definition.default


def _parsed(definition: Definition, source: str, text: str) -> Any:
    try:
        return definition.parse(text)
    except ValueError as error:
        raise ValueError(f"{source}={text}: {error}") from error


def _completed(settings: Settings) -> Settings:
    """Fills in what derives from other settings. Raises ValueError where settings contradict each other."""
    _check(settings)
    namespace = settings.operator_namespace or _own_namespace()
    url = settings.progress_url
    if not url and settings.progress_port:
        url = f"https://{SERVICE_NAME}.{namespace}.svc:{settings.progress_port}"
    return dataclasses.replace(settings, operator_namespace=namespace, progress_url=url)


def _check(settings: Settings) -> None:
    if not settings.renew_deadline < settings.lease_duration:
        raise ValueError("--renew-deadline must be less than --lease-duration: else two leaders write at once")
    if not settings.retry_period < settings.renew_deadline:
        raise ValueError("--retry-period must be less than --renew-deadline: else no renewal comes in time")
    if settings.backoff_cap < settings.backoff_base:
        raise ValueError("--backoff-cap must not be less than --backoff-base")
    if bool(settings.progress_cert_file) != bool(settings.progress_key_file):
        raise ValueError("--progress-cert-file and --progress-key-file go together: give both or none")
    if settings.progress_ca_file and not settings.progress_cert_file:
        raise ValueError("--progress-ca-file needs --progress-cert-file and --progress-key-file")
