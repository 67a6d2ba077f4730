"""Pools of worker processes: what they answer, whom a crash or a hang hurts, recycling, what is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lamer.common.errors import BadInput
from lamer.envs.base import EnvironmentFault
from lamer.envs.workers import pool as pools
from lamer.envs.workers.pool import MIB, PoolLimits, Session, WorkerPool, worker_count
from lamer.envs.workers.worker import Crashed, NeverAsked, TimedOut, WorkerOptions
from tests.envs.workers import echo

WAIT = 60.0
OPTIONS = replace(echo.OPTIONS, seconds=WAIT)


@contextlib.contextmanager
def running(limits: PoolLimits, options: WorkerOptions = OPTIONS) -> Iterator[WorkerPool]:
    pool = WorkerPool(options, limits)
    try:
        yield pool
    finally:
        pool.close()


def ask(session: Session, request: bytes) -> bytes:
    return session.request(request).result(timeout=WAIT)


def pid_of(session: Session) -> int:
    return int(ask(session, b"pid"))


def exists(pid: int) -> bool:
    """Whether a process is there, zombies aside."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_games_of_one_worker_keep_their_own_state_and_fail_alone() -> None:
    with running(PoolLimits(workers=1)) as pool:
        one, other = pool.open("a", b"one"), pool.open("b", b"other")
        assert ask(one, b"x") == b"one,x"
        assert ask(other, b"y") == b"other,y"
        assert ask(one, b"z") == b"one,x,z"
        assert pid_of(one) == pid_of(other) == pool.pids()[0]
        with pytest.raises(EnvironmentFault, match="ValueError: bad luck"):
            ask(other, b"raise bad luck")
        with pytest.raises(EnvironmentFault, match="SystemExit: 3"):
            ask(pool.open("c", b"third"), b"leave")
        with pytest.raises(EnvironmentFault, match="OSError: no such game"):
            ask(pool.open("d", b"broken"), b"x")
        assert ask(one, b"") == b"one,x,z,"
        counts = pool.counts()
        assert (counts.started, counts.live, counts.crashed) == (1, 1, 0)
        assert counts.resident > MIB


def test_there_are_at_most_as_many_workers_as_allowed_and_a_game_goes_where_it_is_known() -> None:
    with running(PoolLimits(workers=2)) as pool:
        first, second = pool.open("a", b""), pool.open("b", b"")
        mates = [pool.open("a", b"") for _ in range(3)]
        assert pid_of(first) != pid_of(second)
        assert {pid_of(mate) for mate in mates} == {pid_of(first)}
        rest = [pool.open(f"other {index}", b"") for index in range(6)]
        assert {pid_of(each) for each in rest} <= set(pool.pids())
        assert pool.counts().started == 2
        assert pool.counts().games == 11


def test_a_crash_ends_the_games_of_its_worker_alone_which_is_replaced_and_counted() -> None:
    with running(PoolLimits(workers=2)) as pool:
        lost, kept = pool.open("a", b"lost"), pool.open("b", b"kept")
        mate = pool.open("a", b"mate")
        assert ask(mate, b"x") == b"mate,x"
        crashing, behind = lost.request(b"exit"), mate.request(b"x")
        with pytest.raises(Crashed, match=r"died \(exit code 7\)"):
            crashing.result(timeout=WAIT)
        with pytest.raises(NeverAsked, match=r"died \(exit code 7\) before it came to this request"):
            behind.result(timeout=WAIT)
        with pytest.raises(NeverAsked, match="died"):
            ask(mate, b"x")
        assert ask(kept, b"x") == b"kept,x"
        assert ask(pool.open("c", b"new"), b"x") == b"new,x"
        counts = pool.counts()
        assert (counts.started, counts.crashed, counts.hung, counts.live) == (3, 1, 0, 2)


def test_a_worker_that_was_killed_between_two_requests_gets_no_new_game() -> None:
    with running(PoolLimits(workers=1)) as pool:
        session = pool.open("a", b"")
        pid = pid_of(session)
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not session.worker.is_alive)
        assert ask(pool.open("a", b"new"), b"x") == b"new,x"
        with pytest.raises(EnvironmentFault):
            ask(session, b"x")
        assert wait_until(lambda: pool.counts().crashed == 1)


