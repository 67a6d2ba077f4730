"""An actor as a whole: real sockets, a real HTTP server, the doors environment, and a gateway with a script."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lamer.actors import outbox
from lamer.actors import runner as pool
from lamer.actors.worker import ActorOptions, run_actor
from lamer.common.codec import decode_trial
from lamer.common.errors import BadInput, Missing
from lamer.common.messages import (
    Ack,
    Goodbye,
    Lease,
    ModelFiles,
    ModelFilesRequest,
    Nack,
    NackKind,
    Servers,
    Shutdown,
    TrialDone,
    TrialFailed,
)
from lamer.common.records import EpisodeStatus, Purpose, Task, Trial
from lamer.common.settings import EnvSettings, InferenceSettings, Settings, TrialSettings
from lamer.common.weights import NamedFile, read_fingerprint
from lamer.envs import registry
from lamer.learner.gateway.peers import Expectation
from tests.actors.parts import lease, write_model
from tests.actors.scripted_gateway import ScriptedGateway, scripted_gateway
from tests.actors.sglang_server import SglangServer, refusing, saying, serving
from tests.envs.installed import install

# With five doors and seed 2 the prize is behind door 3.
DOORS = Task("doors", registry.canonical_config("doors", {}), 2)
SETTINGS = Settings(env=EnvSettings("doors"), inference=InferenceSettings(retries=0))
WIN = "<action>3</action>"


@dataclass
class Scene:
    """An actor at work between a gateway and an inference server."""

    gateway: ScriptedGateway
    server: SglangServer
    actor: asyncio.Task[int]

    def lease(self, slot: int = 0, purpose: Purpose = Purpose.TRAIN, seconds: float = 60.0, group_id: int = 4) -> Lease:
        made = lease(slot=slot, task=DOORS, purpose=purpose, seconds=seconds, group_id=group_id)
        self.gateway.send(made)
        return made

    def offer_server(self, version: int = 0) -> None:
        self.gateway.send(Servers((self.server.info(version=version),)))

    async def finish(self) -> int:
        self.gateway.send(Shutdown("done", 0))
        return await asyncio.wait_for(self.actor, 10.0)


@contextlib.asynccontextmanager
async def scene(
    folder: Path, says: str = WIN, trials: int = 4, settings: Settings = SETTINGS, credit_trials: int = 1000
) -> AsyncIterator[Scene]:
    model = write_model(folder / "model", template=None)
    keys = folder / "keys"
    async with serving(saying(says), api_key="k") as server, scripted_gateway(keys, model, settings) as gateway:
        gateway.credit_trials = credit_trials
        actor = asyncio.create_task(run_actor(ActorOptions(gateway.url, gateway.keys, "actor-1", trials)))
        try:
            await asyncio.wait_for(gateway.greeted.wait(), 10.0)
            yield Scene(gateway, server, actor)
        finally:
            actor.cancel()
            await asyncio.wait({actor})


def trial_of(message: TrialDone) -> Trial:
    return decode_trial(message.body)


async def test_a_lease_comes_back_as_a_trial_and_shutdown_ends_the_actor(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.offer_server(version=6)
        made = on.lease()
        done = await on.gateway.next(TrialDone)
        on.gateway.send(Ack((made.trial_id,)))
        code = await on.finish()
    trial = trial_of(done)
    assert code == 0
    assert (trial.trial_id, trial.task, trial.actor) == (made.trial_id, DOORS, "actor-1")
    assert trial.solved_at == 0
    assert on.gateway.hellos[0].capacity == 4


async def test_a_shutdown_with_an_error_is_the_actors_exit_code(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.gateway.send(Shutdown("the trainer died", 1))
        assert await asyncio.wait_for(on.actor, 10.0) == 1


async def test_no_more_trials_run_at_once_than_the_actor_has_slots(tmp_path: Path) -> None:
    async with scene(tmp_path, trials=2) as on:
        on.server.gate.clear()
        on.offer_server()
        for slot in range(5):
            on.lease(slot)
        await on.server.arrived.wait()
        await asyncio.sleep(0.1)  # time for a third to come, were it started
        assert len(on.server.bodies) == 2
        on.server.gate.set()
        done = {(await on.gateway.next(TrialDone)).trial_id for _ in range(5)}
        assert len(done) == 5


async def test_a_full_outbox_holds_leases_back_until_an_acknowledgement(tmp_path: Path) -> None:
    async with scene(tmp_path, trials=1, credit_trials=1) as on:
        on.offer_server()
        first, second = on.lease(0), on.lease(1)
        assert (await on.gateway.next(TrialDone)).trial_id == first.trial_id
        await asyncio.sleep(0.1)  # time for the second to be played, were it started
        assert len(on.server.bodies) == 1
        on.gateway.send(Ack((first.trial_id,)))
        assert (await on.gateway.next(TrialDone)).trial_id == second.trial_id


async def test_a_trial_is_sent_again_until_it_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "RESEND_SECONDS", 0.05)
    async with scene(tmp_path) as on:
        on.offer_server()
        made = on.lease()
        first, second = await on.gateway.next(TrialDone), await on.gateway.next(TrialDone)
        assert first == second
        on.gateway.send(Ack((made.trial_id,)))
        on.lease(1)
        while (await on.gateway.next(TrialDone)).trial_id == made.trial_id:
            pass


async def test_a_trial_asked_for_again_is_resent_and_a_refused_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "RETRY_SECONDS", 0.01)
    async with scene(tmp_path) as on:
        on.offer_server()
        made = on.lease()
        await on.gateway.next(TrialDone)
        on.gateway.send(Nack(made.trial_id, NackKind.RETRY, "the disk is full"))
        assert (await on.gateway.next(TrialDone)).trial_id == made.trial_id
        on.gateway.send(Nack(made.trial_id, NackKind.STALE, "too late"))
        on.gateway.send(on.gateway.welcome())  # would resend all that is unacknowledged
        other = on.lease(1)
        assert (await on.gateway.next(TrialDone)).trial_id == other.trial_id


async def test_a_restarted_gateway_gets_what_it_has_not_acknowledged(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.offer_server()
        made = on.lease()
        first = await on.gateway.next(TrialDone)
        on.gateway.epoch += 1
        on.gateway.send(on.gateway.welcome())
        assert await on.gateway.next(TrialDone) == first
        assert first.trial_id == made.trial_id


async def test_a_lease_given_twice_is_played_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.server.gate.clear()
        on.offer_server()
        on.lease()
        await on.server.arrived.wait()
        on.server.arrived.clear()
        on.lease()
        other = on.lease(1)
        await on.server.arrived.wait()  # messages come in order: the second lease of the first trial was taken before
        on.server.gate.set()
        done = [(await on.gateway.next(TrialDone)).trial_id for _ in range(2)]
        assert len(set(done)) == 2
        assert other.trial_id in done
        assert len(on.server.bodies) == 2


async def test_a_lease_given_again_has_its_new_deadline(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.server.gate.clear()
        on.offer_server()
        on.lease(seconds=0.5)
        await on.server.arrived.wait()
        made = on.lease(seconds=60.0)
        await asyncio.sleep(0.7)  # past the first deadline
        on.server.gate.set()
        assert (await on.gateway.next(TrialDone)).trial_id == made.trial_id
        assert len(on.server.bodies) == 1


async def test_a_lease_given_again_while_its_trial_fails_changes_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.server.always = refusing(400, "bad temperature")
        on.offer_server()
        made = on.lease()
        await on.server.arrived.wait()
        await asyncio.sleep(0.1)  # the slot rests for a second after a failure
        on.lease()
        assert (await on.gateway.next(TrialFailed)).trial_id == made.trial_id
        on.server.always = saying(WIN)
        on.lease()
        assert (await on.gateway.next(TrialDone)).trial_id == made.trial_id


async def test_another_run_at_the_same_address_ends_the_actor(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.gateway.run = "another"
        on.gateway.send(on.gateway.welcome())
        with pytest.raises(BadInput, match="another"):
            await asyncio.wait_for(on.actor, 10.0)


async def test_a_failing_server_makes_a_failed_trial_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FAILURE_PAUSE_SECONDS", 0.0)
    async with scene(tmp_path) as on:
        on.server.always = refusing(400, "bad temperature")
        on.offer_server()
        made = on.lease()
        failed = await on.gateway.next(TrialFailed)
        assert failed.trial_id == made.trial_id
        assert "inference_error: server s" in failed.reason
        assert "bad temperature" in failed.reason


async def test_a_prompt_over_the_limit_is_delivered_as_an_overflow(tmp_path: Path) -> None:
    settings = replace(SETTINGS, trial=TrialSettings(max_prompt_tokens=4))
    async with scene(tmp_path, settings=settings) as on:
        on.offer_server()
        on.lease()
        trial = trial_of(await on.gateway.next(TrialDone))
        assert [episode.status for episode in trial.episodes] == [EpisodeStatus.CONTEXT_OVERFLOW]


async def test_a_task_that_can_not_be_made_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FAILURE_PAUSE_SECONDS", 0.0)
    async with scene(tmp_path) as on:
        on.offer_server()
        on.gateway.send(lease(slot=1, task=Task("door", "{}", 0)))
        assert "'door'" in (await on.gateway.next(TrialFailed)).reason
        on.lease(0)
        await on.gateway.next(TrialDone)


FAULTY = """
from dataclasses import dataclass
from lamer.envs.base import EnvFactory
from lamer.envs.doors.env import DoorsEnv

