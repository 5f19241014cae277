"""`python -m finetune_trainer`: the handler of SIGTERM is set first, the termination message is written last."""

from finetune_trainer.stop import Preempted, Stop

STOP = Stop()
if __name__ == "__main__":
    STOP.listen()

try:
    import os
    import sys
    import traceback
    from errno import ENOSPC
    from pathlib import Path

    from finetune_operator.api.reasons import Reason
    from finetune_operator.api.trainer_config import TERMINATION_LOG_ENV, ExitCode
    from finetune_trainer.distributed.devices import devices_to_use
    from finetune_trainer.distributed.launcher import die_with_parent, launch
    from finetune_trainer.environment import Environment
    from finetune_trainer.errors import EXIT_FAILED, ConfigError, OutOfMemory, RunError
    from finetune_trainer.reporting.progress import Poster, emit, print_line
    from finetune_trainer.reporting.redact import redact
    from finetune_trainer.reporting.termination import Verdict
except Preempted:
    # Nothing has started, and no module but `stop` may be loaded.
    import os
    from contextlib import suppress

    with suppress(OSError), open(os.environ.get("FINETUNE_TERMINATION_LOG", os.devnull), "w") as log:
        log.write('{"state":"Preempted","reason":"Preempted","message":"stopped on request before the start"}')
    os._exit(75)


def main(stop: Stop) -> int:
    """Train in this process, or launch one process per GPU; returns the exit code. Never raises."""
    verdict = Verdict()
    try:
        env = Environment.read()
        if env.rank is not None:
            die_with_parent()
        elif (count := env.processes or devices_to_use(env.devices)) > 1:
            return launch(count, env.termination_log, stop)
        poster = Poster(env.progress_url, env.progress_ca, env.progress_token, env.progress_interval)
    except ConfigError as error:
        stop.finish()
        print_line(error.message)
        verdict.reason, verdict.message = error.reason, error.message
        verdict.write(Path(os.environ.get(TERMINATION_LOG_ENV) or os.devnull))
        return error.exit_code
    except Preempted:
        _preempted(verdict)
        verdict.write(Path(os.environ.get(TERMINATION_LOG_ENV) or os.devnull))
        return ExitCode.RETRY
    return _run(env, stop, verdict, poster)


def _run(env: Environment, stop: Stop, verdict: Verdict, poster: Poster) -> int:
    secrets: list[str] = []
    try:
        secrets += env.secret_values()
        code = _attempt(env, stop, verdict, poster, secrets)
        stop.finish()
    except Preempted:
        _preempted(verdict)
        code = ExitCode.RETRY
    verdict.write(env.termination_log, secrets)
    emit(
        "end", state=verdict.state, reason=verdict.reason, message=redact(verdict.message, secrets), exitCode=int(code)
    )
    poster.close(_last_status(verdict))
    return int(code)


def _preempted(verdict: Verdict) -> None:
    verdict.state, verdict.reason = "Preempted", Reason.PREEMPTED
    verdict.message = f"stopped on request after step {verdict.step}"


def _attempt(env: Environment, stop: Stop, verdict: Verdict, poster: Poster, secrets: list[str]) -> int:
    """The exit code of the run. Raises Preempted, also while another error is handled."""
    try:
        from finetune_trainer.run import execute

        execute(env, stop, verdict, poster)
        stop.finish()
        verdict.state, verdict.reason = "Succeeded", Reason.TRAINING_SUCCEEDED
        return ExitCode.DONE
    except Preempted:
        raise
    except RunError as error:
        verdict.reason, verdict.message = error.reason, error.message
        return error.exit_code
    except BaseException as error:
        stop.check()  # a library may have turned the interruption into an error of its own
        return _unexpected(error, verdict, secrets)


def _unexpected(error: BaseException, verdict: Verdict, secrets: list[str]) -> int:
    text = "".join(traceback.format_exception(error))
    print_line(redact(text, secrets))
    verdict.message = f"{type(error).__name__}: {error}".strip()
    if isinstance(error, OSError) and error.errno == ENOSPC:
        verdict.reason = Reason.STORAGE_FULL
        verdict.message += " (increase the size of the run's storage or cache)"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        verdict.reason = Reason.OUT_OF_MEMORY
        return OutOfMemory.exit_code
    return EXIT_FAILED


def _last_status(verdict: Verdict) -> dict[str, object] | None:
    if verdict.state != "Succeeded":
        return None
    metrics = {"current_step": verdict.step, "total_steps": verdict.total_steps, "loss": verdict.loss}
    return {
        "progressPercentage": 100,
        "estimatedRemainingSeconds": 0,
        "metrics": [{"name": name, "value": str(value)} for name, value in metrics.items() if value is not None],
        "lastUpdatedTime": _now(),
    }


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat()


if __name__ == "__main__":
    exit_code = main(STOP)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # tearing down torch takes a second and can only fail
