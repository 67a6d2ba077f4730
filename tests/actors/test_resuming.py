"""Aborted responses go on from their partial tokens, and end as if nobody had interrupted them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lamer.actors import inference
from lamer.actors.generation import GenerateBody
from lamer.actors.inference import InferenceClient, InferenceOptions, RoutedPolicy
from lamer.actors.policy import InferenceError, Request, RequestKind, retry_seed
from lamer.actors.resuming import Endings
from lamer.actors.routing import Router
from lamer.common.records import Completion, FinishReason, VersionSpan
from tests.actors.parts import byte_tokenizer, encode
from tests.actors.sglang_server import refusing, saying, serving

TOKENIZER = byte_tokenizer()
END = TOKENIZER.token_to_id("<|end|>")
VOCABULARY = 264
ENDINGS = Endings(lambda ids: TOKENIZER.decode(ids.tolist(), skip_special_tokens=False), frozenset({END}))
OPTIONS = InferenceOptions(request_seconds=5.0, retries=3, backoff_seconds=0.001)
PROMPT = [3, 4, 5]


@dataclass
class Cut:
    """Where a piece is aborted. is_looked_at: whether the server saw if the last token ends the response."""

    after: int
    version: int
    is_looked_at: bool


@dataclass
class Interrupted:
    """A policy that always says `stream`, behind a server that is told where to abort."""

    stream: Sequence[int]
    cuts: list[Cut] = field(default_factory=list)
    version: int = 9

    def answer(self, body: GenerateBody) -> web.Response:
        done = len(body.input_ids) - len(PROMPT)
        assert body.input_ids == [*PROMPT, *self.stream[:done]]
        cut = self.cuts.pop(0) if self.cuts else None
        ids: list[int] = []
        finish = ""
        while not finish:
            ids.append(self.stream[done + len(ids)])
            is_cut = cut is not None and len(ids) == cut.after
            finish = "" if is_cut and cut is not None and not cut.is_looked_at else self._finish(body, ids)
            finish = finish or ("abort" if is_cut else "")
        version = str(self.version if cut is None else cut.version)
        meta = {
            "finish_reason": {"type": finish},
            "cached_tokens": done,
            "weight_version": version,
            "weight_versions": [{"version": version, "start": 0, "end": len(ids)}],
            "output_token_logprobs": [[-0.01 * (done + place), token, None] for place, token in enumerate(ids)],
        }
        return web.json_response({"text": "", "output_ids": ids, "meta_info": meta})

    @staticmethod
    def _finish(body: GenerateBody, ids: list[int]) -> str:
        params = body.sampling_params
        if any(stop in TOKENIZER.decode(ids, skip_special_tokens=False) for stop in params.stop) or ids[-1] == END:
            return "stop"
        return "length" if len(ids) == params.max_new_tokens else ""


def request(max_tokens: int, stop: tuple[str, ...]) -> Request:
    return Request(np.array(PROMPT, dtype=np.int32), max_tokens, stop, 1.0, 1.0, 0, 7, RequestKind.PLAY)


async def complete(policy: Interrupted, asked: Request) -> Completion:
    async with serving(policy.answer) as server, InferenceClient(OPTIONS, VOCABULARY) as client:
        router = Router()
        router.replace([server.info()])
        return await RoutedPolicy(client, router, ENDINGS).complete(asked)


def tokens(text: str) -> list[int]:
    return encode(text).tolist()


LETTERS = sorted({*tokens("ab</action>é <action>"), END})
STREAMS = st.lists(st.sampled_from(LETTERS), min_size=24, max_size=24)
CUTS = st.lists(st.builds(Cut, st.integers(1, 5), st.integers(0, 2), st.booleans()), max_size=6)
STOPS = st.sampled_from([(), ("ab",), ("</a", "ba"), ("é",), ("a b a", "<|end|>")])


@given(STREAMS, CUTS, STOPS, st.integers(1, 24))
@example(tokens("xxabxx") * 4, [Cut(3, 0, is_looked_at=True)], ("ab",), 24)
@example(tokens("xxabxx") * 4, [Cut(4, 0, is_looked_at=False)], ("ab",), 24)
@example(tokens("x") + [END] + tokens("x") * 22, [Cut(2, 0, is_looked_at=False)], (), 24)
@example(tokens("x") * 24, [Cut(5, 0, is_looked_at=False)], (), 5)
@settings(max_examples=150, deadline=None)
def test_a_response_in_pieces_equals_one_that_nobody_interrupted(
    stream: list[int], cuts: list[Cut], stop: tuple[str, ...], max_tokens: int
) -> None:
    asked = request(max_tokens, stop)
    whole = asyncio.run(complete(Interrupted(stream), asked))
    pieces = asyncio.run(complete(Interrupted(stream, list(cuts)), asked))
    assert pieces.ids.tolist() == whole.ids.tolist()
    assert pieces.finish_reason is whole.finish_reason
    assert pieces.behaviour_logprobs.tolist() == pytest.approx(whole.behaviour_logprobs.tolist())
    assert pieces.prompt_ids.tolist() == PROMPT
    assert pieces.cached_tokens == whole.cached_tokens
    of_token = [version for cut in cuts for version in [cut.version] * cut.after] + [9] * len(stream)
    spans = [span.version for span in pieces.versions for _ in range(span.start, span.end)]
    assert spans == of_token[: len(whole.ids)]
    assert all(one.version != two.version for one, two in zip(pieces.versions, pieces.versions[1:], strict=False))


async def test_every_piece_has_its_own_seed() -> None:
    policy = Interrupted(tokens("abcdefgh"), [Cut(2, 0, True), Cut(3, 0, True)])
    async with serving(policy.answer) as server, InferenceClient(OPTIONS, VOCABULARY) as client:
        router = Router()
        router.replace([server.info()])
        await RoutedPolicy(client, router, ENDINGS).complete(request(8, ()))
    seeds = [body.sampling_params.sampling_seed for body in server.bodies]
    assert seeds == [retry_seed(7, retry) for retry in range(3)]
    assert [body.sampling_params.max_new_tokens for body in server.bodies] == [8, 6, 3]


async def test_a_failure_between_two_pieces_keeps_the_first() -> None:
    policy = Interrupted(tokens("abcdefgh"), [Cut(2, 3, True)])
    async with serving(policy.answer) as server, InferenceClient(OPTIONS, VOCABULARY) as client:
        server.script.extend([policy.answer, refusing(503, "paused")])
        router = Router(set_aside_seconds=0.001)
        router.replace([server.info()])
        completion = await RoutedPolicy(client, router, ENDINGS).complete(request(8, ()))
    assert completion.ids.tolist() == tokens("abcdefgh")
    assert completion.versions == (VersionSpan(3, 0, 2), VersionSpan(9, 2, 8))
    assert completion.finish_reason is FinishReason.LENGTH
    assert len(server.bodies) == 3


async def test_a_server_that_aborts_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MOST_RESUMPTIONS", 3)
    async with serving(saying("x", finish="abort")) as server, InferenceClient(OPTIONS, VOCABULARY) as client:
        router = Router()
        router.replace([server.info()])
        with pytest.raises(InferenceError, match="aborted 4 times"):
            await RoutedPolicy(client, router, ENDINGS).complete(request(16, ()))
    assert len(server.bodies) == 4
