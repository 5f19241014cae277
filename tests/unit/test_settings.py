"""The command line, the environment and the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_operator import settings as module
from finetune_operator.settings import Settings, definitions, parse

DEFINITIONS = list(definitions())


def test_defaults_are_the_ones_that_are_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NAMESPACE_FILE", Path("/nowhere/namespace"))
    settings = parse([], {})
    assert settings.operator_namespace == "default"
    assert settings.progress_url == "https://finetune-operator.default.svc:8443"
    derived = {"operator_namespace", "progress_url"}
    for each in DEFINITIONS:
        if each.name not in derived:
            assert getattr(settings, each.name) == each.default, each.name


def test_a_default_survives_its_own_parser() -> None:
    """What the help shows can be typed, and the chart may spell out every default."""
    for each in DEFINITIONS:
        if each.default_text:
            settings = parse([f"{each.flag}={each.default_text}"], {})
            assert getattr(settings, each.name) == each.default, each.name


def test_names_are_unique_and_follow_one_rule() -> None:
    assert len({each.flag for each in DEFINITIONS}) == len(DEFINITIONS)
    charts = [each.chart for each in DEFINITIONS if each.chart]
    assert len(set(charts)) == len(charts)
    for each in DEFINITIONS:
        assert each.environment == "FINETUNE_" + each.flag[2:].replace("-", "_").upper()


def test_help_documents_every_flag_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"], {})
    assert ended.value.code == 0
    text = "".join(capsys.readouterr().out.split())
    for each in DEFINITIONS:
        assert each.flag in text
        assert f"(${each.environment})" in text
        assert each.default_text.replace(" ", "") in text


@pytest.mark.parametrize("each", DEFINITIONS, ids=lambda each: each.name)
def test_every_setting_comes_from_the_environment_too(each: module.Definition, tmp_path: Path) -> None:
    other = _another_value(each, tmp_path)
    by_flag = parse([f"{each.flag}={other}", *_companions(each, tmp_path)], {})
    by_environment = parse(_companions(each, tmp_path), {each.environment: other})
    assert by_flag == by_environment
    assert getattr(by_flag, each.name) != each.default


def test_a_flag_wins_over_the_environment_and_empty_counts_as_unset() -> None:
    assert parse(["--workers", "3"], {"FINETUNE_WORKERS": "5"}).workers == 3
    assert parse([], {"FINETUNE_WORKERS": " "}).workers == 16


def test_lists() -> None:
    assert parse(["--namespace", "a", "--namespace=b", "--namespace=a"], {}).namespace == ("a", "b")
    assert parse([], {"FINETUNE_NAMESPACE": "a, b,,"}).namespace == ("a", "b")


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("0.5", 0.5), ("500ms", 0.5), ("5m", 300), ("1h", 3600)])
def test_times_may_carry_a_unit(text: str, seconds: float) -> None:
    assert parse(["--poll-interval", text], {}).poll_interval == pytest.approx(seconds)


@pytest.mark.parametrize(("arguments", "value"), [([], True), (["--leader-election=false"], False)])
def test_switches(arguments: list[str], value: bool) -> None:
    assert parse(arguments, {}).leader_election is value
    assert parse(["--per-run-metrics"], {}).per_run_metrics is True


def test_a_choice_takes_its_words_and_no_other() -> None:
    choices = [each for each in DEFINITIONS if each.choices]
    assert {each.name for each in choices} == {"trainer_image_pull_policy", "log_format", "log_level"}
    for each in choices:
        for word in each.choices:
            assert getattr(parse([f"{each.flag}={word}"], {}), each.name) == word
        with pytest.raises(SystemExit):
            parse([f"{each.flag}={each.default.swapcase()}"], {})


def test_the_progress_url_follows_namespace_and_port() -> None:
    settings = parse(["--operator-namespace=ml", "--progress-port=9443"], {})
    assert settings.progress_url == "https://finetune-operator.ml.svc:9443"
    assert parse(["--progress-port=0"], {}).progress_url == ""
    assert parse(["--progress-url=https://10.0.0.1:1/"], {}).progress_url == "https://10.0.0.1:1"


def test_the_namespace_comes_from_the_service_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "namespace"
    file.write_text("ml-system\n")
    monkeypatch.setattr(module, "_NAMESPACE_FILE", file)
    assert parse([], {}).operator_namespace == "ml-system"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--workers=0"], "--workers=0: give a whole number from 1 to 256"),
        (["--workers=many"], "--workers=many"),
        (["--metrics-port=65536"], "--metrics-port=65536"),
        (["--poll-interval=nan"], "--poll-interval=nan: give seconds"),
        (["--poll-interval=-1"], "--poll-interval=-1"),
        (["--leader-election=maybe"], "give true or false"),
        (["--log-format=xml"], "choose from json, text"),
        (["--namespace=Not_A_Name"], "--namespace=Not_A_Name"),
        (["--default-shm-size=big"], "give a quantity"),
        (["--progress-url=http://insecure"], "https://"),
        (["--progress-url=https://host:port"], "--progress-url=https://host:port"),
        (["--allow-base-url=https://u:p@host"], "without user name"),
        (["--allow-dataset-host=https://host/path"], "without https:// and path"),
        (["--progress-cert-file=/no/such/file"], "there is no such file"),
        (["--progress-cert-file=pyproject.toml"], "go together"),
        (["--progress-ca-file=pyproject.toml"], "needs --progress-cert-file"),
        (["--renew-deadline=20"], "two leaders"),
        (["--retry-period=11"], "no renewal comes in time"),
        (["--backoff-base=2", "--backoff-cap=1"], "--backoff-cap"),
        (["--worker=3"], "--worker"),
        (["stray"], "stray"),
        (["--workers"], "--workers"),
    ],
)
def test_a_bad_value_gets_one_line_that_names_it(
    arguments: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments, {})
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert names in error
    assert error.count("\n") == 1


def test_a_bad_variable_is_named_as_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([], {"FINETUNE_WORKERS": "tcp://10.96.0.7:8080"})
    assert "FINETUNE_WORKERS=tcp://10.96.0.7:8080: give a whole number" in capsys.readouterr().err


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Settings().workers = 3  # type: ignore[misc]


def _another_value(each: module.Definition, folder: Path) -> str:
    special = {
        "trainer_image_pull_policy": "Always",
        "log_format": "text",
        "log_level": "debug",
        "default_shm_size": "2Gi",
        "progress_url": "https://example.test:1",
        "allow_base_url": "https://example.test",
        "renew_deadline": "9",
        "lease_duration": "16",
        "retry_period": "3",
        "backoff_base": "0.01",
        "per_run_metrics": "true",
        "leader_election": "false",
        "require_kueue": "false",
    }
    if each.name in special:
        return special[each.name]
    if each.name.endswith("_file"):
        return _file(folder)
    if isinstance(each.default, int | float):
        return str(int(each.default) + 1)
    return "another"


def _companions(each: module.Definition, folder: Path) -> list[str]:
    pair = ["--progress-cert-file", "--progress-key-file"] if each.name.startswith("progress_") else []
    return [f"{flag}={_file(folder)}" for flag in pair if flag != each.flag and each.name.endswith("_file")]


def _file(folder: Path) -> str:
    file = folder / "file.pem"
    file.write_text("-")
    return str(file)