def test_a_worker_that_lets_its_deadline_pass_is_killed_replaced_and_counted() -> None:
    options = replace(echo.OPTIONS, seconds=0.3, start_seconds=WAIT)
    with running(PoolLimits(workers=1), options) as pool:
        session, mate = pool.open("a", b""), pool.open("a", b"mate")
        pid = pid_of(session)
        stuck, behind = session.request(b"sleep 3600"), mate.request(b"x")
        with pytest.raises(TimedOut, match=r"did not answer within 0\.3 s and was killed"):
            stuck.result(timeout=WAIT)
        with pytest.raises(NeverAsked, match="was killed before it came to this request"):
            behind.result(timeout=WAIT)
        assert not exists(pid)
        assert ask(pool.open("a", b"new"), b"x") == b"new,x"
        assert (pool.counts().hung, pool.counts().crashed) == (1, 0)


def test_a_worker_is_retired_after_its_games_and_ends_with_the_last_of_them() -> None:
    with running(PoolLimits(workers=1, recycle_games=2)) as pool:
        first, second = pool.open("a", b"1"), pool.open("a", b"2")
        pid = pid_of(first)
        third = pool.open("a", b"3")
        assert pid_of(third) != pid
        assert (first.is_retired, third.is_retired) == (True, False)
        assert ask(second, b"x") == b"2,x", "games of a retired worker go on"
        first.close()
        assert pid_of(second) == pid
        second.close()
        assert wait_until(lambda: not exists(pid))
        assert wait_until(lambda: pool.counts().recycled == 1)
        assert pool.counts().live == 1


def test_a_worker_is_retired_when_it_holds_too_much_memory() -> None:
    with running(PoolLimits(workers=1, recycle_bytes=100 * MIB)) as pool:
        session = pool.open("a", b"")
        ask(session, b"x")
        assert not session.is_retired
        ask(session, b"grow 120")
        other = pool.open("a", b"")
        assert session.is_retired
        assert pid_of(other) != pid_of(session)
        assert pool.counts().resident > 100 * MIB


def test_closing_leaves_no_process_behind_even_one_at_work() -> None:
    with running(PoolLimits(workers=2)) as pool:
        sessions = [pool.open(key, b"") for key in "ab"]
        pids = [pid_of(session) for session in sessions]
        stuck = sessions[0].request(b"sleep 3600")
    assert not any(exists(pid) for pid in pids)
    for lost in (stuck, sessions[1].request(b"x")):
        with pytest.raises(EnvironmentFault, match="was stopped"):
            lost.result(timeout=WAIT)
    assert pool.counts().crashed == 0


OWNER = """
import sys, time
from lamer.envs.workers.pool import PoolLimits, WorkerPool
from lamer.envs.workers.worker import WorkerOptions
pool = WorkerPool(WorkerOptions("echo:open_echo"), PoolLimits(2))
sessions = [pool.open(key, b"") for key in "ab"]
print(*(int(session.request(b"pid").result()) for session in sessions), flush=True)
sessions[0].request(b"sleep 3600")
time.sleep(3600)
"""


def test_workers_end_with_an_owner_that_is_killed() -> None:
    environ = {**os.environ, **dict(echo.ENVIRON)}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], env=environ, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert all(exists(pid) for pid in pids)
        assert len(pids) == 2
        owner.kill()
        owner.wait()
    assert wait_until(lambda: not any(exists(pid) for pid in pids))


def test_a_pool_has_a_worker_for_each_core_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pools.WORKERS_VARIABLE, raising=False)
    assert worker_count() == len(os.sched_getaffinity(0))
    monkeypatch.setenv(pools.WORKERS_VARIABLE, "3")
    assert worker_count() == 3
    monkeypatch.setenv(pools.WORKERS_VARIABLE, "0")
    with pytest.raises(BadInput, match="LAMER_ENV_WORKERS='0'"):
        worker_count()
