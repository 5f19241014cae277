"""How runs end: exit code, termination message, and files, for good and for bad."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.reporting.redact import redact
from finetune_trainer.reporting.termination import Verdict
from tests.trainer.datasets import write_jsonl, write_rows
from tests.trainer.runs import TrainerRun

NewRun = Callable[..., TrainerRun]


def test_a_good_end(new_run: NewRun) -> None:
    run = new_run(recipe={"epochs": 1}, output="pvc://results/adapters/receipts")
    write_rows(run.data)
    results = run.claim("results")

    result = run.execute()

    end = result.termination
    assert (result.code, end["state"], end["reason"]) == (0, "Succeeded", "TrainingSucceeded")
    assert (end["step"], end["totalSteps"], end["loss"]) == (3, 3, run.losses()[-1])
    step = "pvc://receipts-1/receipts-1-0a1b2c3d/checkpoints/step-00000003"
    assert end["checkpoint"].pop("ageSeconds") < 60
    assert end["checkpoint"] == {"step": 3, "uri": step}
    manifest = run.manifest()
    assert manifest["samplesPerStep"] == 2
    assert manifest["dataset"] == {
        "uri": run.dataset,
        "fingerprint": manifest["dataset"]["fingerprint"],
        "rows": 6,
        "skipped": 0,
    }
    assert {"torch", "transformers", "peft"} <= manifest["versions"].keys()
    names = ["adapter_model.safetensors", "adapter_config.json", "loss.png", "manifest.json", "metrics.jsonl"]
    assert [artifact["name"] for artifact in end["artifacts"]] == names
    for artifact in end["artifacts"]:
        path = results / "adapters" / "receipts" / artifact["name"]
        assert artifact["uri"] == f"pvc://results/adapters/receipts/{artifact['name']}"
        assert path.stat().st_size == artifact["sizeBytes"]
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.read_bytes() == (run.output_dir / artifact["name"]).read_bytes()
    assert sorted(path.name for path in (results / "adapters").iterdir()) == ["receipts"]


def test_an_earlier_result_is_replaced_and_anything_else_is_not(new_run: NewRun) -> None:
    run = new_run(recipe={"epochs": 1}, output="pvc://results/receipts")
    write_rows(run.data, 2)
    place = run.claim("results") / "receipts"
    place.mkdir()
    (place / "thesis.txt").write_text("precious")

    refused = run.execute()
    assert refused.code == 2
    assert "is neither empty nor an earlier result" in refused.message
    assert (place / "thesis.txt").read_text() == "precious"

    (place / "thesis.txt").rename(place / "manifest.json")
    assert run.execute().code == 0
    assert "samplesPerStep" in (place / "manifest.json").read_text()


BAD_CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown parameter", {"recipe": {"loraRankk": 4}}, "recipe.imageToText.loraRankk"),
    ("wrong type", {"recipe": {"epochs": "two"}}, "recipe.imageToText.epochs"),
    ("ratio of zero", {"recipe": {"saveStrategy": "steps", "saveStepsRatio": 0.0}}, "saveStepsRatio is 0"),
    ("unknown advanced", {"advanced": {"shufle": False}}, "advanced.shufle: there is no such field"),
    ("unknown scheme", {"dataset": "ftp://x/y.csv"}, "cannot be read from ftp://"),
    ("claim not mounted", {"dataset": "pvc://other/train.csv"}, "claim other"),
    ("out of the claim", {"dataset": "pvc://data/../models/x.csv"}, "pvc://<claim>"),
    ("no model", {"base_model": "pvc://models/none"}, "no model folder at pvc://models/none"),
    ("output elsewhere", {"output": "ftp://x/y"}, "written to ftp://"),
]


@pytest.mark.parametrize(
    ("options", "words"), [case[1:] for case in BAD_CONFIGS], ids=[case[0] for case in BAD_CONFIGS]
)
def test_a_bad_configuration_is_exit_2(new_run: NewRun, options: dict[str, Any], words: str) -> None:
    run = new_run(**options)
    write_rows(run.data, 2)

    result = run.execute()

    assert (result.code, result.termination["state"]) == (2, "Failed")
    assert words in result.message


def test_a_model_folder_that_is_broken_is_exit_2(new_run: NewRun) -> None:
    run = new_run()
    write_rows(run.data, 2)
    model = run.claim("models") / "tiny"
    weights = (model / "model.safetensors").read_bytes()

    def failing(words: str) -> None:
        result = run.execute()
        assert (result.code, result.termination["state"]) == (2, "Failed")
        assert words in result.message
        assert not (run.output_dir / "manifest.json").exists()

    (model / "model.safetensors").write_bytes(weights[:-100])
    failing("model.safetensors of the base model pvc://models/tiny is missing or damaged")
    (model / "model.safetensors").unlink()
    failing("has no *.safetensors weights")
    (model / "model.safetensors").write_bytes(without_one_weight(weights))
    failing("lacks 1 weights, for example model.language_model.norm.weight")
    (model / "tokenizer.json").write_text("{}")
    failing("the processor of the base model pvc://models/tiny cannot be loaded")
    (model / "config.json").write_text('{"model_type": "bert"}')
    failing("the base model pvc://models/tiny (bert) is not supported; these are: ")
    (model / "config.json").write_text("{")
    failing("config.json of the base model pvc://models/tiny cannot be read")
    (model / "config.json").unlink()
    failing("has neither model_index.json nor config.json")


def without_one_weight(content: bytes) -> bytes:
    from safetensors.torch import load, save

    weights = load(content)
    del weights["model.language_model.norm.weight"]
    return save(weights, {"format": "pt"})


def test_bad_data_is_exit_3_before_torch_is_needed(new_run: NewRun) -> None:
    """Also: no module of torch is loaded when columns and images are looked at."""
    run = new_run(recipe={"imageColumns": ["photo"]})
    write_rows(run.data, 2)
    code = (
        "import sys; from finetune_trainer.__main__ import main, STOP; code = main(STOP); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; sys.exit(code)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=run.process_env(), text=True)
    result = run.finish(process)

    assert (result.code, result.reason) == (3, "DataValidationFailed")
    assert result.message == "train.jsonl has no column 'photo'; its columns are 'question', 'answer', 'image'"


def test_a_crash_is_told_with_its_last_line_and_without_secrets(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from finetune_trainer import run as run_module

    secrets = tmp_path / "secret"
    secrets.mkdir()
    (secrets / "HF_TOKEN").write_text("s3cr3t-value\n")

    def crash(*_: object) -> None:
        raise RuntimeError("could not reach https://user:pw@host/x?sig=1 with s3cr3t-value")

    monkeypatch.setattr(run_module, "find", crash)
    run = new_run(env={"FINETUNE_MODEL_SECRET_DIR": str(secrets)})
    result = run.execute()

    assert (result.code, result.termination["state"]) == (1, "Failed")
    assert result.message == "RuntimeError: could not reach https://***@host/x?*** with ***"


def test_a_full_termination_message_stays_within_4096_bytes() -> None:
    verdict = Verdict(message="ü\n" * 5000)
    body = json.loads(verdict.render())
    assert body["message"].startswith("ü\nü")
    assert len(verdict.render().encode()) <= 4096


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("hf_abcdefghijkl in text", "*** in text"),
        ("https://a:b@h/p", "https://***@h/p"),
        ("https://h/p?X-Amz-Signature=1&b=2 next", "https://h/p?*** next"),
        ("no secret", "no secret"),
    ],
)
def test_redaction(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_what_of_a_secret_is_secret(tmp_path: Path) -> None:
    from finetune_trainer.environment import Environment
    from tests.trainer import stores

    values = {"AWS_SECRET_ACCESS_KEY": "s3cr3t-value", "AWS_REGION": "eu-central-1", "base-url": "https://oxen.example"}
    folder = stores.secret(tmp_path / "secret", values)
    variables = {"FINETUNE_CONFIG": "x", "FINETUNE_RUN_DIR": "x", "FINETUNE_DATASET_SECRET_DIR": folder}
    env = Environment.read(variables)
    assert env.dataset_access.secret == values
    assert env.secret_values() == ["s3cr3t-value"]


def test_a_missing_environment_is_exit_2(monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune_trainer.__main__ import main
    from finetune_trainer.stop import Stop

    monkeypatch.delenv("FINETUNE_RUN_DIR", raising=False)
    assert main(Stop()) == 2


def test_an_exploding_loss_is_told_and_not_retried(new_run: NewRun) -> None:
    run = new_run(recipe={"learningRate": 1e30, "epochs": 3})
    write_rows(run.data)

    result = run.execute()

    assert (result.code, result.reason) == (2, "TrainingDiverged")
    assert "lower learningRate" in result.message


def test_skipped_rows_are_counted(new_run: NewRun) -> None:
    run = new_run(recipe={"epochs": 1}, advanced={"maxSkippedShare": 0.2})
    rows = write_rows(run.data)
    write_jsonl(run.data / "train.jsonl", [*rows, {**rows[0], "answer": ""}])

    assert run.execute().code == 0
    assert (run.manifest()["dataset"]["rows"], run.manifest()["dataset"]["skipped"]) == (6, 1)
