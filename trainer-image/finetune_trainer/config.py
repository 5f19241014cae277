"""The configuration file of a run."""

from pathlib import Path

from pydantic import ValidationError

from finetune_operator.api.advanced import Advanced
from finetune_operator.api.base import problem
from finetune_operator.api.trainer_config import TrainerConfig
from finetune_trainer.errors import ConfigError


def read_config(path: Path) -> tuple[TrainerConfig, Advanced]:
    """Parse the file at `path`. Raises ConfigError that names every invalid field."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error}") from error
    try:
        config = TrainerConfig.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"the configuration is not valid: {_problems(error)}") from error
    try:
        return config, Advanced.model_validate(config.advanced or {})
    except ValidationError as error:
        raise ConfigError(f"the configuration is not valid: {_problems(error, 'advanced')}") from error


def _problems(error: ValidationError, *parents: str) -> str:
    return "; ".join(problem(finding, *parents) for finding in error.errors()[:10])
