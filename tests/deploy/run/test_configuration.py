"""What an environment with splits is asked for, and one without is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lamer.common import config
from lamer.common.settings import Settings
from lamer.deploy.cli import app
from lamer.deploy.run.configuration import evaluation_env_config
from lamer.envs import registry
from lamer.envs.base import Env, EnvFactory


def settings(*overrides: str) -> Settings:
    return config.load([Path("doors.yaml")], overrides)


def test_training_with_a_split_that_the_environment_lacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "-c", "minesweeper.yaml", "evaluation.split=test"]
    result = CliRunner().invoke(app, arguments, prog_name="lamer")
    assert (result.exit_code, "the environment minesweeper has no splits" in result.stderr) == (2, True)


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    split: str = "train"


class SplitFactory(EnvFactory[SplitConfig]):
    name = "rooms"
    config_class = SplitConfig

    def make(self, config: SplitConfig, seed: int) -> Env:
        raise NotImplementedError


def test_a_split_is_the_environment_s_option_in_evaluations_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = SplitFactory()
    monkeypatch.setattr(registry, "get", lambda _name: factory)
    options = {"split": "train"}
    asked = dataclasses.replace(
        settings("evaluation.split=test"), env=dataclasses.replace(settings().env, name="rooms", options=options)
    )
    assert json.loads(evaluation_env_config(asked)) == {"split": "test"}
    unasked = dataclasses.replace(asked, evaluation=settings().evaluation)
    assert json.loads(evaluation_env_config(unasked)) == {"split": "train"}
