"""The supervisor, with small scripted children: what is restarted, what ends the run, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

SUPERVISE = """
import asyncio, itertools, sys
from pathlib import Path
from lamer.common.errors import LamerError
from lamer.common.liveness.restarts import Clock
from lamer.deploy.run.supervisor import Child, Rest, Supervisor

clock = itertools.count(0, int(sys.argv.pop(1)))
def now():
    return next(clock)
async def sleep(seconds):
    print(f"waits {seconds:g} s", flush=True)
folder, main, *helpers = sys.argv[1:]
folder = Path(folder)
def child(name, script):
    return Child(name, (sys.executable, "-c", script, str(folder)))
def note(text):
    print(text, flush=True)
def make_rest():
    return Rest(tuple(child(f"helper-{i}", script) for i, script in enumerate(helpers, 1)))
try:
    supervisor = Supervisor(folder / "logs", note, Clock(now, sleep))
    sys.exit(asyncio.run(supervisor.run(child("main", main), (folder / "ready").exists, make_rest)))
except LamerError as error:
    print(f"lamer: {error}", flush=True)
    sys.exit(error.exit_code)
"""

# Children get the test's folder as their argument and live until there is a file `end`; MAIN ends with the code in it.
MAIN = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "ready").touch()
while not (folder / "end").exists(): time.sleep(0.02)
sys.exit(int((folder / "end").read_text()))
"""
HELPER = """
import os, sys, time
from pathlib import Path
with open(Path(sys.argv[1]) / "helpers", "a") as file: file.write(f"{os.getpid()}\\n")
while not (Path(sys.argv[1]) / "end").exists(): time.sleep(0.02)
"""
WAIT = HELPER.splitlines()[-1]
STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + HELPER
NESTING = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n" + HELPER


@dataclass
class Supervised:
    """A supervisor in a process of its own, and the folder that its children share."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def text(self) -> str:
        return (self.folder / "output").read_text()

    def helpers(self) -> list[int]:
        """Process ids of all helpers started so far."""
        file = self.folder / "helpers"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end_main(self, code: int) -> None:
        temporary = self.folder / "end.tmp"
        temporary.write_text(str(code))
        temporary.rename(self.folder / "end")

    def wait_for_helpers(self, count: int) -> list[int]:
        deadline = time.monotonic() + 30
        while len(self.helpers()) < count:
            assert time.monotonic() < deadline, self.text
            assert self.process.poll() is None, self.text
            time.sleep(0.02)
        return self.helpers()


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[list[Supervised]]:
    started: list[Supervised] = []
    yield started
    for each in started:
        if each.process.poll() is None:
            for process in [*each.below(), psutil.Process(each.process.pid)]:
                process.kill()
            each.process.wait()


def supervise(
    started: list[Supervised], folder: Path, main: str, helpers: Sequence[str], lifetime: int = 0
) -> Supervised:
    """lifetime: how long a helper lives, on the supervisor's clock, which waits for nothing."""
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, str(lifetime), str(folder), main, *helpers],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started.append(Supervised(process, folder))
    return started[-1]


def are_gone(processes: Sequence[psutil.Process], seconds: float = 5.0) -> bool:
    """Whether all end in time. An orphan that nobody reaps (a container without init) is a zombie: gone, too."""
    deadline = time.monotonic() + seconds
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_killed_helper_is_started_again_and_a_line_says_so(tmp_path: Path, supervised: list[Supervised]) -> None:
    run = supervise(supervised, tmp_path, MAIN, [HELPER])
    (first,) = run.wait_for_helpers(1)
    os.kill(first, signal.SIGKILL)
    run.wait_for_helpers(2)
    assert "helper-1 was killed by SIGKILL: started again (1 of at most 5 times)" in run.text
    run.end_main(0)
    assert run.process.wait(20) == 0, run.text


def test_the_run_ends_with_the_main_childs_code_and_its_last_words(
    tmp_path: Path, supervised: list[Supervised]
) -> None:
    main = MAIN.replace("sys.exit(", "print('lamer: the port 5555 is taken', file=sys.stderr)\nsys.exit(", 1)
    run = supervise(supervised, tmp_path, main, [HELPER])
    run.wait_for_helpers(1)
    below = run.below()
    run.end_main(3)
    assert run.process.wait(20) == 3
    assert "lamer: the port 5555 is taken (main, code 3; its output: " in run.text
    assert are_gone(below)


