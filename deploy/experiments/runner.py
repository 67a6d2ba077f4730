"""Does what is left of an experiment, cell by cell. Every part of a cell is a `lamer` command in a process of its own.

A cell that fails is noted and the others go on. Ctrl-C (SIGINT, SIGTERM) ends the running commands as Ctrl-C ends them
in a terminal, so that the next call goes on from their checkpoints; a second one kills them.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamer.common.errors import BadInput, LamerError, RunFailed
from lamer.deploy.experiments.cells import CellEvaluation
from lamer.deploy.experiments.results import (
    CellResult,
    EvaluationRecord,
    Measurement,
    collect,
    collect_evaluation,
    model_of,
    write_result,
)
from lamer.deploy.experiments.state import (
    CellState,
    Places,
    Stage,
    add_seconds,
    is_same_evaluation,
    log_file,
    set_aside,
    spent_seconds,
)
from lamer.deploy.run import processes
from lamer.deploy.run.supervisor import INTERRUPTED, how_it_ended

PROGRESS_SECONDS = 60.0

Command = Callable[..., tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that could not be finished, and why."""

    cell: str
    problem: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a call came to. is_interrupted: cells may be left that were not tried."""

    done: tuple[str, ...]
    failures: tuple[Failure, ...]
    is_interrupted: bool


class _CommandFailed(RunFailed):
    """A `lamer` command ended with an error."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class _Interrupted(Exception):
    """The user ended us; the cell is left as it is."""


