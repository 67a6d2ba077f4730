"""As many worker processes as the machine has cores, and the games that they host.

    WorkerPool   opens sessions: one game each, on the worker that hosted the same game before, else on the least busy
    Session      requests to one game, in order
    shared_pool  the pool of this process for an engine; ended with the process

A worker that has hosted enough games or holds too much memory is *retired*: it gets no new games, and ends with its
last one; an environment moves its game when it next starts an episode (`Session.is_retired`). There are at most as many
retired workers as others. A worker that crashes or hangs takes its games with it, each of which fails with an
`EnvironmentFault` that says whether this game's request was being answered (`envs.workers.worker`); the next game to be
opened gets a new worker. `counts` tells how often each happened.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, replace

from lamer.common.errors import BadInput
from lamer.envs.workers.messages import Call, Drop
from lamer.envs.workers.worker import STOP_SECONDS, Ending, Worker, WorkerOptions

WORKERS_VARIABLE = "LAMER_ENV_WORKERS"
MIB = 1024 * 1024

_REMEMBERED_GAMES = 16
_SLACK = 4
"""How many games more than the least busy one a worker may have and still get a game that it knows."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """workers: processes at work, retired ones aside. A worker is retired after so many games or bytes of memory."""

    workers: int
    recycle_games: int = 256
    recycle_bytes: int = 1024 * MIB


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """Workers started, and ended: retired ones (recycled), crashed, killed for a passed deadline (hung).

    live: at work now, with their games, and the bytes that they hold (resident) as they last said.
    """

    started: int = 0
    recycled: int = 0
    crashed: int = 0
    hung: int = 0
    live: int = 0
    games: int = 0
    resident: int = 0


class Session:
    """One game on one worker."""

    def __init__(self, pool: WorkerPool, worker: Worker, number: int, spec: bytes) -> None:
        self._pool = pool
        self.worker = worker
        self.number = number
        self._spec = spec

    @property
    def is_retired(self) -> bool:
        """Whether its worker waits for its last games to end: a game that starts over should do so in a new session."""
        return self.worker.is_retired

    def request(self, request: bytes) -> Future[bytes]:
        """Ask the game; returns at once. The future is its answer, or an `EnvironmentFault`."""
        return self.worker.submit(Call(self.number, self._spec, request))

    def close(self) -> None:
        """Close the game; returns at once."""
        self._pool.release(self)


class WorkerPool:
    """Worker processes for one engine. Methods may be called from any thread and don't wait, `close` aside."""

    def __init__(self, options: WorkerOptions, limits: PoolLimits) -> None:
        self._options = options
        self._limits = limits
        self._lock = threading.RLock()
        self._workers: list[Worker] = []
        self._known: dict[Worker, OrderedDict[str, None]] = {}
        self._next = 0
        self._counts = PoolCounts()
        self._is_closed = False

    def open(self, key: str, spec: bytes) -> Session:
        """A session for the game of `spec`. key: names it; games of the same key share what a worker keeps of them."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the worker pool is closed")
            self._bury()
            self._retire()
            worker = self._choose(key)
            self._next += 1
            worker.sessions.add(self._next)
            worker.opened += 1
            known = self._known[worker]
            known[key] = None
            known.move_to_end(key)
            if len(known) > _REMEMBERED_GAMES:
                known.popitem(last=False)
            return Session(self, worker, self._next, spec)

    def release(self, session: Session) -> None:
        """Close a session's game; a retired worker ends with its last one."""
        worker = session.worker
        with self._lock:
            if session.number not in worker.sessions:
                return
            worker.sessions.discard(session.number)
            worker.submit(Drop(session.number))
            if worker.is_retired and not worker.sessions:
                worker.stop()

    def counts(self) -> PoolCounts:
        """What happened so far, and what is live now."""
        with self._lock:
            live = [worker for worker in self._workers if worker.is_alive]
            return replace(
                self._counts,
                live=len(live),
                games=sum(len(worker.sessions) for worker in live),
                resident=sum(worker.resident for worker in live),
            )

    def pids(self) -> tuple[int, ...]:
        """The live processes."""
        with self._lock:
            return tuple(worker.pid for worker in self._workers if worker.is_alive and worker.pid is not None)

    def close(self) -> None:
        """End every worker, at work or not, and wait for them."""
        with self._lock:
            self._is_closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(STOP_SECONDS)

    def _choose(self, key: str) -> Worker:
        """The worker for a new game."""
        usable = [worker for worker in self._workers if worker.is_alive and not worker.is_retired]
        least = min(usable, key=_busy, default=None)
        has_room = len(usable) < self._limits.workers
        if least is None:
            return self._add()
        lowest = 0 if has_room else _busy(least)
        knowing = [worker for worker in usable if key in self._known[worker] and _busy(worker) < lowest + _SLACK]
        if knowing:
            return min(knowing, key=_busy)
        return self._add() if has_room and _busy(least) else least

    def _add(self) -> Worker:
        worker = Worker(self._options, self._take_end)
        self._workers.append(worker)
        self._known[worker] = OrderedDict()
        self._counts = replace(self._counts, started=self._counts.started + 1)
        return worker

    def _bury(self) -> None:
        """Let the threads of processes that died between two requests find out."""
        for worker in self._workers:
            if not worker.is_alive and worker.ending is None:
                worker.submit(Drop(0))

    def _retire(self) -> None:
        """Retire the workers that are due, as far as the bound on retired ones allows."""
        room = self._limits.workers - sum(worker.is_retired for worker in self._workers)
        due = [worker for worker in self._workers if worker.is_alive and not worker.is_retired and self._is_due(worker)]
        for worker in due[: max(room, 0)]:
            worker.is_retired = True
            if not worker.sessions:
                worker.stop()

    def _is_due(self, worker: Worker) -> bool:
        return worker.opened >= self._limits.recycle_games or worker.resident >= self._limits.recycle_bytes

    def _take_end(self, worker: Worker, ending: Ending) -> None:
        """Called from the worker's thread when it has ended."""
        with self._lock:
            if worker in self._known:
                del self._known[worker]
                self._workers.remove(worker)
            counts = self._counts
            match ending:
                case Ending.STOPPED:
                    self._counts = replace(counts, recycled=counts.recycled + worker.is_retired)
                case Ending.CRASHED:
                    self._counts = replace(counts, crashed=counts.crashed + 1)
                case Ending.HUNG:
                    self._counts = replace(counts, hung=counts.hung + 1)


