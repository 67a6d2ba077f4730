"""Learner, inference host and actors on three machines that share nothing but a network, which gets slow and breaks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamer.deploy.inference.engines.sglang import CHECKOUT_PYTHON
from tests.chaos.namespaces import Machine, Network, network, why_not
from tests.integration.processes import TINY, Started, last_step, updates, wait_until
from tests.integration.test_kills import check_journal

REASON = why_not()
pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON), pytest.mark.timeout(600)]
PORT = 5555
DELAY_SECONDS = 1.0
CUT_SECONDS = 20.0
UPDATES = 30
AS_BY_DEFAULT = ("gateway.heartbeat_seconds=2", "gateway.dead_after_seconds=20")
"""tiny.yaml is less patient than what a user gets."""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Network]:
    with network(tmp_path, ("learner", "host", "actors")) as made:
        yield made


class Run:
    """One training over three machines, started as docs/two-machines.md says."""

    def __init__(self, net: Network, *serve_options: str) -> None:
        self.learner_machine = net.machines["learner"]
        self.folder = self.learner_machine.folder / "runs" / "apart"
        self.learner = self._start_learner()
        self.host = self._join(net.machines["host"], "serve", "--host", net.machines["host"].address, *serve_options)
        self.actor = self._join(net.machines["actors"], "actor")

    @property
    def parts(self) -> tuple[Started, ...]:
        """Its processes as they were started."""
        return (self.learner, self.host, self.actor)

    @property
    def text(self) -> str:
        """What they have printed so far."""
        return "".join(f"--- {part.output}\n{part.text}" for part in self.parts)

    def wait_for_update(self, step: int) -> None:
        """Wait until so many updates are trained; fails when a process ends before."""

        def is_there() -> bool:
            assert all(part.process.poll() is None for part in self.parts) or last_step(self.folder) >= UPDATES, (
                self.text
            )
            return last_step(self.folder) >= step

        wait_until(is_there, lambda: self.text)

    def _start_learner(self) -> Started:
        machine = self.learner_machine
        created = machine.lamer("keys", "create", "keys")
        assert created.wait() == 0, created.text
        listens = ("--bind", f"tcp://{machine.address}", "--port", str(PORT), "--keys", "keys")
        what = ("-c", str(TINY), "--name", "apart", f"batch.updates={UPDATES}", *AS_BY_DEFAULT)
        return machine.lamer("learner", "--plain", *listens, *what)

    def _join(self, machine: Machine, part: str, *options: str) -> Started:
        role = {"serve": "host"}.get(part, part)
        made = self.learner_machine.lamer("keys", "create", "--role", role, f"{machine.name}-1")
        assert made.wait() == 0, made.text
        shutil.copytree(self.learner_machine.folder / "keys" / f"{machine.name}-1", machine.folder / "keys")
        url = f"tcp://{self.learner_machine.address}:{PORT}"
        return machine.lamer(part, "--connect", url, "--keys", "keys", *options)


def train_through_a_slow_and_a_broken_network(net: Network, *serve_options: str) -> None:
    """Train; slow the learner's cable down, then cut it for a while; see that all of it ends well."""
    run = Run(net, *serve_options)
    for machine in net.machines.values():
        folders = machine.run("ls", str(machine.folder.parent)).stdout.split()
        assert folders == [machine.name]  # the others' folders can't be seen

    run.wait_for_update(3)
    net.wire.delay(DELAY_SECONDS)
    run.wait_for_update(last_step(run.folder) + 6)

    net.wire.cut()
    time.sleep(CUT_SECONDS)
    before = last_step(run.folder)
    assert before < UPDATES - 6, "the run was over before the cable was mended"
    net.wire.mend()
    run.wait_for_update(before + 5)
    net.wire.delay(0.0)
    run.wait_for_update(UPDATES)

    assert [part.wait(60.0) for part in run.parts] == [0, 0, 0], run.text
    assert [line.step for line in updates(run.folder)] == list(range(1, UPDATES + 1))
    check_journal(run.folder)


def test_a_run_on_three_machines_survives_a_slow_cable_and_a_cut_one(machines: Network) -> None:
    train_through_a_slow_and_a_broken_network(machines)


@pytest.mark.sglang
@pytest.mark.slow
@pytest.mark.skipif(not CHECKOUT_PYTHON.is_file(), reason="no SGLang here: `make sglang-cpu` builds its environment")
def test_a_run_with_sglang_on_three_machines_survives_it_as_well(machines: Network) -> None:
    train_through_a_slow_and_a_broken_network(machines, "--engine", "sglang")
