"""Keeping child processes alive for as long as one of them, the main one, lives.

Child        a process to be kept running      Rest   what runs beside the main child once that can be joined
Supervisor   starts, restarts and ends them; when `run` returns or raises, none of them is left
"""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lamer.common.errors import BadInput, LamerError, Missing, RunFailed
from lamer.common.liveness.restarts import Clock, Restarts
from lamer.deploy.run import processes

INTERRUPTED = 130
MAX_RESTARTS = 5
ENDING_SECONDS = 5.0
"""How long a helper's failure waits to be one: when the whole run is ending, its helpers lose the learner first."""
END_SECONDS = 8.0
ENDING = "ending: what was trained last is saved first where no checkpoint has it; Ctrl-C again ends at once"
READY_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Child:
    """A process to be kept running: its name, which is also its log's, its command line, environment added to ours."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rest:
    """What runs beside the main child: helpers to be kept running, and a coroutine that watches the run."""

    helpers: tuple[Child, ...] = ()
    watch: Callable[[], Awaitable[None]] | None = None


class Supervisor:
    """Owns the processes of one run. Every child's output is appended to LOGS/NAME.log."""

    def __init__(
        self, logs: Path, note: Callable[[str], None], clock: Clock | None = None, patience: float = END_SECONDS
    ) -> None:
        """logs: folder for the children's output. note: is told, in one line each, what happened to a child.

        patience: seconds that the main child has to end when it is asked to; the others have `END_SECONDS`.
        """
        self._logs = logs
        self._patience = patience
        self._note = note
        self._clock = clock or Clock()
        self._processes: dict[str, Process] = {}
        self._log_starts: dict[str, int] = {}

    async def run(self, main: Child, is_ready: Callable[[], bool], make_rest: Callable[[], Rest]) -> int:
        """Run until the main child ends or we are interrupted (SIGINT, SIGTERM; a second one kills at once).

        Args:
            is_ready: whether the main child can be joined; polled while it starts.
            make_rest: what to run beside it, asked once it can.

        Returns:
            0, or 130 when interrupted.

        Raises:
            LamerError: the main child failed (its exit code is kept), or a helper can't be kept running.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        code: int | None = None
        try:
            with self._interrupts() as interrupted:
                code = await self._until_over(main, is_ready, make_rest, interrupted)
        except* LamerError as errors:
            raise first_error(errors) from None
        finally:
            ask = None if code == 0 else signal.SIGINT
            learner = [process for name, process in self._processes.items() if name == main.name]
            others = [process for name, process in self._processes.items() if name != main.name]
            ends = ((learner, self._patience), (others, END_SECONDS))
            await asyncio.gather(*(processes.end_all(some, grace, ask) for some, grace in ends))
        if code not in (0, None, INTERRUPTED):
            raise self._failure(main, code)
        return 0 if code == 0 else INTERRUPTED

    async def _until_over(
        self,
        main: Child,
        is_ready: Callable[[], bool],
        make_rest: Callable[[], Rest],
        interrupted: asyncio.Future[None],
    ) -> int | None:
        """The main child's exit code, None when interrupted before it ended."""
        process = await self._start(main)
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(process.wait())
            ready = group.create_task(_until(is_ready))
            await asyncio.wait((ended, ready, interrupted), return_when=asyncio.FIRST_COMPLETED)
            rest = make_rest() if ready.done() and not ended.done() else Rest()
            work = [group.create_task(self._keep(child)) for child in rest.helpers]
            if rest.watch is not None:
                work.append(group.create_task(_awaited(rest.watch)))
            await asyncio.wait((ended, interrupted), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                processes.kill_session(process)
            for task in (ended, ready, *work):
                task.cancel()
        return process.returncode

    async def _start(self, child: Child) -> Process:
        log = self._log(child)
        self._log_starts[child.name] = log.stat().st_size if log.exists() else 0
        process = await processes.start(child.command, log, environment=child.environment)
        self._processes[child.name] = process
        return process

    async def _keep(self, child: Child) -> None:
        """Run a helper, again when it dies, until it ends on purpose."""
        restarts = Restarts(MAX_RESTARTS)
        while True:
            process = await self._start(child)
            restarts.started(self._clock.now())
            code = await process.wait()
            processes.kill_session(process)  # a host that was killed leaves its server
            if code in (0, INTERRUPTED):
                return
            wait = restarts.ended(self._clock.now())
            if wait is None or code in (BadInput.exit_code, Missing.exit_code):
                await self._clock.sleep(ENDING_SECONDS)
                raise self._failure(child, code)
            await self._clock.sleep(wait)
            times = f"{restarts.used} of at most {restarts.most} times"
            self._note(f"{child.name} {how_it_ended(code)}: started again ({times})")

    def _failure(self, child: Child, code: int) -> LamerError:
        log = self._log(child)
        said = processes.last_error(log, self._log_starts[child.name]) if code > 0 else ""  # a killed one said nothing
        kind = {BadInput.exit_code: BadInput, Missing.exit_code: Missing}.get(code, RunFailed)
        return kind(f"{said or how_it_ended(code)} ({child.name}, code {code}; its output: {log})")

    def _log(self, child: Child) -> Path:
        return self._logs / f"{child.name}.log"

    @contextmanager
    def _interrupts(self) -> Iterator[asyncio.Future[None]]:
        """A future that the first SIGINT or SIGTERM completes; the next one kills every child."""
        loop = asyncio.get_running_loop()
        interrupted: asyncio.Future[None] = loop.create_future()

        def handle() -> None:
            if not interrupted.done():
                self._note(ENDING)
                interrupted.set_result(None)
                return
            for process in self._processes.values():
                processes.kill_session(process)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, handle)
        yield interrupted


def how_it_ended(code: int) -> str:
    """An exit code as words: asyncio's negative codes are signals."""
    return f"ended with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


async def _until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 -- a fact of another process
        await asyncio.sleep(READY_POLL_SECONDS)


async def _awaited(watch: Callable[[], Awaitable[None]]) -> None:
    await watch()


def first_error(errors: BaseExceptionGroup[LamerError]) -> LamerError:
    """The first error in a group of groups."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, LamerError)
    return found