@dataclass(frozen=True)
class FaultyConfig:
    fault: str = ""

class FaultyEnv(DoorsEnv):
    def __init__(self, fault):
        super().__init__(5, 3)
        self.fault = fault
    def step(self, response):
        if self.fault == "step": raise RuntimeError("can't read file \\udcff.txt")
        return super().step(response)
    def close(self):
        if self.fault == "close": raise RuntimeError("engine \\udcff was gone already")

class FaultyFactory(EnvFactory):
    name = "faulty"
    config_class = FaultyConfig
    def make(self, config, seed):
        if config.fault == "make": raise OSError("no file \\udcff")
        return 3 if config.fault == "type" else FaultyEnv(config.fault)

FACTORY = FaultyFactory()
"""
"""The doors environment with a fault of one's choice, some with a byte that is no text in its message."""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment `faulty`, installed."""
    install(tmp_path, "faulty = lamer_faulty:FACTORY", "lamer_faulty", FAULTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("lamer_faulty", None)


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("step", "episode 0: environment_error: RuntimeError: can't read file \ufffd.txt"),
        ("make", "OSError: no file \ufffd"),
        ("type", "EnvironmentFault: what make of environment 'faulty' returned is a int, not an Env"),
    ],
)
async def test_a_fault_of_an_environment_is_reported_whatever_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    monkeypatch.setattr(pool, "FAILURE_PAUSE_SECONDS", 0.0)
    async with scene(tmp_path) as on:
        on.offer_server()
        on.gateway.send(lease(slot=1, task=Task("faulty", f'{{"fault":"{fault}"}}', 0)))
        assert (await on.gateway.next(TrialFailed)).reason == reason
        on.lease(0)
        await on.gateway.next(TrialDone)


