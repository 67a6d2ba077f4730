"""Ctrl-C: how long each process has, what a second one does, and what the user is told to type then."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from lamer.common.messages import Status
from lamer.common.settings import RunSettings, Settings
from lamer.deploy.run import learning, supervisor
from lamer.deploy.run.folder import RunFolder
from lamer.deploy.run.report import print_how_to_go_on
from lamer.deploy.run.supervisor import Child, Rest, Supervisor

SLOW = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "ready").touch()
try:
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(1)
    (folder / "saved").touch()
    sys.exit(130)
"""


class Notes:
    """A view that keeps what it is told."""

    is_plain = True

    def __init__(self) -> None:
        self.lines: list[str] = []

    def show(self, status: Status) -> None:
        pass

    def note(self, text: str) -> None:
        self.lines.append(text)

    def close(self) -> None:
        pass


async def test_the_main_child_may_take_longer_to_end_than_its_helpers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "END_SECONDS", 0.1)
    notes, ready = Notes(), tmp_path / "ready"
    main = Child("main", (sys.executable, "-S", "-c", SLOW, str(tmp_path)))

    def is_ready() -> bool:
        if ready.exists():
            os.kill(os.getpid(), signal.SIGINT)
        return ready.exists()

    assert await Supervisor(tmp_path / "logs", notes.note, patience=60.0).run(main, is_ready, Rest) == 130
    assert (tmp_path / "saved").exists()
    assert notes.lines == [supervisor.ENDING]


async def test_the_first_signal_ends_a_learner_in_order_and_the_second_at_once() -> None:
    notes, stop = Notes(), asyncio.Event()

    async def learn() -> None:
        learning._handle_signals(stop, notes)
        await asyncio.Event().wait()

    task = asyncio.create_task(learn())
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(stop.wait(), 60.0)
    assert not task.done()
    assert notes.lines == [supervisor.ENDING]
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60.0)


@pytest.mark.parametrize(("steps", "where"), [((), ""), ((8, 10), " from update 10")])
def test_the_user_is_told_the_command_by_which_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: tuple[int, ...], where: str
) -> None:
    folder = tmp_path / "my runs" / "doors-001"
    for step in steps:
        (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    print_how_to_go_on(RunFolder(folder, Settings(run=RunSettings(name="doors-001")), is_resumed=False), "train")
    shown = capsys.readouterr().out
    assert shown == f"Go on{where} with: lamer train --config '{folder}/config.yaml' --resume\n"
