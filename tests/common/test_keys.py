"""CURVE key folders, and whom a learner lets in as what."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lamer.common.errors import BadInput, Missing
from lamer.common.keys import (
    ROLES,
    allow,
    create_client,
    create_keys,
    create_own_pair,
    ensure_keys,
    load_client_keys,
    load_server_keys,
    read_client_keys,
)
from lamer.common.messages import Role
from lamer.common.transport import make_key_pair


def test_a_learners_new_folder_holds_a_key_for_each_role_of_its_own_machine(tmp_path: Path) -> None:
    create_keys(tmp_path / "keys")
    server = load_server_keys(tmp_path / "keys")
    allowed = server.allow_list()
    for role in ROLES:
        client = load_client_keys(tmp_path / "keys", role)
        assert client.server_public == server.pair.public
        found = allowed.find(client.pair.public)
        assert found is not None
        assert (found.name, found.role) == (role.value, role)
    assert allowed.find(server.pair.public) is None


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    create_keys(tmp_path)
    secrets = sorted(tmp_path.rglob("*.key_secret"))
    assert len(secrets) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


def test_existing_keys_are_never_overwritten(tmp_path: Path) -> None:
    create_keys(tmp_path)
    before = (tmp_path / "server.key_secret").read_text()
    with pytest.raises(BadInput, match="exists already"):
        create_keys(tmp_path)
    assert (tmp_path / "server.key_secret").read_text() == before
    with pytest.raises(BadInput, match="has a key called actor already"):
        create_client(tmp_path, "actor", Role.HOST)


def test_a_key_made_for_another_machine_is_a_folder_to_copy_and_may_be_one_thing_only(tmp_path: Path) -> None:
    folder = create_client(tmp_path / "keys", "gpu-1", Role.HOST)  # makes the learner's folder as well
    assert sorted(path.name for path in folder.iterdir()) == ["client.key", "client.key_secret", "server.key"]
    host, server = load_client_keys(folder, Role.HOST), load_server_keys(tmp_path / "keys")
    found = server.allow_list().find(host.pair.public)
    assert found is not None
    assert (found.name, found.role) == ("gpu-1", Role.HOST)
    with pytest.raises(BadInput, match=r"is a host's key: make an actor's on the learner \(lamer keys create --role a"):
        load_client_keys(folder, Role.ACTOR)


def test_a_key_is_allowed_as_soon_as_its_file_is_there_and_no_longer_than_that(tmp_path: Path) -> None:
    create_keys(tmp_path / "learner")
    create_own_pair(tmp_path / "newcomer", tmp_path / "learner" / "server.key", Role.ACTOR)
    allowed = load_server_keys(tmp_path / "learner").allow_list()
    newcomer = load_client_keys(tmp_path / "newcomer", Role.ACTOR).pair.public
    assert not allowed.admits(newcomer)
    invitation = tmp_path / "learner" / "allowed" / "newcomer.key"
    invitation.write_text(f"actor {newcomer}")
    assert allowed.admits(newcomer)
    invitation.unlink()
    allowed.refresh()
    assert allowed.find(newcomer) is None


def test_keys_that_can_not_be_read_stay_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a process that has no free file descriptor."""
    create_keys(tmp_path)
    allowed = load_server_keys(tmp_path).allow_list()

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.listdir", fail)
    assert allowed.admits(load_client_keys(tmp_path, Role.ACTOR).pair.public)
    assert not allowed.admits("x" * 40)


def test_an_allow_list_without_roles_is_refused_with_the_command_that_gives_one(tmp_path: Path) -> None:
    """As lamer 0.1 wrote it: a key and nothing else."""
    create_keys(tmp_path)
    old = tmp_path / "allowed" / "client.key"
    old.write_text(make_key_pair().public + "\n")
    with pytest.raises(BadInput, match=f"has no role. Give it one: lamer keys allow {tmp_path} {old} --name client"):
        load_server_keys(tmp_path)
    allow(tmp_path, old, "client", Role.ACTOR)
    assert ("client", Role.ACTOR) in [
        (client.name, client.role) for client in load_server_keys(tmp_path).allow_list().files()
    ]


def test_no_file_can_make_a_key_the_trainers(tmp_path: Path) -> None:
    create_keys(tmp_path)
    server = load_server_keys(tmp_path)
    trainer = server.allow_list().find(server.trainer.public)
    assert trainer is not None
    assert trainer.role is Role.TRAINER
    assert load_server_keys(tmp_path).trainer != server.trainer, "made anew at every start"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and server.trainer.secret in path.read_text()]
    (tmp_path / "allowed" / "mine.key").write_text(f"trainer {read_client_keys(tmp_path / 'actor').pair.public}")
    with pytest.raises(BadInput, match=r"mine\.key: this key has no role"):
        load_server_keys(tmp_path)


def test_a_client_needs_no_secret_of_the_server(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (tmp_path / "server.key_secret").unlink()
    assert load_client_keys(tmp_path / "actor", Role.ACTOR).server_public
    with pytest.raises(Missing, match=r"server\.key_secret"):
        load_server_keys(tmp_path)


def test_a_file_without_a_key_is_named_and_its_content_is_not_shown(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (tmp_path / "actor" / "client.key_secret").write_text("hunter2")
    with pytest.raises(BadInput, match=r"client\.key_secret holds no CURVE key") as refused:
        load_client_keys(tmp_path, Role.ACTOR)
    assert "hunter2" not in str(refused.value)


def test_a_machine_with_a_pair_of_its_own_gets_in_once_the_learner_allows_it(tmp_path: Path) -> None:
    create_keys(tmp_path / "learner")
    create_own_pair(tmp_path / "host", tmp_path / "learner" / "server.key", Role.HOST)
    host, allowed = load_client_keys(tmp_path / "host", Role.HOST), load_server_keys(tmp_path / "learner").allow_list()
    assert not allowed.admits(host.pair.public)
    allow(tmp_path / "learner", tmp_path / "host" / "client.key", "host-1", Role.HOST)
    assert allowed.admits(host.pair.public)
    assert not (tmp_path / "host" / "server.key_secret").exists()
    for name in ("../host-2", "trainer"):
        with pytest.raises(BadInput, match="can't be a key's name"):
            allow(tmp_path / "learner", tmp_path / "host" / "client.key", name, Role.HOST)


def test_halves_of_different_pairs_are_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        create_keys(tmp_path / name)
    (tmp_path / "one" / "actor" / "client.key").write_text((tmp_path / "other" / "actor" / "client.key").read_text())
    with pytest.raises(BadInput, match=r"client\.key_secret in .* does not belong to client\.key"):
        load_client_keys(tmp_path / "one", Role.ACTOR)


def test_a_file_in_allowed_that_holds_no_key_shuts_nobody_out(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (tmp_path / "allowed" / "a-picture.key").write_bytes(bytes(range(256)))
    assert load_server_keys(tmp_path).allow_list().admits(load_client_keys(tmp_path, Role.ACTOR).pair.public)


def test_a_folder_of_the_version_before_gets_what_its_own_machine_needs_once_its_keys_have_roles(
    tmp_path: Path,
) -> None:
    create_keys(tmp_path)
    for role in ROLES:
        (tmp_path / role.value).rename(tmp_path / f"{role.value} away")
        (tmp_path / "allowed" / f"{role.value}.key").unlink()
    ensure_keys(tmp_path)
    for role in ROLES:
        assert load_server_keys(tmp_path).allow_list().admits(load_client_keys(tmp_path, role).pair.public)