@pytest.mark.usefixtures("faulty")
async def test_a_trial_whose_environment_fails_to_close_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(tmp_path) as on:
        on.offer_server()
        on.gateway.send(lease(task=Task("faulty", '{"fault":"close"}', 0)))
        trial = trial_of(await on.gateway.next(TrialDone))
    assert trial.solved_at == 0
    assert "raised in close: RuntimeError: engine \ufffd was gone already" in caplog.text


async def test_a_lease_past_its_deadline_is_abandoned(tmp_path: Path) -> None:
    async with scene(tmp_path, trials=1) as on:
        on.server.gate.clear()
        on.offer_server()
        late = on.lease(0, seconds=0.1)
        await asyncio.wait_for(on.server.disconnected.wait(), 10.0)
        on.server.gate.set()
        other = on.lease(1)
        done = await on.gateway.next(TrialDone)
        assert done.trial_id == other.trial_id != late.trial_id


async def test_an_evaluation_uses_only_servers_with_its_version(tmp_path: Path) -> None:
    async with scene(tmp_path) as on, serving(saying(WIN, version="5"), api_key="k") as right:
        on.server.always = saying(WIN, version="6")
        on.gateway.send(Servers((on.server.info("ahead", version=6), right.info("right", version=5))))
        for task in range(4):
            on.lease(5, Purpose.EVALUATE, group_id=task)
        trials = [trial_of(await on.gateway.next(TrialDone)) for _ in range(4)]
        assert {trial.oldest_version for trial in trials} == {5}
        assert on.server.bodies == []


