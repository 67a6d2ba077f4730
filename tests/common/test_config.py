"""Configuration: what is merged, what is refused and in which words, and what survives the wire."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lamer.common import config
from lamer.common.config import PACKAGED, config_hash, differing_keys, from_json, load, parameters, to_json, to_yaml
from lamer.common.errors import BadInput, Missing
from lamer.common.records import MemoryMode
from lamer.common.schema import ConfigError, ForeignOption
from lamer.common.settings import Settings


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_no_file_gives_the_defaults() -> None:
    assert load([]) == Settings()


def test_overrides_win_over_files_and_later_files_over_earlier_ones(tmp_path: Path) -> None:
    first = write(tmp_path, "a.yaml", "batch: {groups: 3, group_size: 5, updates: 7}\n")
    second = write(tmp_path, "b.yaml", "batch: {group_size: 6}\n")
    batch = load([first, second], ["batch.updates=9"]).batch
    assert (batch.groups, batch.group_size, batch.updates) == (3, 6, 9)


def test_a_base_is_merged_before_the_file_that_names_it(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "batch: {groups: 3}\nenv: {options: {doors: 5, seen: true}}\n")
    top = write(tmp_path, "top.yaml", "base: base.yaml\nbatch: {group_size: 2}\nenv: {options: {doors: 7}}\n")
    settings = load([top])
    assert (settings.batch.groups, settings.batch.group_size) == (3, 2)
    assert settings.env.options == {"doors": 7, "seen": True}


def test_of_several_bases_the_later_wins_and_the_file_over_all(tmp_path: Path) -> None:
    write(tmp_path, "one.yaml", "batch: {groups: 3, group_size: 3, updates: 3}\n")
    write(tmp_path, "two.yaml", "batch: {group_size: 4, updates: 4}\n")
    batch = load([write(tmp_path, "top.yaml", "base: [one.yaml, two.yaml]\nbatch: {updates: 5}\n")]).batch
    assert (batch.groups, batch.group_size, batch.updates) == (3, 4, 5)


@pytest.mark.parametrize(
    ("text", "overrides"),
    [("base: doors.yaml\nenv: {name: maze}\n", []), ("base: doors.yaml\n", ["env.options.size=3", "env.name=maze"])],
)
def test_a_base_with_options_of_another_environment_is_refused_naming_the_base_that_has_none(
    tmp_path: Path, text: str, overrides: list[str]
) -> None:
    with pytest.raises(ForeignOption) as raised:
        load([write(tmp_path, "maze.yaml", text)], overrides)
    assert "env.options.doors in doors.yaml is an option of doors, but env.name is maze" in str(raised.value)
    assert "base: pocket.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_options_that_are_meant_for_the_environment_that_is_played_stay(tmp_path: Path) -> None:
    write(tmp_path, "any.yaml", "env: {options: {seen: true}}\n")  # names no environment: meant for whichever comes
    own = write(tmp_path, "own.yaml", "base: [any.yaml, pocket.yaml]\nenv: {name: maze, options: {size: 3}}\n")
    assert load([own], ["env.options.size=4"]).env.options == {"seen": True, "size": 4}
    restated = write(tmp_path, "restated.yaml", "base: doors.yaml\nenv: {name: maze, options: {doors: 2}}\n")
    assert load([restated]).env.options == {"doors": 2}


def test_a_file_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml is its own base: a\.yaml -> b\.yaml -> a\.yaml"):
        load([tmp_path / "a.yaml"])


@pytest.mark.parametrize("name", ["doors", "doors.yaml"])
def test_a_bare_name_is_found_among_the_packaged_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load([Path(name)]).env.name == "doors"


def test_a_file_in_the_working_folder_wins_over_a_packaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "doors.yaml", "batch: {groups: 1}\n")
    monkeypatch.chdir(tmp_path)
    assert load([Path("doors.yaml")]).batch.groups == 1


@pytest.mark.parametrize("path", sorted(PACKAGED.rglob("*.yaml")), ids=lambda path: str(path.relative_to(PACKAGED)))
def test_every_packaged_configuration_loads(path: Path) -> None:
    from lamer.envs import registry

    settings = load([path])
    registry.decode_config(settings.env.name, settings.env.options)


REFUSED = {
    "batch.gruops=3": "unknown key batch.gruops in the command line: did you mean batch.groups?",
    "groups=3": "unknown key groups in the command line: did you mean batch.groups?",
    "evalution.tasks=3": "unknown key evalution in the command line: did you mean evaluation?",
    "xyzzy=1": "unknown key xyzzy in the command line",
    "batch.groups=two": "wrong value for batch.groups in the command line: Value 'two'",
    "batch.groups=1.5": "wrong value for batch.groups",
    "batch.groups=null": "wrong value for batch.groups",
    "batch=3": "batch in the command line is a section with keys of its own, not 3",
    "evaluation.initial=3": "evaluation.initial in the command line must be true or false, not 3",
    "trial.memory=all": "trial.memory in the command line is 'all'; it must be one of none, reflection",
    "loss.kind=sgd": "loss.kind is 'sgd'; it must be one of decoupled_ppo",
    "trial.episodes=-1": "trial.episodes is -1; it must be at least 1",
    "trial.episodes=0": "trial.episodes is 0; it must be at least 1",
    "actor.trials=0": "actor.trials is 0; it must be at least 1",
    "gateway.port=70000": "gateway.port is 70000; it must be at least 0 and at most 65535",
    "optimizer.learning_rate=nan": "optimizer.learning_rate is nan; it must be finite and at least 0",
    "optimizer.learning_rate=inf": "optimizer.learning_rate is inf; it must be finite and at least 0",
    "env.options=3": "env.options in the command line must be names with values, not 3",
    "batch.groups": "'batch.groups' is no override: write key=value",
    "=3": "'=3' is no override",
    "env.options={a: [}": "the value of 'env.options={a: [}' can't be read",
    "batch.groups=${batch.nowhere}": "batch.groups: Interpolation key 'batch.nowhere' not found",
    "model.pocket.kv_heads=3": "model.pocket.kv_heads (3) must divide model.pocket.heads (4)",
    "model.pocket.head_dim=5": "model.pocket.head_dim is 5; rotary positions need an even number",
    "gateway.heartbeat_seconds=30": "gateway.dead_after_seconds (20.0) must be above gateway.heartbeat_seconds (30.0)",
    "inference.delivery=gloo": "inference.delivery=gloo needs inference.engine=sglang, not embedded",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_wrong_override_is_refused_with_the_full_key_and_the_value(override: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load([], [override])
    assert REFUSED[override] in str(refused.value)
    assert refused.value.exit_code == BadInput.exit_code == 2


def test_an_unknown_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.yaml", "batch:\n  gruops: 3\n")
    with pytest.raises(ConfigError, match=r"unknown key batch\.gruops in mine\.yaml: did you mean batch\.groups\?"):
        load([path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch: [1\nloss: 2\n", "mine.yaml line 2 is no YAML"),
        ("batch: {groups: 1}\nbatch: {groups: 2}\n", "line 2 is no YAML: found duplicate key batch"),
        ("- 1\n", "holds a list, not keys with values"),
        ("3\n", "can't be read as a configuration"),
        ("base: [3]\n", "base in mine.yaml must be a file's name, or a list of them, not 3"),
        ("\x00", "is no YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load([write(tmp_path, "mine.yaml", text)])
    assert message in str(refused.value)


def test_a_missing_file_is_named_with_the_closest_packaged_one() -> None:
    with pytest.raises(Missing, match=r"no configuration file dors\.yaml: did you mean doors\.yaml\?"):
        load([Path("dors.yaml")])


def test_values_are_read_in_the_schemas_types() -> None:
    settings = load([], ["optimizer.learning_rate=1e-3", "trial.memory=none", "run.name=5", "trial.temperature=1"])
    assert settings.optimizer.learning_rate == 0.001
    assert settings.trial.memory is MemoryMode.NONE
    assert settings.run.name == "5"
    assert isinstance(settings.trial.temperature, float)


ODD = [
    "env.options={doors: 7, nested: {a: [1, 2.5, null, 'x']}}",
    "optimizer.learning_rate=3.3e-7",
    'model.path="a: b"',
]


def test_json_is_an_exact_round_trip() -> None:
    settings = load([], ODD)
    assert from_json(to_json(settings)) == settings
    assert to_json(from_json(to_json(settings))) == to_json(settings)


def test_yaml_written_for_a_run_folder_loads_to_the_same_settings(tmp_path: Path) -> None:
    settings = load([], ODD)
    assert load([write(tmp_path, "config.yaml", to_yaml(settings))]) == settings


@pytest.mark.parametrize("text", ["", "[]", "3", '{"batch": {"gruops": 1}}', '{"batch": {"groups": -1}}'])
def test_json_from_a_peer_is_checked_like_a_file(text: str) -> None:
    with pytest.raises(ConfigError):
        from_json(text)


def test_the_hash_covers_the_experiment_and_not_where_it_runs() -> None:
    one = load([], [])
    elsewhere = load(
        [],
        [
            *(
                "run.name=x",
                "run.directory=/y",
                "tracking.uri=http://z",
                "gateway.port=5",
                "gateway.bind=tcp://0.0.0.0",
            ),
            *("actor.processes=4", "actor.trials=7", "inference.servers=2", "inference.max_running=3"),
        ],
    )
    assert config_hash(one) == config_hash(elsewhere)
    assert differing_keys(one, elsewhere) == ()
    other = load([], ["run.seed=1", "env.options={doors: 7}"])
    assert config_hash(one) != config_hash(other)
    assert differing_keys(one, other) == ("env.options.doors", "run.seed")


def test_the_hash_does_not_depend_on_the_order_of_options() -> None:
    one, other = load([], ["env.options={a: 1, b: 2}"]), load([], ["env.options={b: 2, a: 1}"])
    assert config_hash(one) == config_hash(other)


def test_parameters_are_flat_and_complete() -> None:
    pairs = dict(parameters(load([], ["env.options={doors: 7}", "trial.memory=both"])))
    assert pairs["env.options.doors"] == "7"
    assert pairs["trial.memory"] == "both"
    assert pairs["evaluation.initial"] == "true"
    assert pairs["model.pocket.hidden"] == "96"
    assert all(isinstance(value, str) for value in pairs.values())


def test_every_number_in_the_schema_has_a_range() -> None:
    """A new number without a lower bound would let a negative one through."""
    without = [
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(Settings)
        for field in dataclasses.fields(section.default_factory)  # type: ignore[misc,arg-type]
        if field.type in ("int", "float") and field.metadata.get("low") is None
    ]
    assert without == []


def test_the_packaged_folder_is_the_one_that_is_installed() -> None:
    assert (config.PACKAGED / "doors.yaml").is_file()
