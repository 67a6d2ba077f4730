"""Child processes that never outlive us: how one is started, asked to end, and killed.

A child runs in a session of its own, so that Ctrl-C in a terminal reaches only the process that the user started. On
Linux the kernel kills it when the thread that started it dies, whatever killed that; elsewhere only `end_all` ends it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 1024 * 1024
"""Of the end of a child's log, where its error is looked for."""
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def lamer_command(*arguments: str) -> tuple[str, ...]:
    """The command line that runs `lamer ARGUMENTS` with this interpreter."""
    return (sys.executable, "-P", "-m", "lamer.deploy.cli", *arguments)


async def start(
    command: Sequence[str],
    log: Path | None = None,
    *,
    pipes_errors: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a child from the main thread. Its output is appended to `log`, or goes where ours goes.

    pipes_errors: stderr is read by the caller, from the process's `stderr`. environment: added to ours.

    Raises:
        OSError: the command can't be started.
    """
    parent = os.getpid()

    def tie() -> None:
        """In the child before exec: die with the parent, also when it died a moment ago."""
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    with log.open("ab") if log is not None else nullcontext() as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.PIPE if pipes_errors else output,
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "TQDM_DISABLE": "1",
                **(environment or {}),
            },  # logs, not progress bars
            start_new_session=True,
            preexec_fn=tie,
        )


async def end_all(
    processes: Iterable[Process], grace: float | None, ask: signal.Signals | None = signal.SIGINT
) -> None:
    """Ask all that still run to end (`ask` None: they know already); kill what is left of their sessions after `grace`
    seconds, or (None) once they have ended by themselves.

    A child that ended by itself may have left children in its session: they are killed as well.
    """
    alive = [process for process in processes if process.returncode is None]
    if ask is not None:
        for process in alive:
            _signal(process, ask)
    waits = [asyncio.ensure_future(process.wait()) for process in alive]
    if waits:
        await asyncio.wait(waits, timeout=grace)
    for process in alive:
        kill_session(process)
    await asyncio.gather(*waits)


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return  # it ended in between


def kill_session(process: Process) -> None:
    """Kill a child that `start` made, or what it left behind in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended in between


_TRACEBACK = "Traceback (most recent call last)"
_DECORATION = " \t|+-\u2500\u2502\u256d\u2570\u256e\u256f"
"""What frames the lines of a traceback: of a group of errors, or drawn as a box."""
_RAISED = re.compile(r"(?:[a-z_]\w*\.)*([A-Z]\w*)(?:: .+)?")


def last_error(log: Path, start: int = 0) -> str:
    """What a child said last, after byte `start` of its log: its `lamer: ...` line, else the error that a traceback
    ends with, the innermost one of a group, else its last line with words.
    """
    if not log.is_file():
        return ""
    lines = _last_lines(log, start)
    told = [line.removeprefix("lamer: ") for line in lines if line.startswith("lamer: ")]
    if told:
        return told[-1]
    places = [number for number, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    raised = [line for line in lines[places[0] :] if _is_raised(line)] if places else []
    worded = [line for line in lines if any(mark.isalnum() for mark in line)]
    return (raised or worded or [""])[-1]


def _last_lines(log: Path, start: int) -> list[str]:
    """What was written after byte `start`, `_READ_BYTES` at most, without what frames a traceback."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _READ_BYTES))
        return [line.strip(_DECORATION + "\r") for line in file.read().decode(errors="replace").split("\n")]


def _is_raised(line: str) -> bool:
    match = _RAISED.fullmatch(line)
    return match is not None and not match[1].endswith("ExceptionGroup")