async def test_servers_may_change_while_trials_run(tmp_path: Path) -> None:
    async with scene(tmp_path) as on, serving(saying(WIN), api_key="k") as other:
        on.gateway.send(Servers((on.server.info("one"),)))
        on.lease(0)
        await on.gateway.next(TrialDone)
        on.gateway.send(Servers((other.info("two"),)))
        on.lease(1)
        await on.gateway.next(TrialDone)
        assert (len(on.server.bodies), len(other.bodies)) == (1, 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_a_signal_says_goodbye_and_leaves_nothing_behind(tmp_path: Path, number: int, code: int) -> None:
    async with scene(tmp_path) as on:
        on.server.gate.clear()
        on.offer_server()
        on.lease()
        await on.server.arrived.wait()
        before = asyncio.all_tasks()
        os.kill(os.getpid(), number)
        assert await asyncio.wait_for(on.actor, 5.0) == code
        await on.gateway.next(Goodbye)
        await asyncio.wait_for(on.server.disconnected.wait(), 5.0)
        left = {task.get_name() for task in asyncio.all_tasks() & before if not task.done()}
        assert not any(name.startswith(("run/", "actor", "resender", "session")) for name in left)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


async def test_a_signal_ends_an_actor_that_has_not_found_its_learner(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with scripted_gateway(tmp_path / "keys", model, SETTINGS) as gateway:
        keys = gateway.keys
    actor = asyncio.create_task(run_actor(ActorOptions("tcp://127.0.0.1:9", keys, "a", 1)))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(actor, 5.0) == 130


async def test_an_actor_without_the_models_folder_asks_for_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = write_model(tmp_path / "model", vocab_size=264)
    files = tuple(NamedFile(path.name, path.read_bytes()) for path in model.iterdir())
    async with (
        serving(saying(WIN), api_key="k") as server,
        scripted_gateway(tmp_path / "keys", tmp_path / "elsewhere", SETTINGS) as gateway,
    ):
        actor = asyncio.create_task(run_actor(ActorOptions(gateway.url, gateway.keys, "a", 1)))
        await gateway.next(ModelFilesRequest)
        gateway.send(Servers((server.info(),)))  # what comes before the answer is not lost
        gateway.send(lease(task=DOORS))
        gateway.send(ModelFiles(files))
        assert trial_of(await gateway.next(TrialDone)).solved_at == 0
        gateway.send(Shutdown("done", 0))
        assert await asyncio.wait_for(actor, 10.0) == 0
    (kept,) = (tmp_path / "cache" / "lamer" / "models").glob("[!.]*")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {file.name: file.data for file in files}


async def test_a_folder_of_the_learners_path_with_another_model_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = write_model(tmp_path / "model", vocab_size=300)
    async with scripted_gateway(tmp_path / "keys", here, SETTINGS) as gateway:
        gateway.fingerprint = read_fingerprint(write_model(tmp_path / "the-runs", vocab_size=264))
        actor = asyncio.create_task(run_actor(ActorOptions(gateway.url, gateway.keys, "a", 1)))
        await gateway.next(ModelFilesRequest)
        actor.cancel()
        await asyncio.wait({actor})


async def test_the_actors_own_model_folder_goes_before_the_gateways(tmp_path: Path) -> None:
    own = write_model(tmp_path / "own", vocab_size=264)
    async with scripted_gateway(tmp_path / "keys", tmp_path / "nowhere", SETTINGS) as gateway:
        options = ActorOptions(gateway.url, gateway.keys, "a", 1, model_path=str(own))
        actor = asyncio.create_task(run_actor(options))
        await asyncio.wait_for(gateway.greeted.wait(), 10.0)
        gateway.send(Shutdown("done", 0))
        assert await asyncio.wait_for(actor, 10.0) == 0
    assert gateway.hellos[0].fingerprint == read_fingerprint(own)


async def test_an_actor_with_another_models_folder_is_refused_before_it_plays(tmp_path: Path) -> None:
    own = write_model(tmp_path / "own", vocab_size=300)
    async with scripted_gateway(tmp_path / "keys", tmp_path / "model", SETTINGS) as gateway:
        runs = read_fingerprint(write_model(tmp_path / "model", vocab_size=264))
        gateway.expectation = Expectation("run", "hash", runs)
        with pytest.raises(BadInput, match="vocabulary 300, not 264") as caught:
            await run_actor(ActorOptions(gateway.url, gateway.keys, "a", 1, model_path=str(own)))
    assert caught.value.exit_code == 2


async def test_a_model_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with scripted_gateway(tmp_path / "keys", tmp_path / "model", SETTINGS) as gateway:
        options = ActorOptions(gateway.url, gateway.keys, "a", 1, model_path=str(tmp_path / "nowhere"))
        with pytest.raises(Missing, match="nowhere") as caught:
            await run_actor(options)
    assert caught.value.exit_code == 3


async def test_an_environment_that_this_machine_lacks_ends_the_actor(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    settings = replace(SETTINGS, env=EnvSettings("dors"))
    async with scripted_gateway(tmp_path / "keys", model, settings) as gateway:
        with pytest.raises(BadInput, match="doors"):
            await run_actor(ActorOptions(gateway.url, gateway.keys, "a", 1))


async def test_an_actor_without_the_environments_data_ends_before_it_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_data(config: object) -> None:
        raise Missing("doors: the prizes are not on this machine")

    monkeypatch.setattr(registry.get("doors"), "check_data", check_data)
    with pytest.raises(Missing, match="the prizes are not on this machine"):
        async with scene(tmp_path) as on:
            await asyncio.wait_for(on.actor, 10.0)
