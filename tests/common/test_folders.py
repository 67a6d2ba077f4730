"""Folders that are there whole, whenever their writer is killed or interrupted, and what is left of killed writers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lamer.common import folders
from lamer.common.folders import is_in_memory, scratch_folder, sweep, whole_folder

REPLACE = """
import os, signal, sys
from pathlib import Path
from lamer.common.folders import sweep, whole_folder

folder, how = Path(sys.argv[1]), sys.argv[2]
target = folder / "step-4"
STEPS = ("open", "os.", "shutil.")

def write(text):
    with whole_folder(target, replaces=True) as temporary:
        (temporary / "a").write_text(text)
        (temporary / "b").write_text(text)

def die_at(step):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event.startswith(STEPS):
            count += 1
            if count == step:
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise KeyboardInterrupt
    sys.addaudithook(hook)

step, is_over = 0, False
while not is_over:
    step += 1
    write("old")
    pid = os.fork()
    if not pid:
        die_at(step)
        try:
            write("new")
        except KeyboardInterrupt:
            os._exit(1)
        os._exit(0)
    is_over = os.waitpid(pid, 0)[1] == 0
    if how == "raise":
        assert target.is_dir(), step
    sweep(folder, ".step-")
    texts = {(target / name).read_text() for name in ("a", "b")}
    assert len(texts) == 1, (step, texts)
    assert [path.name for path in folder.iterdir()] == ["step-4"], (step, list(folder.iterdir()))
    print(*texts)
"""


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_folder_is_the_old_or_the_new_one_whole_wherever_its_writer_stops(tmp_path: Path, how: str) -> None:
    """A writer is stopped at its first touch of the file system, then at its second, ... until it comes through."""
    done = subprocess.run(
        [sys.executable, "-c", REPLACE, str(tmp_path), how], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split()
    assert len(texts) > 15
    assert texts[0] == "old"
    assert texts == sorted(texts, reverse=True), "once the new one is in place, it stays"
    assert texts[-1] == "new"


def test_a_failing_block_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    def write() -> None:
        with whole_folder(tmp_path / "model", replaces=True) as temporary:
            (temporary / "weights").write_text("half")
            raise ZeroDivisionError

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("whole")
    with pytest.raises(ZeroDivisionError):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "whole"


def test_many_writers_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    def write(text: str) -> None:
        for _ in range(20):
            with whole_folder(tmp_path / "model", replaces=True) as temporary:
                (temporary / "a").write_text(text)
                (temporary / "b").write_text(text)

    threads = [threading.Thread(target=write, args=(text,)) for text in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a").read_text() == (tmp_path / "model" / "b").read_text()


def test_a_folder_that_does_not_replace_leaves_one_that_came_first(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as temporary:
        (temporary / "weights").write_text("second")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_text("first")
    assert (tmp_path / "model" / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


KILLED = """
import os, sys, time
from pathlib import Path
from lamer.common.folders import scratch_folder, whole_folder
with scratch_folder(Path(sys.argv[1]), ".starting-"), whole_folder(Path(sys.argv[1]) / "v7") as folder:
    (folder / "weights").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        return process

    return start


def test_leftovers_of_killed_writers_go_at_the_next_start_and_those_of_live_ones_stay(
    tmp_path: Path, writer: Callable[[], subprocess.Popen[str]]
) -> None:
    killed, alive = writer(), writer()
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.glob(".v7.*/"))) == 2
    with scratch_folder(tmp_path, ".starting-") as ours, whole_folder(tmp_path / "v7") as folder:
        assert len(list(tmp_path.glob(".v7.*/"))) == 2, "that of the live one, and ours"
        assert {*tmp_path.glob(".starting-*/")} > {ours}
        assert len(list(tmp_path.glob(".starting-*/"))) == 2
        (folder / "weights").write_text("whole")
    os.kill(alive.pid, signal.SIGKILL)
    alive.communicate()
    sweep(tmp_path, ".")
    assert [path.name for path in tmp_path.iterdir()] == ["v7"]
    assert (tmp_path / "v7" / "weights").read_text() == "whole"


def test_a_sweep_takes_nothing_that_only_looks_alike(tmp_path: Path) -> None:
    """In a folder of the user's, only what has our lock beside it is ours."""
    for name in (".model.settings", ".model.cfg", "model-12345678", ".modelling-abcdefgh"):
        (tmp_path / name).mkdir()
    (tmp_path / ".model.json").write_text("{}")
    before = sorted(path.name for path in tmp_path.iterdir())
    with whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "model") == before


def test_leftovers_without_a_lock_of_an_earlier_version_go_from_our_own_folders(tmp_path: Path) -> None:
    (tmp_path / ".step-00000004.ab3_x9zz").mkdir()
    (tmp_path / "step-00000002").mkdir()
    sweep(tmp_path, ".step-")
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_what_lies_in_memory_is_not_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path.stat().st_dev
    mounts, forced = tmp_path / "mounts", []
    monkeypatch.setattr(folders, "_MOUNTS", mounts)
    monkeypatch.setattr(folders, "_sync", forced.append)
    row = f"24 30 {os.major(device)}:{os.minor(device)} / /where rw,relatime shared:5 - {{}} none rw\n"
    for kind, files in (("ext4", 1), ("tmpfs", 0)):
        mounts.write_text("23 30 0:99 / /proc rw - proc proc rw\n" + row.format(kind))
        forced.clear()
        with whole_folder(tmp_path / kind) as folder:
            (folder / "a").write_text("a")
        assert [path.name for path in forced].count("a") == files
    assert is_in_memory(tmp_path)
    mounts.unlink()
    assert not is_in_memory(tmp_path), "where the system does not say"
