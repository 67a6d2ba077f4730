"""A process's limit of requests at one server, and what a server makes of several such processes."""

from __future__ import annotations

import pytest

from lamer.actors.concurrency import ConcurrencyLimit
from lamer.common.messages import ServerInfo

CAPACITY = 64


class Reports:
    """A host that reports again and again."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.count = 0

    def next(self, running: int, waiting: int) -> ServerInfo:
        self.count += 1
        return ServerInfo("a", "http://a", "", 0, self.capacity, running, waiting, self.count)

    def serving(self, requests: int) -> ServerInfo:
        """What it says while so many requests are there."""
        return self.next(min(requests, self.capacity), max(0, requests - self.capacity))


def converge(trials: list[int], rounds: int = 200) -> list[int]:
    """Requests of each process after many reports, each with more or fewer trials to play; all share one server."""
    reports = Reports()
    limits = [ConcurrencyLimit(CAPACITY) for _ in trials]
    out = [0 for _ in trials]
    for _ in range(rounds):
        out = [min(wanted, limit.value) for wanted, limit in zip(trials, limits, strict=True)]
        info = reports.serving(sum(out))
        for requests, limit in zip(out, limits, strict=True):
            limit.observe(info, requests)
    return out


@pytest.mark.parametrize("trials", [[500], [500, 500], [500, 500, 500, 500, 500], [500, 20]])
def test_a_server_stays_saturated_with_a_short_queue(trials: list[int]) -> None:
    for rounds in range(40, 60):
        assert CAPACITY <= sum(converge(trials, rounds)) <= 1.6 * CAPACITY


def test_processes_that_want_more_than_there_is_come_to_equal_shares() -> None:
    shares = converge([500, 500, 500])
    assert max(shares) <= 1.3 * min(shares)


def test_a_process_that_wants_little_gets_all_of_it() -> None:
    assert converge([500, 5])[1] == 5


def test_a_limit_that_nobody_reaches_is_not_raised() -> None:
    limit, reports = ConcurrencyLimit(CAPACITY), Reports()
    for _ in range(10):
        limit.observe(reports.serving(10), 10)
    assert limit.value == CAPACITY


def test_a_report_counts_once_and_a_limit_falls_no_further_before_its_requests_have() -> None:
    limit, reports = ConcurrencyLimit(CAPACITY), Reports()
    long = reports.next(CAPACITY, CAPACITY)
    limit.observe(long, CAPACITY)
    once = limit.value
    assert once < CAPACITY
    limit.observe(long, 0)
    limit.observe(reports.next(CAPACITY, CAPACITY), CAPACITY)
    assert limit.value == once
    limit.observe(reports.next(CAPACITY, CAPACITY), once)
    assert limit.value < once


def test_the_queue_of_a_paused_server_is_not_its_load() -> None:
    limit, reports = ConcurrencyLimit(CAPACITY), Reports()
    limit.observe(reports.next(0, CAPACITY), CAPACITY)
    assert limit.value == CAPACITY


def test_a_limit_is_never_below_one() -> None:
    limit, reports = ConcurrencyLimit(2), Reports(2)
    for _ in range(50):
        limit.observe(reports.next(2, 50), 0)
        limit.fail()
    assert limit.value == 1


def test_after_a_failure_it_starts_with_one_and_grows_with_successes_to_half() -> None:
    limit = ConcurrencyLimit(CAPACITY)
    limit.fail()
    values = []
    for _ in range(40):
        values.append(limit.value)
        limit.succeed()
    assert values[:4] == [1, 2, 3, 4]
    assert max(values) == CAPACITY // 2


def test_a_failed_probe_does_not_forget_what_the_server_could_do() -> None:
    limit = ConcurrencyLimit(CAPACITY)
    for _ in range(4):
        limit.fail()
    for _ in range(CAPACITY):
        limit.succeed()
    assert limit.value == CAPACITY // 2


def test_beyond_half_it_grows_by_reports_again() -> None:
    limit, reports = ConcurrencyLimit(CAPACITY), Reports()
    limit.fail()
    for _ in range(CAPACITY):
        limit.succeed()
    for _ in range(40):
        limit.observe(reports.serving(limit.value), limit.value)
    assert limit.value >= CAPACITY
