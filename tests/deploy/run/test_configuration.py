"""What an environment with splits is asked for, and one without is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lamer.common import config
from lamer.common.errors import BadInput
from lamer.common.settings import Settings
from lamer.deploy.cli import app
from lamer.deploy.run.configuration import evaluation_env_config, tracking_environment, with_tracking_address
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


MASKED = "tracking.uri=http://***@tracking.example:5000"


def whole_address(monkeypatch: pytest.MonkeyPatch, typed: str, **environment: str) -> str:
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", environment.get(name, ""))
    return with_tracking_address(settings(typed)).tracking.uri


def test_a_masked_tracking_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "http://u:pa55@tracking.example:5000"
    assert whole_address(monkeypatch, MASKED, URI=whole) == whole
    assert whole_address(monkeypatch, MASKED, USERNAME="u", PASSWORD="pa55") == "http://tracking.example:5000"
    assert whole_address(monkeypatch, f"tracking.uri={whole}", URI="http://other") == whole
    assert whole_address(monkeypatch, "tracking.uri=sqlite:///***@x.db") == "sqlite:///***@x.db"


@pytest.mark.parametrize("uri", ["", "http://u:pa55@another.example:5000", "http://tracking.example:5000"])
def test_a_masked_tracking_address_that_nothing_makes_whole_is_refused(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=r"http://\*\*\*@tracking\.example:5000: what is secret in it is not kept"):
        whole_address(monkeypatch, MASKED, URI=uri)


def test_a_learner_is_handed_an_address_with_secrets_by_its_environment_alone() -> None:
    whole = "http://u:pa55@tracking.example:5000"
    assert tracking_environment(settings(f"tracking.uri={whole}")) == {"MLFLOW_TRACKING_URI": whole}
    assert tracking_environment(settings("tracking.uri=http://tracking.example")) == {}
