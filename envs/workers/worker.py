"""One worker process as its owner sees it.

`submit` hands a request over and returns at once; a thread of the worker's own starts the process, sends the requests
in order and waits for each reply. A process that ends by itself or lets a deadline pass is killed; every request that
waits then fails, and so does every later one. How it fails says whose fault it was: the request that was being answered
is `TimedOut` or `Crashed`, those behind it were `NeverAsked`.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec

from lamer.envs.base import EnvironmentFault
from lamer.envs.workers.messages import Broken, Drop, Failed, Reply, Request, receive, send

log = logging.getLogger("lamer.worker")

STOP_SECONDS = 5.0
_DECODER: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class TimedOut(EnvironmentFault):
    """The request was not answered in time, and its worker was killed."""


class Crashed(EnvironmentFault):
    """The worker ended by itself before it had answered the request."""


class NeverAsked(EnvironmentFault):
    """The worker crashed or was killed before it came to the request, which says nothing about the request's game."""


class Ending(enum.StrEnum):
    """Why a worker ended: asked to, by itself, or killed because it let a deadline pass."""

    STOPPED = "stopped"
    CRASHED = "crashed"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """target: the games' opener, "module:function". seconds: for one request; start_seconds: more for the first one,
    which imports the engine. environ: variables set for the process, over this one's.
    """

    target: str
    seconds: float = 60.0
    start_seconds: float = 120.0
    environ: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Job:
    request: Request
    future: Future[bytes]


class Worker:
    """A worker process. sessions: its live games. opened: games that it has been given in all. on_end: called once from
    the worker's thread. Only the pool changes sessions, opened and is_retired.
    """

    def __init__(self, options: WorkerOptions, on_end: Callable[[Worker, Ending], None]) -> None:
        self.sessions: set[int] = set()
        self.opened = 0
        self.is_retired = False
        self.resident = 0
        self.ending: Ending | None = None
        self._options = options
        self._on_end = on_end
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="game worker", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The process, None before it has started."""
        return self._process.pid if self._process is not None else None

    @property
    def is_alive(self) -> bool:
        """Whether requests have a chance: neither ended nor found dead."""
        process = self._process
        return self.ending is None and (process is None or process.poll() is None)

    def submit(self, request: Request) -> Future[bytes]:
        """Queue a request; the future is its answer, or an `EnvironmentFault`, this module's where the worker failed.

        A `Drop` is answered b"" when sent.
        """
        future: Future[bytes] = Future()
        with self._lock:
            if self.ending is None:
                self._jobs.put(_Job(request, future))
                return future
        future.set_exception(self._fault(self.ending, is_asked=False))
        return future

    def stop(self) -> None:
        """End the process after what is queued; returns at once."""
        self._jobs.put(None)

    def kill(self) -> None:
        """End the process now, in the middle of a request too."""
        self._is_killed = True
        self._jobs.put(None)
        if self._process is not None:
            self._process.kill()

    def join(self, seconds: float) -> bool:
        """Wait for the end; whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        waiting: _Job | None = None
        ending = Ending.STOPPED
        ours, theirs = socket.socketpair()
        lifeline, held = os.pipe()
        try:
            self._process = self._start(theirs, lifeline)
            theirs.close()  # so that its own end closing is seen here
            allowance = self._options.start_seconds
            while not self._is_killed and (waiting := self._jobs.get()) is not None:
                if waiting.future.set_running_or_notify_cancel():
                    self._answer(ours, waiting, allowance)
                    allowance = 0.0
                waiting = None
        except TimeoutError:
            ending = Ending.HUNG
        except (Broken, OSError, msgspec.DecodeError) as error:
            ending = Ending.STOPPED if self._is_killed else Ending.CRASHED
            log.debug("a worker's connection broke: %s", error)
        finally:
            ours.close()
            theirs.close()
            os.close(held)
            os.close(lifeline)
            self._end(ending, waiting)

    def _start(self, theirs: socket.socket, lifeline: int) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **dict(self._options.environ)}
        descriptors = (theirs.fileno(), lifeline)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lamer.envs.workers.process", self._options.target, *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=descriptors,
            env=environ,
        )

    def _answer(self, connection: socket.socket, job: _Job, allowance: float) -> None:
        """Send a request and wait for its reply; a game's own failure ends that game alone."""
        deadline = time.monotonic() + self._options.seconds + allowance
        connection.settimeout(self._options.seconds + allowance)
        send(connection, job.request)
        if isinstance(job.request, Drop):
            job.future.set_result(b"")
            return
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        reply = _DECODER.decode(receive(connection))
        self.resident = reply.resident
        if isinstance(reply, Failed):
            job.future.set_exception(EnvironmentFault(reply.reason))
        else:
            job.future.set_result(reply.answer)

    def _end(self, ending: Ending, waiting: _Job | None) -> None:
        """Reap the process, and fail what waits."""
        process = self._process
        if process is not None:
            if ending is Ending.STOPPED:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
            process.kill()
            process.wait()
        with self._lock:
            self.ending = ending
        fault = self._fault(ending, is_asked=True)
        if ending is not Ending.STOPPED:
            log.warning("%s; its %d games end", fault, len(self.sessions))
        self._on_end(self, ending)  # before anyone hears of it: whoever does may ask what was counted
        if waiting is not None:
            waiting.future.set_exception(fault)
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None and job.future.set_running_or_notify_cancel():
                    job.future.set_exception(self._fault(ending, is_asked=False))

    def _fault(self, ending: Ending, *, is_asked: bool) -> EnvironmentFault:
        """What becomes of a request when the process has ended. is_asked: it was being answered."""
        options, process = self._options, self._process
        what = {
            Ending.STOPPED: "was stopped",
            Ending.CRASHED: f"died (exit code {process.returncode if process else None})",
            Ending.HUNG: f"did not answer within {options.seconds:g} s and was killed",
        }[ending]
        text = f"the worker process of {options.target} {what}"
        match ending:
            case Ending.STOPPED:
                return EnvironmentFault(text)
            case _ if not is_asked:
                return NeverAsked(f"{text} before it came to this request")
            case Ending.CRASHED:
                return Crashed(text)
            case Ending.HUNG:
                return TimedOut(text)
