"""Downloads from a real server that breaks off, forgets ranges, lies, or is not there."""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamer.common.errors import Missing
from lamer.envs.datasets.definition import Source
from lamer.envs.datasets.download import Downloader
from tests.envs.file_server import FileServer, serving_files

CONTENT = random.Random(1).randbytes(300_000)
CHANGED = random.Random(2).randbytes(300_000)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving_files({"games.zip": CONTENT}) as server:
        yield server


def source(*urls: str, size: int = len(CONTENT), content: bytes = CONTENT) -> Source:
    return Source("games.zip", urls, size, hashlib.sha256(content).hexdigest())


def downloader(seen: list[tuple[str, int, int]] | None = None) -> Downloader:
    return Downloader(lambda *step: None if seen is None else seen.append(step), timeout=5.0, attempts=3, wait=0.001)


def test_a_file_arrives_whole_and_its_progress_is_told(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    url = f"{server.url}/games.zip"
    assert downloader(seen).download(source(url), tmp_path / "deep" / "games.zip") == url
    assert (tmp_path / "deep" / "games.zip").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["games.zip"], "no .part is left"
    assert seen[-1] == ("games.zip", 300_000, 300_000)
    assert [step[1] for step in seen] == sorted(step[1] for step in seen)


def test_a_connection_that_breaks_is_taken_up_at_the_byte_it_broke_at(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [100_000, 50_000]
    downloader().download(source(f"{server.url}/games.zip"), tmp_path / "games.zip")
    assert server.ranges == ["", "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "games.zip").read_bytes() == CONTENT


def test_what_an_interrupted_call_left_is_gone_on_with(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "games.zip.part").write_bytes(CONTENT[:123_456])
    downloader().download(source(f"{server.url}/games.zip"), tmp_path / "games.zip")
    assert server.ranges == ["bytes=123456-"]
    assert (tmp_path / "games.zip").read_bytes() == CONTENT


def test_a_call_that_gives_up_keeps_what_came(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(Missing, match="ended after 1000 of 300000 bytes"):
        downloader().download(source(f"{server.url}/games.zip"), tmp_path / "games.zip")
    assert (tmp_path / "games.zip.part").read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "games.zip").exists()


def test_a_server_without_ranges_sends_the_file_again_from_the_start(server: FileServer, tmp_path: Path) -> None:
    server.knows_ranges, server.cuts = False, [100_000]
    downloader().download(source(f"{server.url}/games.zip"), tmp_path / "games.zip")
    assert (tmp_path / "games.zip").read_bytes() == CONTENT


def test_a_part_of_another_file_is_given_up_for_the_whole_one(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "games.zip.part").write_bytes(CHANGED[:1000])
    downloader().download(source(f"{server.url}/games.zip"), tmp_path / "games.zip")
    assert server.ranges == ["bytes=1000-", ""]
    assert (tmp_path / "games.zip").read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_servers_file_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.files["games.zip"] = CONTENT[:5000]
    (tmp_path / "games.zip.part").write_bytes(CONTENT[:9000])
    with pytest.raises(Missing, match="HTTP 416"):
        downloader().download(source(f"{server.url}/games.zip"), tmp_path / "games.zip")
    assert server.ranges == ["bytes=9000-", "", "bytes=5000-"]


def test_a_file_with_another_hash_is_refused_and_removed(server: FileServer, tmp_path: Path) -> None:
    server.files["games.zip"] = CHANGED
    expected, found = hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(CHANGED).hexdigest()
    with pytest.raises(Missing, match=f"has SHA-256 {found}, the official file {expected}"):
        downloader().download(source(f"{server.url}/games.zip"), tmp_path / "games.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_longer_than_it_should_be_is_not_taken_in(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="longer than the official file's 1000 bytes"):
        downloader().download(source(f"{server.url}/games.zip", size=1000), tmp_path / "games.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_page_in_place_of_the_file_is_told_from_it(server: FileServer, tmp_path: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(Missing, match="web page"):
        downloader().download(source(f"{server.url}/games.zip"), tmp_path / "games.zip")


def test_a_missing_file_is_asked_for_once_and_a_failing_server_again(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"games.zip can't be fetched: 127.0.0.1:\d+: HTTP 404 Not Found"):
        downloader().download(source(f"{server.url}/other.zip"), tmp_path / "games.zip")
    assert len(server.ranges) == 1
    server.statuses = [503, 429]
    downloader().download(source(f"{server.url}/games.zip"), tmp_path / "games.zip")
    assert len(server.ranges) == 4
    assert (tmp_path / "games.zip").read_bytes() == CONTENT


def test_the_next_address_is_tried_and_goes_on_with_what_came(server: FileServer, tmp_path: Path) -> None:
    server.statuses, server.cuts = [], [70_000, 0, 0, 0]
    addresses = (f"{server.url}/games.zip", f"{server.url}//games.zip")
    used = downloader().download(source(*addresses), tmp_path / "games.zip")
    assert used == addresses[1]
    assert server.ranges[-1] == "bytes=70000-"
    assert (tmp_path / "games.zip").read_bytes() == CONTENT


def test_without_a_network_the_error_names_every_address_and_why(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    urls = (f"http://127.0.0.1:{port}/games.zip", "http://no-such-machine.invalid/games.zip")
    with pytest.raises(Missing) as caught:
        downloader().download(source(*urls), tmp_path / "games.zip")
    message = str(caught.value)
    assert f"127.0.0.1:{port}: can't be reached (Connection refused)" in message
    assert "no-such-machine.invalid: can't be reached" in message
    assert caught.value.exit_code == 3
