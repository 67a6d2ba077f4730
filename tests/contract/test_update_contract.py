"""Weight updates as the host agent makes them, in each way of treating what is in flight."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future
from typing import Any

import pytest

from lamer.common.keys import ClientKeys
from lamer.common.messages import WeightAnnouncement
from lamer.common.transport import make_key_pair
from lamer.deploy.inference.applying import UpdateTimes, apply_folder
from lamer.deploy.inference.engines.attach import AttachedServer, Attacher
from lamer.deploy.inference.engines.client import ServerRefused
from lamer.deploy.inference.engines.options import HostOptions, ServerKeys
from tests.contract.served import Served
from tests.contract.test_control_contract import LONG, PROMPT, gap, spans

MODES = ("in_place", "retract", "abort", "wait")
EARLIER, LATER = "0", "1"


async def attached(server: Served) -> AttachedServer:
    pair = make_key_pair()
    keys = ServerKeys(server.api_key, server.admin_key)
    options = HostOptions(
        "tcp://learner", ClientKeys(pair, pair.public), "host", "", 0, attach=server.url, server_keys=keys
    )
    return await Attacher(options, 8).open(server.folders["base"], 0)


def apply(server: Served, mode: str, name: str, version: str = LATER) -> UpdateTimes:
    """Apply the weights of folder `name`, as a host does, and let go of the server."""

    async def work() -> UpdateTimes:
        engine = await attached(server)
        try:
            folder = server.folders[name]
            return await apply_folder(engine, mode, WeightAnnouncement(int(version), str(folder), ()), folder)
        finally:
            await engine.stop()

    return asyncio.run(work())


def in_flight(server: Served, count: int, tokens: int) -> list[Future[Any]]:
    """Responses that have begun under the version EARLIER."""
    assert server.update("base", EARLIER).status == 200
    replies = [server.start([*PROMPT, number + 3], tokens) for number in range(count)]
    server.wait_for(running=count)
    return replies


def finish(reply: Any) -> str:  # noqa: ANN401 - a JSON reply
    return str(reply["meta_info"]["finish_reason"]["type"])


@pytest.mark.parametrize("mode", ["in_place", "retract"])
def test_responses_in_flight_survive_with_the_versions_of_their_tokens(server: Served, mode: str) -> None:
    replies = in_flight(server, 3, LONG)
    times = apply(server, mode, "other")
    assert 0 < times.pause <= times.update
    for reply in (future.result() for future in replies):
        (before, after) = spans(reply)
        assert (before[:2], before[2], after[0], after[2]) == ((EARLIER, 0), after[1], LATER, LONG)
        assert finish(reply) == "length"


def test_aborting_gives_back_the_tokens_so_far_under_the_version_that_made_them(server: Served) -> None:
    replies = in_flight(server, 3, LONG)
    apply(server, "abort", "other")
    for number, reply in enumerate(future.result() for future in replies):
        assert finish(reply) == "abort"
        assert 0 < len(reply["output_ids"]) < LONG
        assert spans(reply) == [(EARLIER, 0, len(reply["output_ids"]))]
        assert gap(server.folders["base"], reply, [*PROMPT, number + 3]).max() < 1e-4


def test_waiting_lets_responses_end_on_the_old_version_alone(server: Served) -> None:
    replies = in_flight(server, 3, 300)
    apply(server, "wait", "other")
    for reply in (future.result() for future in replies):
        assert (spans(reply), finish(reply)) == ([(EARLIER, 0, 300)], "length")


@pytest.mark.parametrize("mode", MODES)
def test_after_an_update_new_requests_are_answered_by_the_new_version(server: Served, mode: str) -> None:
    replies = in_flight(server, 2, 200)
    apply(server, mode, "other")
    reply = server.generate(PROMPT[::-1], 8)
    assert spans(reply) == [(LATER, 0, 8)]
    assert gap(server.folders["other"], reply, PROMPT[::-1]).max() < 1e-4
    for future in replies:
        future.result()


@pytest.mark.parametrize("mode", MODES)
def test_a_failed_update_leaves_the_old_version_and_no_pause(server: Served, mode: str) -> None:
    replies = in_flight(server, 2, 200)
    with pytest.raises(ServerRefused):
        apply(server, mode, "missing")
    reply = server.generate(PROMPT[::-1], 8)
    assert spans(reply) == [(EARLIER, 0, 8)]
    assert gap(server.folders["base"], reply, PROMPT[::-1]).max() < 1e-4
    for each in (future.result() for future in replies):
        assert {span[0] for span in spans(each)} == {EARLIER}
        assert finish(each) == ("abort" if mode == "abort" else "length")


@pytest.mark.parametrize("mode", MODES)
def test_requests_that_come_during_an_update_are_answered(server: Served, mode: str) -> None:
    replies = in_flight(server, 4, 150)
    update = server.pool.submit(apply, server, mode, "other")
    late = [server.start([*PROMPT, 50 + number], 20) for number in range(8)]
    update.result()
    for reply in (future.result() for future in (*replies, *late)):
        assert {span[0] for span in spans(reply)} <= {EARLIER, LATER}
        assert finish(reply) == "length" or mode == "abort"


def test_the_admin_key_is_not_told_to_who_holds_the_api_key(server: Served) -> None:
    for path in ("/server_info", "/get_server_info", "/model_info", "/v1/models", "/v1/loads"):
        answer = server.call(path, key=server.api_key)
        assert answer.status in (200, 404)
        assert server.admin_key not in json.dumps(answer.body)
