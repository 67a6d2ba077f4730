"""A run started by hand, one command a terminal, over TCP with generated keys."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lamer.learner.journal.reader import read_batch
from tests.integration.processes import TINY, Started, updates, wait_until

pytestmark = pytest.mark.timeout(300)
UPDATES = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_three_terminals_train_and_a_second_actor_joins_and_one_is_killed(
    folder: Path, lamer: Callable[..., Started]
) -> None:
    port = free_port()
    run = folder / "runs" / "hand"
    joins = ("--connect", f"tcp://127.0.0.1:{port}", "--keys", "keys-of-hand")
    assert lamer("keys", "create", "keys-of-hand").wait() == 0
    learner = lamer(
        *("learner", "-c", str(TINY), "--name", "hand", "--plain", "--keys", "keys-of-hand", "--port", str(port)),
        f"batch.updates={UPDATES}",
    )
    server = lamer("serve", *joins)
    first = lamer("actor", *joins, "--name", "first", "--trials", "4")
    wait_until(lambda: len(updates(run)) >= 2, lambda: learner.text + server.text + first.text)
    assert "16 sequences at once" in server.text  # inference.max_running of the run, not of a default

    second = lamer("actor", *joins, "--name", "second", "--trials", "8")
    wait_until(lambda: "joined run hand" in second.text, lambda: learner.text + second.text)
    at_join = len(updates(run))
    wait_until(lambda: len(updates(run)) >= at_join + 4, lambda: learner.text + second.text)
    os.kill(first.process.pid, signal.SIGKILL)

    assert learner.wait() == 0, learner.text
    assert server.wait(30.0) == 0, server.text
    assert second.wait(30.0) == 0, second.text
    trained = [trial for step in range(1, UPDATES + 1) for trial in read_batch(run / "journal.db", step)]
    assert len({trial.trial_id for trial in trained}) == len(trained) == UPDATES * 3 * 4
    assert {trial.actor for trial in trained} == {"first", "second"}
