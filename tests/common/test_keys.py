"""CURVE key folders."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lamer.common.errors import BadInput, Missing
from lamer.common.keys import allow, create_client_keys, create_keys, load_client_keys, load_server_keys


def test_a_new_folder_holds_pairs_that_know_each_other(tmp_path: Path) -> None:
    create_keys(tmp_path / "keys")
    server, client = load_server_keys(tmp_path / "keys"), load_client_keys(tmp_path / "keys")
    assert client.server_public == server.pair.public
    assert server.is_allowed(client.pair.public)
    assert not server.is_allowed(server.pair.public)


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    create_keys(tmp_path)
    for name in ("server.key_secret", "client.key_secret"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_existing_keys_are_never_overwritten(tmp_path: Path) -> None:
    create_keys(tmp_path)
    before = (tmp_path / "server.key_secret").read_text()
    with pytest.raises(BadInput, match="exists already"):
        create_keys(tmp_path)
    assert (tmp_path / "server.key_secret").read_text() == before


def test_a_key_is_allowed_as_soon_as_its_file_is_there_and_no_longer_than_that(tmp_path: Path) -> None:
    create_keys(tmp_path / "learner")
    create_keys(tmp_path / "newcomer")
    server, newcomer = load_server_keys(tmp_path / "learner"), load_client_keys(tmp_path / "newcomer")
    assert not server.is_allowed(newcomer.pair.public)
    invitation = tmp_path / "learner" / "allowed" / "newcomer.key"
    invitation.write_text(newcomer.pair.public)
    assert server.is_allowed(newcomer.pair.public)
    invitation.unlink()
    assert not server.is_allowed(newcomer.pair.public)


def test_a_client_needs_no_secret_of_the_server(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (tmp_path / "server.key_secret").unlink()
    assert load_client_keys(tmp_path).server_public
    with pytest.raises(Missing, match=r"server\.key_secret"):
        load_server_keys(tmp_path)


def test_a_file_without_a_key_is_named_and_its_content_is_not_shown(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (tmp_path / "client.key_secret").write_text("hunter2")
    with pytest.raises(BadInput, match=r"client\.key_secret holds no CURVE key") as refused:
        load_client_keys(tmp_path)
    assert "hunter2" not in str(refused.value)


def test_a_machine_with_a_pair_of_its_own_gets_in_once_the_learner_allows_it(tmp_path: Path) -> None:
    create_keys(tmp_path / "learner")
    create_client_keys(tmp_path / "host", tmp_path / "learner" / "server.key")
    host, server = load_client_keys(tmp_path / "host"), load_server_keys(tmp_path / "learner")
    assert host.server_public == server.pair.public
    assert not server.is_allowed(host.pair.public)
    allow(tmp_path / "learner", tmp_path / "host" / "client.key", "host-1")
    assert server.is_allowed(host.pair.public)
    assert not (tmp_path / "host" / "server.key_secret").exists()
    with pytest.raises(BadInput, match="can't be a client's name"):
        allow(tmp_path / "learner", tmp_path / "host" / "client.key", "../host-2")


def test_halves_of_different_pairs_are_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        create_keys(tmp_path / name)
    (tmp_path / "one" / "client.key").write_text((tmp_path / "other" / "client.key").read_text())
    with pytest.raises(BadInput, match=r"client\.key_secret in .* does not belong to client\.key"):
        load_client_keys(tmp_path / "one")


def test_a_file_in_allowed_that_holds_no_key_shuts_nobody_out(tmp_path: Path) -> None:
    create_keys(tmp_path)
    (tmp_path / "allowed" / "a-picture.key").write_bytes(bytes(range(256)))
    assert load_server_keys(tmp_path).is_allowed(load_client_keys(tmp_path).pair.public)
