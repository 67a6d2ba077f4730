"""A run started by hand, one command a terminal, over TCP with generated keys."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from learner import journal
from tests.integration.processes import TINY, Started, start, updates, wait_until

pytestmark = pytest.mark.timeout(300)
UPDATES = 40


@pytest.fixture
def started() -> Iterator[list[Started]]:
    """Processes to be ended after the test, whatever happened."""
    processes: list[Started] = []
    yield processes
    for process in processes:
        process.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_three_terminals_train_and_a_second_actor_joins_and_one_is_killed(
    tmp_path: Path, started: list[Started]
) -> None:
    keys, url = tmp_path / "keys", f"tcp://127.0.0.1:{free_port()}"
    run = tmp_path / "runs" / "tiny"

    def lamer(name: str, *arguments: str) -> Started:
        process = start(arguments, tmp_path, name)
        started.append(process)
        return process

    assert lamer("keys", "keys", "create", str(keys)).wait() == 0
    learner = lamer(
        "learner",
        *("learner", "-c", str(TINY), "--name", "tiny", "--plain", "--keys", str(keys)),
        *("--bind", "tcp://127.0.0.1", "--port", url.rpartition(":")[2], f"batch.updates={UPDATES}"),
    )
    wait_until((run / "address").exists, lambda: learner.text)
    server = lamer("serve", "serve", "--connect", url, "--keys", str(keys))
    first = lamer("actor1", "actor", "--connect", url, "--keys", str(keys), "--name", "first", "--trials", "4")
    wait_until(lambda: len(updates(run)) >= 2, lambda: learner.text + server.text + first.text)

    second = lamer("actor2", "actor", "--connect", url, "--keys", str(keys), "--name", "second", "--trials", "8")
    at_join = len(updates(run))
    wait_until(lambda: len(updates(run)) >= at_join + 4, lambda: learner.text + second.text)
    os.kill(first.process.pid, signal.SIGKILL)

    assert learner.wait() == 0, learner.text
    assert server.wait(30.0) == 0, server.text
    assert second.wait(30.0) == 0, second.text
    trained = [trial for step in range(1, UPDATES + 1) for trial in journal.read_batch(run / "journal.db", step)]
    assert len({trial.trial_id for trial in trained}) == UPDATES * 3 * 4
    assert {trial.actor for trial in trained} == {"first", "second"}