class Runner:
    """Runs cells, `parallel` at once. say: takes one line about what happens."""

    def __init__(
        self,
        places: Places,
        say: Callable[[str], None],
        parallel: int = 1,
        command: Command = processes.lamer_command,
    ) -> None:
        """command: the command line for arguments of `lamer`."""
        self._places = places
        self._say = say
        self._parallel = parallel
        self._command = command
        self._processes: set[Process] = set()
        self._done: list[str] = []
        self._failures: list[Failure] = []

    async def run(self, states: Sequence[CellState]) -> Report:
        """Do what is left of the cells, in their order. Returns when all are done or failed, or when interrupted."""
        queue = deque((number, state) for number, state in enumerate(states, start=1))
        with self._interrupts() as interrupted:

            async def work() -> None:
                while queue and not interrupted.is_set():
                    number, state = queue.popleft()
                    await self._try_cell(state, f"[{number}/{len(states)}] ", interrupted)

            async with asyncio.TaskGroup() as group:
                for _ in range(self._parallel):
                    group.create_task(work())
            return Report(tuple(self._done), tuple(self._failures), interrupted.is_set())

    async def _try_cell(self, state: CellState, prefix: str, interrupted: asyncio.Event) -> None:
        name = state.cell.name
        try:
            result = await self._finish(state, prefix, interrupted)
        except _Interrupted:
            self._say(f"{prefix}{name}: interrupted")
        except (LamerError, OSError) as error:
            self._failures.append(Failure(name, str(error)))
            self._say(f"{prefix}{name}: failed: {error}")
        else:
            self._done.append(name)
            self._say(f"{prefix}{name}: done in {result.wall_seconds / 60:.1f} min{_shown(result.final)}")

    async def _finish(self, state: CellState, prefix: str, interrupted: asyncio.Event) -> CellResult:
        """Train, unless that is done, then make the evaluations that are left; the result is written after each."""
        cell, run = state.cell, state.trained
        file = self._places.result(cell.experiment, cell.name)
        if run is None:
            run = self._places.run(cell)
            for evaluation in cell.evaluations:
                set_aside(self._places.evaluation_run(cell, evaluation))  # of an earlier model
            await self._train(state, run, f"{prefix}{cell.name}", interrupted)
            result = collect(cell, run, spent_seconds(run))
        else:
            result = state.result or collect(cell, run, spent_seconds(run))
            if run != self._places.run(cell):
                result = msgspec.structs.replace(result, run=f"{run.parent.name}/{run.name}")
        known = state.result.evaluations if state.result is not None and state.trained is not None else {}
        result = msgspec.structs.replace(result, evaluations=known)
        write_result(file, result)
        for evaluation in cell.evaluations:
            if evaluation.name not in known:
                record = await self._evaluate(state, evaluation, run, prefix, interrupted)
                result = msgspec.structs.replace(result, evaluations={**result.evaluations, evaluation.name: record})
                write_result(file, result)
        return result

    async def _train(self, state: CellState, run: Path, title: str, interrupted: asyncio.Event) -> None:
        """Train the cell, from the last checkpoint of a run that is half done where that can be gone on with."""
        cell, folder = state.cell, self._places.runs(state.cell.experiment)
        if state.stage is Stage.HALF:
            self._say(f"{title}: goes on")
            try:
                return await self._call(run, cell.train_arguments(folder, is_resume=True), title, interrupted)
            except _CommandFailed as error:
                if error.code != BadInput.exit_code:
                    raise
                self._say(f"{title}: can't go on, {error}")
        set_aside(run)
        self._say(f"{title}: starts")
        return await self._call(run, cell.train_arguments(folder, is_resume=False), title, interrupted)

    async def _evaluate(
        self, state: CellState, evaluation: CellEvaluation, trained: Path, prefix: str, interrupted: asyncio.Event
    ) -> EvaluationRecord:
        cell, run = state.cell, self._places.evaluation_run(state.cell, evaluation)
        if not is_same_evaluation(run, evaluation):
            set_aside(run)
            self._say(f"{prefix}{cell.name}: evaluation {evaluation.name}")
            arguments = cell.evaluate_arguments(evaluation, model_of(trained), self._places.runs(cell.experiment))
            await self._call(run, arguments, f"{prefix}{run.name}", interrupted)
        return collect_evaluation(cell, evaluation, run, spent_seconds(run))

    async def _call(self, run: Path, arguments: Sequence[str], title: str, interrupted: asyncio.Event) -> None:
        """Run a `lamer` command to its end, its output appended to the run's log.

        Raises:
            _CommandFailed: it failed. _Interrupted: we were interrupted before it ended.
        """
        log = log_file(run)
        start, began = log.stat().st_size if log.exists() else 0, time.monotonic()
        process = await processes.start(self._command(*arguments), log)
        self._processes.add(process)
        try:
            await self._until_over(process, run, title, interrupted)
        finally:
            await processes.end_all([process], None)  # a training may have a checkpoint to write
            processes.kill_session(process)
            self._processes.discard(process)
            add_seconds(run, time.monotonic() - began)
        code = process.returncode
        if code != 0 and interrupted.is_set():
            raise _Interrupted
        if code is None or code != 0:
            said = processes.last_error(log, start) if code is not None and code > 0 else ""
            where = "" if "its output:" in said else f" (its output: {log})"
            raise _CommandFailed(f"{said or how_it_ended(code or 0)}{where}", code or 0)

    async def _until_over(self, process: Process, run: Path, title: str, interrupted: asyncio.Event) -> None:
        """Wait for the end of a command or of us, with a line of progress now and then."""
        ended, ending = asyncio.ensure_future(process.wait()), asyncio.ensure_future(interrupted.wait())
        try:
            shown = 0
            while not (ended.done() or ending.done()):
                await asyncio.wait((ended, ending), timeout=PROGRESS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                update = _last_update(run)
                if not ended.done() and update > shown:
                    shown = update
                    self._say(f"{title}: update {update}")
        finally:
            ended.cancel()
            ending.cancel()

    @contextmanager
    def _interrupts(self) -> Iterator[asyncio.Event]:
        """An event that the first SIGINT or SIGTERM sets; the next one kills the running commands."""
        loop, interrupted = asyncio.get_running_loop(), asyncio.Event()

        def handle() -> None:
            if not interrupted.is_set():
                self._say("ending; what is finished is kept")
                interrupted.set()
                return
            for process in self._processes:
                processes.kill_session(process)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, handle)
        try:
            yield interrupted
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def exit_code(report: Report) -> int:
    """0, or 130 when interrupted.

    Raises:
        RunFailed: cells failed; the message lists them.
    """
    if report.failures:
        listed = "; ".join(f"{failure.cell}: {failure.problem}" for failure in report.failures)
        raise RunFailed(f"{len(report.failures)} of the cells failed: {listed}")
    return INTERRUPTED if report.is_interrupted else 0


def _last_update(run: Path) -> int:
    """The update that a run has reported last, 0 before the first."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_bytes().rstrip(b"\n").rsplit(b"\n", 1) if metrics.is_file() else [b""]
    try:
        return int(json.loads(lines[-1])["step"])
    except (ValueError, KeyError, TypeError):
        return 0  # the line is still being written


def _shown(measurement: Measurement | None) -> str:
    if measurement is None:
        return ""
    ks = "/".join(str(k) for k in range(1, len(measurement.pass_at) + 1))
    return f", pass@{ks} {' '.join(f'{100 * share:.1f}' for share in measurement.pass_at)}%"
