"""The host agent with a real server: which weights it holds, and what it does when something breaks."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest

from lamer.common import session
from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.keys import ClientKeys
from lamer.common.messages import WeightAnnouncement
from lamer.common.transport import make_key_pair
from lamer.common.weights import read_fingerprint
from lamer.deploy.inference import host
from lamer.deploy.inference.applying import UpdateTimes, apply_folder
from lamer.deploy.inference.engines.base import Engine
from lamer.deploy.inference.engines.options import EngineOptions, HostOptions
from lamer.deploy.inference.fetching import feed
from tests.contract.served import write_models
from tests.deploy.inference.hosts import PROMPT, SETTINGS, announce, ask, host_scene, serves

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


async def test_a_server_is_started_on_the_first_announced_weights_and_takes_the_next(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    async with host_scene(tmp_path) as scene:
        assert scene.hello.fingerprint is None
        server = await scene.holds(announce(models["base"], 3))
        assert (await ask(server, "/model_info"))["weight_version"] == "3"
        assert await serves(server, models["base"])
        assert server.max_running == 8

        again = await scene.holds(announce(models["other"], 4))
        assert again.url == server.url  # the same server
        assert (await ask(server, "/model_info"))["weight_version"] == "4"
        assert await serves(server, models["other"])
        status = await scene.status(lambda each: each.is_ready)
        assert 0 < status.pause_seconds <= status.update_seconds
        assert await scene.finish() == 0


async def test_an_older_version_is_refused_until_the_trainer_goes_back(tmp_path: Path, models: dict[str, Path]) -> None:
    async with host_scene(tmp_path) as scene:
        server = await scene.holds(announce(models["base"], 5))
        scene.gateway.send(announce(models["other"], 4))
        status = await scene.error("version 4 (lineage 0) was announced after version 5 (lineage 0)")
        assert status.is_ready
        assert (await ask(server, "/model_info"))["weight_version"] == "5"

        await scene.holds(announce(models["other"], 4, lineage=1))
        assert await serves(server, models["other"])


async def test_the_same_version_with_other_contents_is_loaded(tmp_path: Path, models: dict[str, Path]) -> None:
    async with host_scene(tmp_path) as scene:
        server = await scene.holds(announce(models["base"], 2))
        scene.gateway.send(announce(models["other"], 2))
        await scene.status(lambda each: each.update_seconds > 0)
        assert await serves(server, models["other"])


async def test_damaged_weights_are_never_loaded_and_taken_once_they_are_whole(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "RETRY_SECONDS", 0.1)
    arriving = tmp_path / "arriving"
    shutil.copytree(models["broken"], arriving)
    shutil.copy(models["other"] / "model.safetensors", tmp_path / "whole")
    async with host_scene(tmp_path) as scene:
        server = await scene.holds(announce(models["base"], 1))
        scene.gateway.send(msgspec.structs.replace(announce(models["other"], 2), path=str(arriving)))
        status = await scene.error("can't be fetched")
        assert (status.is_ready, status.server.policy_version) == (True, 1)
        assert (await ask(server, "/model_info"))["weight_version"] == "1"
        (tmp_path / "whole").rename(arriving / "model.safetensors")
        await scene.ready_at(2)


async def test_weights_that_can_not_be_had_end_the_host(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "RETRY_SECONDS", 0.01)
    async with host_scene(tmp_path) as scene:
        scene.gateway.send(announce(models["broken"], 1, files=announce(models["other"], 1).files))
        with pytest.raises(RunFailed, match=r"policy version 1 can't be fetched.*model\.safetensors has"):
            await asyncio.wait_for(scene.host, 20.0)


async def test_weights_that_the_server_refuses_are_tried_again_then_it_is_started_anew(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truncated shard that was announced as it is passes every check but the engine's own. The second try waits until
    the server was asked what it holds after the first.
    """
    monkeypatch.setattr(host, "APPLY_RETRY_SECONDS", 0.1)
    tries, may_go_on = itertools.count(1), asyncio.Event()

    async def apply_when_told(engine: Engine, mode: str, weights: WeightAnnouncement, folder: Path) -> UpdateTimes:
        if next(tries) == 2:
            await may_go_on.wait()
        return await apply_folder(engine, mode, weights, folder)

    monkeypatch.setattr(host, "apply_folder", apply_when_told)
    async with host_scene(tmp_path) as scene:
        server = await scene.holds(announce(models["base"], 1))
        scene.gateway.send(announce(models["broken"], 2))
        status = await scene.error("policy version 2 was not applied")
        assert (status.is_ready, status.server.policy_version) == (True, 1)
        sampling = {"max_new_tokens": 4, "ignore_eos": True}
        reply = await ask(server, "/generate", {"input_ids": PROMPT, "sampling_params": sampling})
        assert reply["meta_info"]["weight_version"] == "1"  # neither paused nor changed
        may_go_on.set()
        status = await scene.error("try 3")
        assert not status.is_ready
        with pytest.raises((BadInput, RunFailed), match=r"describes \d+ bytes of tensors, the file has"):
            await asyncio.wait_for(scene.host, 60.0)


async def test_a_killed_server_comes_back_with_the_current_version(tmp_path: Path, models: dict[str, Path]) -> None:
    async with host_scene(tmp_path) as scene:
        await scene.holds(announce(models["base"], 1))
        await scene.holds(announce(models["other"], 2))
        scene.engine().kill()
        status = await scene.error("ended with code -9")
        assert not status.is_ready
        server = await scene.ready_at(2)
        assert await serves(server, models["other"])


