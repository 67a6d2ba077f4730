"""What is masked in addresses, and what is left as it is."""

from __future__ import annotations

import dataclasses

import pytest

from lamer.common.config import config_hash, from_json, load, parameters, to_json, to_shown_yaml, to_yaml
from lamer.common.masking import is_masked, is_secret_name, link, masked, masked_json, masked_within, masked_word
from lamer.common.schema import ConfigError

MASKED = {
    "http://someone:pa55@tracking.example:5000": "http://***@tracking.example:5000",
    "https://pa55@tracking.example/base": "https://***@tracking.example/base",
    "http://someone:pa55/%2@tracking.example:5000": "http://***@tracking.example:5000",
    "http://someone:p@pa55@tracking.example": "http://***@tracking.example",
    "http://someone:x?pa55@tracking.example": "http://***",
    "http://someone:x#pa55@tracking.example": "http://***",
    "http://tracking.example/?token=pa55&pa55": "http://tracking.example/?token=***&***",
    "http://tracking.example/#pa55": "http://tracking.example/#***",
    "postgresql+psycopg2://u:pa55@db/mlflow?sslkey=pa55#pa55": "postgresql+psycopg2://***@db/mlflow?sslkey=***#***",
    "postgresql:///mlflow?user=u&password=pa55": "postgresql:///mlflow?user=***&password=***",
    "sqlite+pysqlcipher://:pa55@/x.db": "sqlite+pysqlcipher://***@/x.db",
    "someone:pa55@tracking.example:5000": "***@tracking.example:5000",
}
PLAIN = (
    *("", "http://tracking.example:5000/base", "databricks", "databricks://profile", "runs/mlflow@home", "/a b/?#@x"),
    *("sqlite:///runs/me@home/what?/mlflow.db", "sqlite:////runs/***/mlflow.db", "file:///home/me@work/mlruns"),
)


@pytest.mark.parametrize("address", MASKED)
def test_user_password_and_query_values_are_masked_once_and_for_all(address: str) -> None:
    kept = masked(address)
    assert kept == MASKED[address]
    assert masked(kept) == kept
    assert is_masked(kept)
    assert not is_masked(address)
    assert "pa55" not in link(address)


@pytest.mark.parametrize("address", PLAIN)
def test_an_address_without_secrets_is_left_as_it_is(address: str) -> None:
    assert masked(address) == link(address) == address
    assert not is_masked(address)


def test_addresses_within_an_error_are_masked() -> None:
    error = "request to http://u:pa55@host:5000/api?token=pa55 failed (postgresql://u:pa55@db/x)"
    assert masked_within(error) == "request to http://***@host:5000/api?token=*** failed (postgresql://***@db/x)"


def test_no_form_of_a_configuration_holds_the_password_of_its_tracking_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "pa55")
    settings = load([], ["tracking.uri=http://someone:${oc.env:TOKEN}@tracking.example:5000"])
    assert settings.tracking.uri == "http://someone:pa55@tracking.example:5000"
    for form in (to_yaml(settings), to_json(settings), repr(parameters(settings))):
        assert "pa55" not in form
        assert "http://***@tracking.example:5000" in form
    other = dataclasses.replace(settings.tracking, uri="http://***@tracking.example:5000")
    assert from_json(to_json(settings)) == dataclasses.replace(settings, tracking=other)


@pytest.mark.parametrize("name", ["api_key", "apiKey", "API_KEY", "key", "auth-token", "db.password", "clientSecret"])
def test_a_name_that_says_so_is_a_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["max_tokens", "keyboard", "monkey", "tokenizer", "split", "board", "secretary", ""])
def test_a_name_that_only_looks_similar_is_none(name: str) -> None:
    assert not is_secret_name(name)


OPTIONS = (
    "env.options.api_key=pa55",
    "env.options.login={user: me, password: pa55, port: 5}",
    "env.options.site=http://me:pa55@shop.example",
    "env.options.max_tokens=7",
)


def test_secret_options_reach_the_actor_and_a_resumption_and_are_shown_and_tracked_nowhere() -> None:
    settings = load([], OPTIONS)
    for form in (to_shown_yaml(settings), repr(parameters(settings))):
        assert "pa55" not in form
        assert "http://***@shop.example" in form
    assert dict(parameters(settings))["env.options.max_tokens"] == "7"
    assert from_json(to_json(settings)) == settings
    assert to_yaml(settings).count("pa55") == 3
    other = load([], [*OPTIONS, "env.options.api_key=other"])
    assert config_hash(other) != config_hash(settings), "it is another run all the same"


def test_secret_options_are_masked_in_an_environments_json_and_on_a_command_line() -> None:
    assert masked_json('{"api_key":"pa55","board":4}') == '{"api_key":"***","board":4}'
    assert masked_json('{"board":4,"key":""}') == '{"board":4,"key":""}'
    assert masked_word("env.options.api_key=pa55") == "env.options.api_key=***"
    assert masked_word("optimizer.learning_rate=1e-3") == "optimizer.learning_rate=1e-3"


@pytest.mark.parametrize(
    "typed", ["tracking=http://u:pa55@host", "tracking.mlflow=http://u:pa55@host", "http://u:pa55@h"]
)
def test_a_refusal_shows_no_password(typed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load([], [typed])
    assert "pa55" not in str(refused.value)
