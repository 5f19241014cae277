"""Progress: JSON lines on stdout, readable lines on stderr, and a POST to the operator. No failure stops training.

The body of the POST is that of Kubeflow Trainer's status server, as transformers' KubeflowCallback sends it:
`{"trainerStatus": {progressPercentage, estimatedRemainingSeconds, metrics: [{name, value}], lastUpdatedTime}}`
to exactly the URL in KUBEFLOW_TRAINER_SERVER_URL; values are strings, and the token is read again for each request.
"""

import json
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from finetune_operator.api import plain_text
from finetune_trainer.reporting.redact import redact

POST_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class Progress:
    """A progress report. loss: unrounded. eta: seconds."""

    step: int
    total_steps: int
    epoch: float
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    samples_per_second: float | None = None
    eta: float | None = None

    def fields(self) -> dict[str, float | int]:
        """The known values, for an event."""
        known = {
            "step": self.step,
            "total_steps": self.total_steps,
            "epoch": round(self.epoch, 4),
            "loss": self.loss,
            "grad_norm": self.grad_norm,
            "learning_rate": self.learning_rate,
            "samples_per_second": None if self.samples_per_second is None else round(self.samples_per_second, 3),
            "eta_seconds": None if self.eta is None else round(self.eta),
        }
        return {name: value for name, value in known.items() if value is not None}

    def line(self) -> str:
        """One line for people."""
        parts = [f"step {self.step}/{self.total_steps}", f"epoch {self.epoch:.2f}"]
        parts += [] if self.loss is None else [f"loss {self.loss:.4f}"]
        parts += [] if self.learning_rate is None else [f"lr {self.learning_rate:.3g}"]
        parts += [] if self.samples_per_second is None else [f"{self.samples_per_second:.2f} samples/s"]
        parts += [] if self.eta is None else [f"eta {timedelta(seconds=round(self.eta))}"]
        return "  ".join(parts)

    def status(self) -> dict[str, Any]:
        """The `trainerStatus` of the POST. 100 % is reported only at the end of the run."""
        metrics = {
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "grad_norm": self.grad_norm,
            "samples_per_second": self.samples_per_second,
            "current_step": self.step,
            "total_steps": self.total_steps,
            "current_epoch": round(self.epoch, 2),
        }
        status: dict[str, Any] = {
            "progressPercentage": min(99, 100 * self.step // self.total_steps) if self.total_steps else 0,
            "metrics": [{"name": name, "value": str(value)} for name, value in metrics.items() if value is not None],
            "lastUpdatedTime": datetime.now(UTC).isoformat(),
        }
        if self.eta is not None:
            status["estimatedRemainingSeconds"] = max(0, int(self.eta))
        return status


def emit(event: str, **fields: Any) -> None:
    """Print an event, one line of JSON, on stdout."""
    text = redact(json.dumps({"event": event, **fields}, ensure_ascii=False, default=str))
    print(text, flush=True)


def print_line(text: str) -> None:
    """Print a line for people on stderr. What it quotes of a dataset or a server does not steer a terminal."""
    print(plain_text.lines(redact(text)), file=sys.stderr, flush=True)


class Poster:
    """Posts the newest report in the background, at most one in each interval. Failures are only counted.

    ca: file of the certificate authority. token: file of the bearer token. interval: seconds.
    """

    def __init__(self, url: str | None, ca: Path | None, token: Path | None, interval: float) -> None:
        self._url, self._ca, self._token, self._interval = url, ca, token, interval
        self._latest: dict[str, Any] | None = None
        self._wake = threading.Condition()
        self._closed = False
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        if url:
            self._thread.start()

    def update(self, status: dict[str, Any]) -> None:
        """Post this status as soon as the interval allows, unless a newer one replaces it."""
        with self._wake:
            self._latest = status
            self._wake.notify()

    def close(self, last: dict[str, Any] | None = None, timeout: float = 2 * POST_TIMEOUT_S) -> None:
        """Post the last status at once, and stop; waits for at most `timeout` seconds."""
        with self._wake:
            self._latest = last or self._latest
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._latest is not None or self._closed)
                status, self._latest = self._latest, None
                closing = self._closed
            if status is not None:
                self._post(status)
            if closing and status is None:
                return
            with self._wake:
                self._wake.wait_for(lambda: self._closed, self._interval)

    def _post(self, status: dict[str, Any]) -> None:
        try:
            token = self._token.read_text().strip() if self._token else ""
            request = urllib.request.Request(  # noqa: S310  (the operator gives the URL)
                self._url or "",
                data=json.dumps({"trainerStatus": status}).encode(),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                method="POST",
            )
            context = ssl.create_default_context(cafile=str(self._ca)) if self._ca else None
            with urllib.request.urlopen(request, timeout=POST_TIMEOUT_S, context=context) as response:  # noqa: S310
                response.read(1024)
        except Exception as error:  # reporting never stops training
            self.failures += 1
            if self.failures == 1:
                print_line(f"the progress could not be reported: {type(error).__name__}")


class ThroughputMeter:
    """Samples per second and remaining time, over the steps of this process."""

    def __init__(self, first_step: int, total_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._first, self._total, self._clock = first_step, total_steps, clock
        self._start, self._samples = clock(), 0

    def add(self, samples: int) -> None:
        """Count samples that have been trained on."""
        self._samples += samples

    def rate(self) -> float:
        """Samples per second."""
        return self._samples / max(self._clock() - self._start, 1e-9)

    def eta(self, step: int) -> float | None:
        """Remaining seconds after `step` steps; None before the first."""
        done = step - self._first
        return None if done < 1 else (self._clock() - self._start) / done * (self._total - step)
