"""`python -m finetune_trainer`: the handler for SIGTERM first, then everything else; the verdict always last."""

from finetune_trainer.stop import Preempted, Stop

STOP = Stop()
if __name__ == "__main__":
    STOP.listen()

try:
    import os
    import sys
    import traceback

    from finetune_operator.api.trainer_config import ExitCode
    from finetune_trainer.environment import Environment
    from finetune_trainer.errors import EXIT_FAILED, ConfigError, OutOfMemory, RunError
    from finetune_trainer.redact import redact
    from finetune_trainer.report import Poster, say, tell
    from finetune_trainer.termination import Verdict
except Preempted:
    import os

    os._exit(75)  # nothing has begun; the contract's module may not even be loaded


def main(stop: Stop) -> int:
    """Run, write the verdict, and return the exit code. Never raises."""
    verdict = Verdict()
    try:
        env = Environment.read()
    except ConfigError as error:
        tell(error.message)
        return error.exit_code
    poster = Poster(env.progress_url, env.progress_ca, env.progress_token, env.progress_interval)
    secrets = env.secret_values()
    code = EXIT_FAILED
    try:
        from finetune_trainer.run import execute

        execute(env, stop, verdict, poster)
        verdict.state, verdict.reason, verdict.message = "Succeeded", "TrainingSucceeded", ""
        code = ExitCode.DONE
    except Preempted:
        verdict.state, verdict.reason = "Preempted", "Preempted"
        verdict.message = f"stopped on request after step {verdict.step}"
        code = ExitCode.RETRY
    except RunError as error:
        verdict.reason, verdict.message = error.reason, error.message
        code = error.exit_code
    except MemoryError:
        verdict.reason, verdict.message = "OutOfMemory", "the container's memory is used up"
        code = ExitCode.OUT_OF_MEMORY
    except BaseException as error:
        code = _unexpected(error, verdict, secrets)
    stop.finish()
    verdict.write(env.termination_log, secrets)
    say("end", state=verdict.state, reason=verdict.reason, message=redact(verdict.message, secrets), exitCode=int(code))
    poster.close(_last_status(verdict))
    return int(code)


def _unexpected(error: BaseException, verdict: Verdict, secrets: list[str]) -> int:
    text = "".join(traceback.format_exception(error))
    tell(redact(text, secrets))
    verdict.message = f"{type(error).__name__}: {error}".strip()
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch for it
        verdict.reason = "OutOfMemory"
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
    os._exit(exit_code)  # the interpreter's own teardown of torch takes a second and can only fail
