"""A hung update ends the trainer, says where it hangs, and is an ordinary failure to whoever started it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lamer.common.config import config_hash
from lamer.common.messages import Role
from lamer.common.settings import Settings, TrainerSettings
from lamer.deploy.run.processes import last_error
from lamer.learner.trainer.watchdog import Watchdog
from tests.learner.builders import write_model
from tests.learner.scripted import Actor, make_run

SCRIPT = """
import asyncio, re, threading
from lamer.learner.trainer.watchdog import Hung, Watchdog, leave

def hang_in_a_wait():
    threading.Event().wait()

def hang_with_the_lock_of_python():
    re.match("(a+)+$", "a" * 99 + "b")

async def main():
    try:
        await Watchdog(0.3, grace=0.5).run("update 3", asyncio.to_thread(WORK))
    except Hung as failure:
        leave(failure)

asyncio.run(main())
"""


@pytest.mark.parametrize("work", ["hang_in_a_wait", "hang_with_the_lock_of_python"])
def test_work_that_hangs_ends_the_process_and_its_stack_is_in_the_log(work: str) -> None:
    script = SCRIPT.replace("WORK", work)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert f"in {work}" in done.stderr
    if work == "hang_in_a_wait":
        assert done.stderr.splitlines()[-1].startswith("lamer: update 3 has not ended after 0.3 s: it hangs")


async def test_work_that_ends_in_time_gives_its_result_or_its_error() -> None:
    async def divide(by: int) -> float:
        return 1 / by

    watchdog = Watchdog(60.0)
    assert await watchdog.run("dividing", divide(2)) == 0.5
    with pytest.raises(ZeroDivisionError):
        await watchdog.run("dividing", divide(0))


async def test_a_trainer_whose_update_hangs_ends_with_code_1(tmp_path: Path) -> None:
    """The real process, in a run of a real gateway. It hangs as on a dead disk: its journal is an open pipe."""
    run = make_run(tmp_path, trainer=TrainerSettings(device="cpu", watchdog_seconds=5.0))
    shutil.rmtree(tmp_path / "model")
    write_model(tmp_path / "model")
    (tmp_path / "own").mkdir()
    os.mkfifo(tmp_path / "own" / "journal.db")
    log = tmp_path / "trainer.log"
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        tasks.create_task(run.host())
        async with run.session(Role.ACTOR, capacity=4) as session:
            acting = tasks.create_task(Actor(session).run())
            folders = ("--keys", str(run.trainer_keys()), "--run-dir", str(tmp_path / "own"))
            command = (sys.executable, "-m", "lamer.learner.trainer", "--connect", await run.url(), *folders)
            with log.open("wb") as output:
                trainer = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
            assert await trainer.wait() == 1
            run.stop.set()
            await acting
    assert last_error(log).startswith("update 1 has not ended after 5 s"), log.read_text()
    assert "in read_batch" in log.read_text()


def test_the_bound_is_no_part_of_a_runs_identity() -> None:
    assert config_hash(Settings(trainer=TrainerSettings(watchdog_seconds=1.0))) == config_hash(Settings())
