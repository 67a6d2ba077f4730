"""The command line as a user meets it: one line and an exit code for every bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lamer.common.keys import create_keys
from lamer.deploy.cli import app


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    create_keys(folder)
    return folder


def lamer(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="lamer")


def the_error(result: Result) -> str:
    """The one line that the command left on stderr."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("lamer: ")
    return lines[0].removeprefix("lamer: ")


def write_model(folder: Path, *files: str) -> Path:
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("-c", "doors.yaml", "batch.gruops=3"),
            2,
            "unknown key batch.gruops in the command line: did you mean batch.groups?",
        ),
        (("-c", "doors.yaml", "batch.groups=two"), 2, "wrong value for batch.groups"),
        (("-c", "doors.yaml", "trial.episodes=-1"), 2, "trial.episodes is -1; it must be at least 1"),
        (("-c", "doors.yaml", "env.name=dors"), 2, "did you mean 'doors'?"),
        (("-c", "doors.yaml", "env.options.dors=3"), 2, "env.options.dors"),
        (("-c", "doors.yaml", "env.name=sokoban"), 2, "env.options.doors in doors.yaml is an option of doors"),
        (("-c", "dors.yaml"), 3, "no configuration file dors.yaml: did you mean doors.yaml?"),
        (("-c", "doors.yaml", "model.path=/no/such/model"), 3, "/no/such/model is not there"),
        (("-c", "doors.yaml", "--name", "a/b"), 2, "run.name 'a/b'"),
        (("-c", "doors.yaml", "--resume"), 3, "nothing to resume"),
    ],
)
@pytest.mark.parametrize("command", ["train", "learner"])
def test_bad_input_is_one_line_and_an_exit_code(
    command: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = lamer(command, *arguments)
    assert result.exit_code == code
    assert message in the_error(result)


def test_a_refused_configuration_leaves_no_run_folder() -> None:
    lamer("train", "-c", "doors.yaml", "batch.gruops=3")
    lamer("train", "-c", "doors.yaml", "model.path=/no/such/model")
    assert not Path("runs").exists()


def test_a_model_without_tokenizer_is_refused_before_anything_starts(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "config.json", "model.safetensors")
    result = lamer("train", "-c", "doors.yaml", f"model.path={folder}")
    assert result.exit_code == 3
    assert "lacks tokenizer.json" in the_error(result)


def test_an_existing_run_folder_is_refused_and_resume_is_named() -> None:
    Path("runs/mine").mkdir(parents=True)
    result = lamer("train", "-c", "doors.yaml", "--name", "mine")
    assert result.exit_code == 2
    assert "--resume" in the_error(result)


def test_a_run_folder_of_another_configuration_is_refused_with_the_keys_that_differ() -> None:
    Path("runs/mine").mkdir(parents=True)
    shown = lamer("config", "show", "-c", "doors.yaml", "run.name=mine")
    Path("runs/mine/config.yaml").write_text(shown.stdout)
    result = lamer("train", "-c", "doors.yaml", "--name", "mine", "--resume", "optimizer.learning_rate=0.5")
    assert result.exit_code == 2
    assert "optimizer.learning_rate (0.001 there, 0.5 here)" in the_error(result)


def test_a_command_line_that_typer_refuses_exits_with_two() -> None:
    assert lamer("train").exit_code == 2
    assert lamer("train", "-c", "doors.yaml", "--nonsense").exit_code == 2
    assert lamer("actor", "--connect", "tcp://127.0.0.1:1", "--keys", "k", "--trials", "0").exit_code == 2


def test_an_actor_without_keys_or_with_no_learner_says_so(keys: Path) -> None:
    result = lamer("actor", "--connect", "tcp://127.0.0.1:1", "--keys", "nowhere")
    assert (result.exit_code, "nowhere/client.key is not there" in the_error(result)) == (3, True)
    (keys / "actor" / "client.key").write_text("short\n")
    result = lamer("actor", "--connect", "tcp://127.0.0.1:1", "--keys", str(keys))
    assert (result.exit_code, "holds no CURVE key" in the_error(result)) == (2, True)


def test_watching_something_that_is_no_run_says_so() -> None:
    assert "no run folder nowhere" in the_error(lamer("top", "nowhere"))
    assert "name their folder with --keys" in the_error(lamer("top", "tcp://127.0.0.1:1"))


def test_config_show_prints_a_configuration_that_loads_to_the_same_hash() -> None:
    first = lamer("config", "show", "-c", "doors.yaml", "batch.groups=3")
    assert first.exit_code == 0
    Path("again.yaml").write_text(first.stdout)
    assert lamer("config", "show", "-c", "again.yaml").stdout == first.stdout
    assert "groups: 3" in first.stdout


def test_config_show_fills_in_the_environments_own_options() -> None:
    Path("bare.yaml").write_text("env: {name: doors}\n")
    assert "doors: 5" in lamer("config", "show", "-c", "bare.yaml").stdout


def test_keys_are_created_once_shown_and_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert lamer("keys", "create", str(folder)).exit_code == 0
    shown = lamer("keys", "show", str(folder)).stdout.split()
    assert (shown[0], shown[2::3], shown[4::3]) == (
        "server",
        ["actor", "host", "observer"],
        ["actor", "host", "observer"],
    )
    assert (folder / "server.key_secret").read_text().strip() not in shown
    again = lamer("keys", "create", str(folder))
    assert (again.exit_code, "exists already" in the_error(again)) == (2, True)


def test_a_key_for_another_machine_is_made_by_one_command_that_says_what_to_copy(tmp_path: Path) -> None:
    made = lamer("keys", "create", "--role", "host", "gpu-1")
    assert made.exit_code == 0
    assert "gpu-1 may connect as host: copy keys/gpu-1 to that machine" in made.stdout
    assert lamer("keys", "show", "keys/gpu-1").stdout.split()[2] == "host"
    assert lamer("keys", "create", "--role", "actor", "own", "--server", "keys/server.key").exit_code == 0
    assert lamer("keys", "allow", "keys", "own/client.key", "--name", "mine", "--role", "actor").exit_code == 0
    assert "mine" in lamer("keys", "show", "keys").stdout
    assert lamer("keys", "create", "--role", "trainer", "me").exit_code == 2
    refused = lamer("actor", "--connect", "tcp://127.0.0.1:1", "--keys", "keys/gpu-1")
    assert (refused.exit_code, "is a host's key: make an actor's" in the_error(refused)) == (2, True)


def test_doctor_finds_this_machine_fit() -> None:
    result = lamer("doctor")
    assert result.exit_code == 0, result.stdout
    assert "Python" in result.stdout


def test_ctrl_c_is_130_and_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lamer.common.keys.create_keys", interrupted)
    result = lamer("keys", "create", "new")
    assert (result.exit_code, result.stderr) == (130, "")
