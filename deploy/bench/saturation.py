"""A server kept saturated: as many streams as it runs sequences, each sending its next long request at once.

    make_work   how long each response is to be; the same list for every round of a benchmark
    Clock       which policy version the server holds, as whoever updates it notes
    saturate    plays the work once, and says what came back and how long it took

Work is fixed rather than time: two rounds of the same work differ only in what happened to the server meanwhile, and
no response is cut off at the end of a window. The shortest responses come last, so that all streams end about together.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.inference import InferenceClient, RoutedPolicy
from actors.policy import Request, RequestKind
from actors.routing import Router
from common.records import Completion, FinishReason

PROMPT_TOKENS = 32


@dataclass(slots=True)
class Clock:
    """Policy versions by what the server was told.

    resumed: the newest that it generates with. loading: the newest that it was told to load.
    """

    resumed: int = 0
    loading: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """A response, the time from sending to arrival (`time.monotonic`), and the versions it may contain.

    asked: its length as asked for. first_version: resumed when it was sent. last_version: being loaded, or loaded, when
    it arrived.
    """

    completion: Completion
    asked: int
    sent: float
    arrived: float
    first_version: int
    last_version: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing from it."""
        return len(self.completion.ids) == self.asked or self.completion.finish_reason is FinishReason.STOP

    @property
    def has_right_spans(self) -> bool:
        """Whether its versions rise over its tokens, and the server held each of them. (A `Completion` has no gaps.)"""
        versions = [span.version for span in self.completion.versions]
        is_rising = all(low < high for low, high in itertools.pairwise(versions))
        return is_rising and self.first_version <= versions[0] and versions[-1] <= self.last_version

    @property
    def crosses_update(self) -> bool:
        """Whether more than one version generated it."""
        return len(self.completion.versions) > 1


@dataclass(frozen=True, slots=True)
class Round:
    """The work, played once: every response, and the wall clock from the first request to the last response."""

    answers: tuple[Answered, ...]
    seconds: float

    @property
    def tokens(self) -> int:
        """Response tokens."""
        return sum(len(answer.completion.ids) for answer in self.answers)


def make_work(streams: int, responses: int, tokens: int, seed: int) -> tuple[int, ...]:
    """Lengths of `responses` responses, uniform from tokens / 2 to 3/2 tokens: random order, the shortest last."""
    drawn = np.random.default_rng(seed).integers(max(1, tokens // 2), tokens + tokens // 2 + 1, responses).tolist()
    shortest = sorted(range(responses), key=drawn.__getitem__)[:streams]
    early = [length for index, length in enumerate(drawn) if index not in shortest]
    return (*early, *sorted((drawn[index] for index in shortest), reverse=True))


async def saturate(
    client: InferenceClient, router: Router, clock: Clock, work: Sequence[int], streams: int, vocabulary: int
) -> Round:
    """Play `work` in `streams` streams against the server that the router knows.

    Raises:
        InferenceError: a request had no usable answer after its retries.
    """
    waiting = deque(enumerate(work))
    answers: list[Answered] = []

    async def play_stream() -> None:
        policy = RoutedPolicy(client, router)
        while waiting:
            number, length = waiting.popleft()
            first, sent = clock.resumed, time.monotonic()
            completion = await policy.complete(_make_request(number, length, vocabulary))
            answers.append(Answered(completion, length, sent, time.monotonic(), first, clock.loading))

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(play_stream())
    return Round(tuple(answers), time.monotonic() - began)


def _make_request(number: int, length: int, vocabulary: int) -> Request:
    """A prompt of its own for every response, so that no prefix is shared."""
    ids = np.random.default_rng(number).integers(0, vocabulary, PROMPT_TOKENS, dtype=np.int32)
    return Request(ids, length, (), 1.0, 1.0, 0, seed=number, kind=RequestKind.PLAY)