def _busy(worker: Worker) -> int:
    return len(worker.sessions)


def worker_count() -> int:
    """How many workers a pool has: what LAMER_ENV_WORKERS says, else one for each core that this process may use.

    Raises:
        BadInput: the variable is no positive number.
    """
    configured = os.environ.get(WORKERS_VARIABLE, "")
    if not configured:
        return len(os.sched_getaffinity(0))
    if not configured.isdecimal() or int(configured) < 1:
        raise BadInput(f"{WORKERS_VARIABLE}={configured!r}: give a number of worker processes, 1 or more")
    return int(configured)


_SHARED: dict[WorkerOptions, WorkerPool] = {}
_SHARED_LOCK = threading.Lock()


def shared_pool(options: WorkerOptions) -> WorkerPool:
    """The pool of this process for these options; closed when the interpreter ends, or by `close_shared`."""
    with _SHARED_LOCK:
        pool = _SHARED.get(options)
        if pool is None:
            if not _SHARED:
                atexit.register(close_shared)
            _SHARED[options] = pool = WorkerPool(options, PoolLimits(worker_count()))
        return pool


def shared_counts() -> PoolCounts:
    """The sum over the shared pools."""
    with _SHARED_LOCK:
        found = [pool.counts() for pool in _SHARED.values()]
    return PoolCounts(*(sum(getattr(each, name) for each in found) for name in PoolCounts.__slots__))


def close_shared() -> None:
    """End the workers of every shared pool."""
    with _SHARED_LOCK:
        pools = list(_SHARED.values())
        _SHARED.clear()
    for pool in pools:
        pool.close()