async def test_a_server_killed_in_the_middle_of_an_update_comes_back_with_the_new_version(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    async with host_scene(tmp_path) as scene:
        await scene.holds(announce(models["base"], 1))
        engine = scene.engine()
        os.kill(engine.pid, signal.SIGSTOP)  # it takes the request and never answers
        scene.gateway.send(announce(models["other"], 2))
        await asyncio.sleep(0.5)
        engine.kill()
        await scene.error("ended with code -9")
        server = await scene.ready_at(2)
        assert await serves(server, models["other"])


async def test_a_server_that_hangs_is_started_anew(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "LEAST_SILENT_SECONDS", 1.0)
    async with host_scene(tmp_path) as scene:
        await scene.holds(announce(models["base"], 1))
        os.kill(scene.engine().pid, signal.SIGSTOP)
        await scene.error("did not say its load")
        await scene.ready_at(1)


async def test_a_server_is_left_alone_while_its_reports_wait_for_the_learner(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner is away for longer than a server may hang, and reports no longer fit into the outbox."""
    monkeypatch.setattr(host, "LEAST_SILENT_SECONDS", 1.0)
    monkeypatch.setattr(session, "OUTBOX_MESSAGES", 1)
    async with host_scene(tmp_path) as scene:
        await scene.holds(announce(models["base"], 1))
        engine = scene.engine()
        scene.gateway.endpoint.close()
        await asyncio.sleep(2.5 * scene.gateway.welcome().dead_after_seconds)
        assert not scene.host.done()
        assert engine.is_running()
        assert engine.status() != psutil.STATUS_ZOMBIE
        scene.host.cancel()
        assert await asyncio.wait_for(scene.host, 20.0) == 130


async def test_a_server_that_keeps_dying_ends_the_host(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "MAX_RESTARTS", 1)
    async with host_scene(tmp_path) as scene:
        for _ in range(2):
            scene.gateway.send(announce(models["base"], 1))
            await scene.ready_at(1)
            scene.engine().kill()
            await scene.error("code -9")
        with pytest.raises(RunFailed, match="was started 2 times"):
            await asyncio.wait_for(scene.host, 20.0)


async def test_a_folder_of_the_host_that_holds_the_announced_weights_is_used_as_it_is(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    own = tmp_path / "own"
    shutil.copytree(models["base"], own)
    async with host_scene(tmp_path, model_path=own) as scene:
        assert scene.hello.fingerprint == read_fingerprint(own)
        elsewhere = msgspec.structs.replace(announce(models["base"], 0), path="/nowhere")
        assert await serves(await scene.holds(elsewhere), models["base"])
        assert await serves(await scene.holds(announce(models["other"], 1)), models["other"])


async def test_actors_are_given_the_public_address(tmp_path: Path, models: dict[str, Path]) -> None:
    async with host_scene(tmp_path, public_url="https://gpu.example:8443") as scene:
        server = await scene.holds(announce(models["base"], 0))
        assert server.url == "https://gpu.example:8443"


async def test_no_key_of_a_server_is_on_its_command_line(tmp_path: Path, models: dict[str, Path]) -> None:
    async with host_scene(tmp_path) as scene:
        server = await scene.holds(announce(models["base"], 0))
        command = scene.engine().cmdline()
        assert server.api_key
        assert not [word for word in command if server.api_key in word or "key" in word]


async def test_a_model_folder_without_tokenizer_is_refused_before_anything_is_started(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    shutil.copytree(models["base"], tmp_path / "own")
    (tmp_path / "own" / "tokenizer.json").unlink()
    with pytest.raises(Missing, match=r"lacks tokenizer\.json"):
        async with host_scene(tmp_path, model_path=tmp_path / "own"):
            pass


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tls_cert": Path(__file__), "tls_key": Path(__file__)}, "embedded engine speaks no TLS.*nginx"),
        ({"tls_cert": Path(__file__)}, "belong together"),
        ({"tls_cert": Path("nowhere.pem")}, "no such file"),
        ({"extra": ("--chunked-prefill-size", "4")}, "only SGLang takes flags"),
        ({"extra": ("stray",)}, "'stray' is no flag"),
        ({"host": "0.0.0.0"}, "name the one that actors use with --public-url"),
        ({"public_url": "gpu.example"}, "is no URL"),
        ({"attach": "http://x:1", "extra": ("--x",)}, "SGLang's own flags can't be given with it"),
        ({"update_mode": "wait", "delivery": "gloo"}, "wait can't be used with --delivery gloo"),
    ],
)
async def test_flags_that_do_not_go_together_are_refused(tmp_path: Path, flags: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        async with host_scene(tmp_path, **flags) as scene:
            await asyncio.wait_for(scene.host, 10.0)


async def test_two_hosts_do_not_share_a_cache(tmp_path: Path) -> None:
    async with host_scene(tmp_path / "first", cache=tmp_path / "cache"):
        with pytest.raises(BadInput, match="another inference host uses it"):
            async with host_scene(tmp_path / "second", cache=tmp_path / "cache") as scene:
                await asyncio.wait_for(scene.host, 10.0)


def test_the_runs_configuration_says_what_was_not_named() -> None:
    pair = make_key_pair()
    options = HostOptions("url", ClientKeys(pair, pair.public), "name", "127.0.0.1", 0, max_running=3)
    run = options.resolved(replace(SETTINGS.inference, update_mode="in_place"))
    assert (run.max_running, run.cache_tokens, run.update_mode) == (3, 4096, "in_place")
    assert EngineOptions.of(options, run).max_running == 3
