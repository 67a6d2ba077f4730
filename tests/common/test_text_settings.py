"""Text settings keep what was typed, on every way in and out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lamer.common.config import config_hash, from_json, load, override, parameters, to_json, to_yaml
from lamer.common.schema import ConfigError
from lamer.common.settings import Settings

LIKE_SOMETHING_ELSE = (
    *("12e3", "1e5", "695e0514", "007", "0x1f", "0o17", "1_000", "12:30", "1.", "+.5", ".inf", "-.INF", ".nan", "-0"),
    *("on", "yes", "null", "~", "a: b", "- a", "#x", "x #y", "${x}", r"\${x}", r"\\${x}", "${", "a$b", "2024-01-01"),
    *("=", "<<", "|", "'", '"', "'a", '"a" b', "!!int 3", "&a", "*a", "%", "@", "{a", "[", "\x85\u2028", "\ufeff"),
    *("a\nb\n", "\n", " x ", "\tx", "", "ü", "\U0001f600", "\x00", "\x7f", "a\\b", r"\n", "\xa0/\tm(", "???x"),
)
texts = st.lists(st.one_of(st.sampled_from(LIKE_SOMETHING_ELSE), st.text()), min_size=20, max_size=20)
TEXT_KEYS = ("run.directory", "tracking.experiment", "model.path", "gateway.keys", "trainer.group_address")


def with_texts(found: list[str]) -> Settings:
    """Settings with a text in each kind of place: keys of a type, options of the environment, lists of options."""
    plain = Settings()
    options = {f"option_{index}": text for index, text in enumerate(found)}
    return replace(
        plain,
        run=replace(plain.run, directory=found[0]),
        tracking=replace(plain.tracking, experiment=found[1]),
        model=replace(plain.model, path=found[2], warmstart=replace(plain.model.warmstart, also=[options])),
        env=replace(plain.env, options={**options, "nested": {"a": [found[3]]}, "number": 7}),
    )


def check_round_trips(found: list[str], folder: Path) -> None:
    before = with_texts(found)
    file = folder / "config.yaml"
    file.write_text(to_yaml(before), encoding="utf-8")
    assert load([file]) == before
    assert from_json(to_json(before)) == before
    assert dict(parameters(before))["tracking.experiment"] == found[1]
    typed = [override(f"env.options.option_{index}", text) for index, text in enumerate(found[:8])]
    typed += [override(key, text) for key, text in zip(TEXT_KEYS, found, strict=False)]
    after = load([], typed)
    assert after.env.options == {f"option_{index}": text for index, text in enumerate(found[:8])}
    got = (after.run.directory, after.tracking.experiment, after.model.path, after.gateway.keys)
    assert (*got, after.trainer.group_address) == tuple(found[:5])


def test_text_that_looks_like_something_else_survives_every_round_trip(tmp_path: Path) -> None:
    for start in (0, 16, 32, 48):
        check_round_trips([*LIKE_SOMETHING_ELSE[start:], *LIKE_SOMETHING_ELSE[:start]], tmp_path)


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
@given(found=texts.filter(lambda found: "???" not in found))
def test_any_text_survives_every_round_trip(found: list[str], tmp_path: Path) -> None:
    check_round_trips(found, tmp_path)


TYPED = {
    "007": "007",
    "12e3": "12e3",
    "1_000": "1_000",
    "yes": "yes",
    "null": "null",
    "~": "~",
    "#x": "#x",
    "a: b": "a: b",
    "": "",
    " x ": " x ",
    "2024-01-01": "2024-01-01",
    '"12e3"': "12e3",
    "'a: b'": "a: b",
    '"a" b': '"a" b',
    "'tis": "'tis",
    "[a": "[a",
    r"\${x}": "${x}",
}


@pytest.mark.parametrize("typed", TYPED)
def test_a_text_on_the_command_line_is_what_was_typed(typed: str) -> None:
    assert load([], [f"tracking.experiment={typed}"]).tracking.experiment == TYPED[typed]


@pytest.mark.parametrize("typed", ["007", "12e3", "1_000", "0x10", "yes", "2024-01-01", "12:30", ".inf", "1.50"])
def test_a_text_in_a_file_needs_no_quotes(typed: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"tracking: {{experiment: {typed}}}\n")
    assert load([file]).tracking.experiment == typed
    assert load([], [f"tracking={{experiment: {typed}}}"]).tracking.experiment == typed


def test_a_text_that_a_merge_key_takes_in_is_kept_and_what_stands_beside_it_wins(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("env: {options: {a: &b {name: 007, directory: 1_0}}}\nrun: {<<: *b, name: 008}\n")
    settings = load([file])
    assert (settings.run.name, settings.run.directory) == ("008", "1_0")


def test_an_option_of_the_environment_is_text_where_it_is_quoted() -> None:
    options = load([], ['env.options.a="12e3"', "env.options.b=12e3", "env.options={c: '007', d: 7}"]).env.options
    assert options == {"a": "12e3", "b": 12000.0, "c": "007", "d": 7}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("tracking.experiment=${nowhere}", r"a ${ that is part of a text is written \${"),
        ("tracking.experiment=a${b", r"a ${ that is part of a text is written \${"),
        ("tracking.experiment=???", "tracking.experiment in the command line is ???, which stands for a missing value"),
        ("tracking={experiment: null}", "tracking.experiment in the command line is null, which is no text"),
        ("env.options.x=!!int y", "the value of 'env.options.x=!!int y' can't be read"),
        ("tracking.experiment=\udcff", "is no valid text"),
    ],
)
def test_text_that_can_not_be_kept_is_refused(typed: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load([], [typed])
    assert message in str(refused.value)


def test_the_hash_of_the_packaged_doors_has_not_changed() -> None:
    from lamer.deploy.run.configuration import read_settings

    assert config_hash(read_settings([Path("doors.yaml")], [])) == "68393a40bd363747"