def test_a_main_child_that_fails_before_it_is_ready_starts_no_helper(
    tmp_path: Path, supervised: list[Supervised]
) -> None:
    run = supervise(supervised, tmp_path, "import sys; sys.exit(2)", [HELPER])
    assert run.process.wait(20) == 2
    assert run.helpers() == []


def test_a_helper_that_refuses_its_input_ends_the_run(tmp_path: Path, supervised: list[Supervised]) -> None:
    """Exit code 2 would only come again, so it is not tried again."""
    refusing = HELPER.replace(WAIT, "print('lamer: no such model'); sys.exit(2)")
    run = supervise(supervised, tmp_path, MAIN, [refusing])
    assert run.process.wait(20) == 2
    assert "lamer: no such model (helper-1, code 2" in run.text
    assert len(run.helpers()) == 1


def test_a_helper_that_keeps_dying_ends_the_run(tmp_path: Path, supervised: list[Supervised]) -> None:
    run = supervise(supervised, tmp_path, MAIN, [HELPER.replace(WAIT, "sys.exit(1)")])
    assert run.process.wait(30) == 1
    assert len(run.helpers()) == 6
    assert run.text.count("started again") == 5
    assert [line for line in run.text.splitlines() if "waits" in line] == [
        *(f"waits {seconds} s" for seconds in (1, 2, 4, 8, 16)),
        "waits 5 s",  # for the end of the run, which may be why
    ]


def test_a_helper_that_dies_now_and_then_is_started_again_for_ever(
    tmp_path: Path, supervised: list[Supervised]
) -> None:
    """Each of its lives lasts as long as it takes to give a restart back."""
    run = supervise(supervised, tmp_path, MAIN, [HELPER.replace(WAIT, "sys.exit(1)")], lifetime=600)
    run.wait_for_helpers(9)
    run.end_main(0)
    assert run.process.wait(20) == 0, run.text
    assert "(1 of at most 5 times)" in run.text
    assert "(2 of at most 5 times)" not in run.text


def test_a_helper_that_ends_on_purpose_is_left_alone(tmp_path: Path, supervised: list[Supervised]) -> None:
    run = supervise(supervised, tmp_path, MAIN, [HELPER.replace(WAIT, "sys.exit(0)"), HELPER])
    run.wait_for_helpers(2)
    time.sleep(1.0)  # longer than a restart waits
    assert len(run.helpers()) == 2
    run.end_main(0)
    assert run.process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything_within_ten_seconds(
    tmp_path: Path, supervised: list[Supervised], number: signal.Signals
) -> None:
    """One helper ignores SIGINT, another has a child of its own."""
    run = supervise(supervised, tmp_path, MAIN, [STUBBORN, NESTING])
    run.wait_for_helpers(2)
    below = run.below()
    assert len(below) == 4
    began = time.monotonic()
    os.killpg(run.process.pid, number)
    assert run.process.wait(10) == 130, run.text
    assert time.monotonic() - began < 10
    assert are_gone(below, 1.0)


def test_a_second_interrupt_does_not_wait_for_the_grace_period(tmp_path: Path, supervised: list[Supervised]) -> None:
    run = supervise(supervised, tmp_path, MAIN, [STUBBORN])
    run.wait_for_helpers(1)
    (main,) = [process for process in run.below() if process.pid != run.helpers()[0]]
    began = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert are_gone([main])  # the first one was handled
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(10) == 130
    assert time.monotonic() - began < 5


def test_a_supervisor_killed_with_nine_leaves_no_child(tmp_path: Path, supervised: list[Supervised]) -> None:
    run = supervise(supervised, tmp_path, MAIN, [HELPER, STUBBORN])
    run.wait_for_helpers(2)
    below = run.below()
    assert len(below) == 3
    run.process.kill()
    run.process.wait()
    assert are_gone(below)
