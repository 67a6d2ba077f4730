"""The run folder: its name, who may use it, and what resuming accepts."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lamer.common import config
from lamer.common.errors import BadInput, Missing
from lamer.common.keys import create_keys
from lamer.common.settings import EnvSettings, RunSettings, Settings
from lamer.common.transport import make_key_pair
from lamer.deploy.run.folder import find_run, locked, open_run, write_text

FILES = (Path("configs/doors.yaml"),)


def settings(directory: Path, name: str = "", *overrides: str) -> Settings:
    loaded = config.load([], overrides)
    return replace(loaded, run=RunSettings(name=name, directory=str(directory / "runs")))


def test_runs_without_a_name_are_numbered_after_their_configuration(tmp_path: Path) -> None:
    names = [open_run(settings(tmp_path), FILES, is_resume=False).name for _ in range(3)]
    assert names == ["doors-001", "doors-002", "doors-003"]


def test_a_number_is_not_given_again_while_a_higher_one_exists(tmp_path: Path) -> None:
    (tmp_path / "runs" / "doors-007").mkdir(parents=True)
    (tmp_path / "runs" / "doors-hard-041").mkdir()
    assert open_run(settings(tmp_path), FILES, is_resume=False).name == "doors-008"


def test_the_resolved_configuration_is_kept_with_the_runs_name(tmp_path: Path) -> None:
    run = open_run(settings(tmp_path), FILES, is_resume=False)
    kept = config.load([run.config])
    assert kept == run.settings
    assert kept.run.name == "doors-001"


def test_an_existing_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    open_run(settings(tmp_path, "mine"), FILES, is_resume=False)
    with pytest.raises(BadInput, match=r"mine exists already: choose another --name, or go on .* --resume"):
        open_run(settings(tmp_path, "mine"), FILES, is_resume=False)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a b", "-x", "ä"])
def test_a_name_that_trial_ids_can_not_start_with_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"run\.name"):
        open_run(settings(tmp_path, name), FILES, is_resume=False)
    assert not (tmp_path / "runs").exists()


def test_resume_finds_the_newest_run_of_the_configuration(tmp_path: Path) -> None:
    for _ in range(2):
        open_run(settings(tmp_path), FILES, is_resume=False)
    run = open_run(settings(tmp_path), FILES, is_resume=True)
    assert (run.name, run.is_resumed) == ("doors-002", True)


def test_resume_accepts_other_numbers_of_processes_and_keeps_them(tmp_path: Path) -> None:
    open_run(settings(tmp_path, "mine"), FILES, is_resume=False)
    run = open_run(settings(tmp_path, "mine", "actor.processes=3"), FILES, is_resume=True)
    assert config.load([run.config]).actor.processes == 3


def test_resume_refuses_another_configuration_and_names_what_differs(tmp_path: Path) -> None:
    open_run(settings(tmp_path, "mine"), FILES, is_resume=False)
    with pytest.raises(BadInput) as refused:
        open_run(settings(tmp_path, "mine", "run.seed=0", "batch.groups=3", "loss.entropy=0.5"), FILES, is_resume=True)
    assert "batch.groups (16 there, 3 here), loss.entropy (0.001 there, 0.5 here)" in str(refused.value)


def test_resume_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="nothing to resume"):
        open_run(settings(tmp_path), FILES, is_resume=True)
    with pytest.raises(Missing, match="nothing to resume"):
        open_run(settings(tmp_path, "mine"), FILES, is_resume=True)


HOLD = """
import sys
from pathlib import Path
from lamer.common.settings import Settings
from lamer.deploy.run.folder import RunFolder, locked
with locked(RunFolder(Path(sys.argv[1]), Settings(), False)):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_learner_in_a_folder_is_refused_until_the_first_is_gone_however_it_went(tmp_path: Path) -> None:
    run = open_run(settings(tmp_path), FILES, is_resume=False)
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BadInput, match="a learner is at work in"), locked(run):
            raise AssertionError
        holder.kill()
    with locked(run):
        assert not run.address.exists()


def test_a_refused_second_learner_leaves_the_configuration_as_it_is(tmp_path: Path) -> None:
    run = open_run(settings(tmp_path, "mine"), FILES, is_resume=False)
    before = run.config.read_text()
    with locked(run):
        with pytest.raises(BadInput, match="a learner is at work in"):
            open_run(settings(tmp_path, "mine", "batch.updates=999"), FILES, is_resume=True)
        assert run.config.read_text() == before
    open_run(settings(tmp_path, "mine", "batch.updates=999"), FILES, is_resume=True)
    assert config.load([run.config]).batch.updates == 999


def test_a_port_that_is_taken_and_keys_without_roles_leave_no_folder_that_blocks_its_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name in ("mine", ""):
            with pytest.raises(Missing, match=f"port {port} of tcp://127.0.0.1 is taken"):
                open_run(settings(tmp_path, name, f"gateway.port={port}"), FILES, is_resume=False)
            with pytest.raises(BadInput, match=r"can't listen at gateway\.bind=tcp://192\.0\.2\.1"):
                open_run(settings(tmp_path, name, "gateway.bind=tcp://192.0.2.1"), FILES, is_resume=False)
    create_keys(tmp_path / "keys")
    (tmp_path / "keys" / "allowed" / "old.key").write_text(make_key_pair().public)
    with pytest.raises(BadInput, match="has no role"):
        open_run(settings(tmp_path, "mine", f"gateway.keys={tmp_path / 'keys'}"), FILES, is_resume=False)
    assert not (tmp_path / "runs").exists()
    assert open_run(settings(tmp_path, "mine", f"gateway.port={port}"), FILES, is_resume=False).name == "mine"


def test_the_address_of_an_earlier_learner_is_removed(tmp_path: Path) -> None:
    run = open_run(settings(tmp_path), FILES, is_resume=False)
    run.address.write_text("tcp://gone:1")
    with locked(run):
        assert not run.address.exists()
        run.address.write_text("tcp://here:1")
    assert not run.address.exists()


def test_a_run_is_found_by_its_path_or_its_name_and_others_are_listed(tmp_path: Path) -> None:
    run = open_run(settings(tmp_path), FILES, is_resume=False)
    assert find_run(str(run.path)) == run.path
    assert find_run("doors-001", tmp_path / "runs") == run.path
    with pytest.raises(Missing, match="runs here: doors-001"):
        find_run("nope", tmp_path / "runs")


def test_a_failed_write_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"


def test_a_configuration_with_a_secret_option_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    plain, secret = Settings(), Settings(env=EnvSettings(options={"api_key": "pa55"}))
    for name, given in {"plain": plain, "secret": secret}.items():
        run = RunSettings(name=name, directory=str(tmp_path))
        opened = open_run(replace(given, run=run), [], is_resume=False)
        mode = opened.config.stat().st_mode
        assert (mode & 0o077 == 0) == (name == "secret")
        assert config.load([opened.config]).env.options == given.env.options
