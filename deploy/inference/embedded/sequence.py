"""One request's life: what was asked, what has been generated, and how it ended.

A `Sequence` waits, runs (it then owns a row of the table and of the cache), may be retracted to waiting, and ends once.
While it runs, its generated tokens live in the table; `Generated` is the copy taken when it leaves its row.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

IdArray = npt.NDArray[np.int32]
LogprobArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one sequence are drawn and when it stops.

    temperature 0: greedy. top_k < 1: all. stop: strings. stop_ids: token ids that end it, end-of-text ids included.
    seed: the noise is a function of it and of the token's position in the response only.
    """

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    min_new_tokens: int
    stop: tuple[str, ...]
    stop_ids: tuple[int, ...]
    seed: int
    skip_special_tokens: bool = True
    keep_stop: bool = False


@dataclass(frozen=True, slots=True)
class LogprobParams:
    """Which log-probabilities to return. input_start -1: none of the prompt's; top: alternatives a token."""

    wanted: bool = False
    input_start: int = -1
    top: int = 0
    with_text: bool = False


class VersionRange(msgspec.Struct, frozen=True):
    """Tokens `start <= i < end` of the response were generated under weight version `version`."""

    version: str
    start: int
    end: int


class Finish(msgspec.Struct, frozen=True, omit_defaults=True):
    """SGLang's finish_reason: type length (with the length), stop (with what matched) or abort (with a message)."""

    type: str
    length: int | None = None
    matched: int | str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens generated so far. ids int32 [R], logprobs float32 [R], versions int32 [R] (weight version indices)."""

    ids: IdArray
    logprobs: LogprobArray
    versions: IdArray

    @classmethod
    def nothing(cls) -> Generated:
        """An empty response."""
        return cls(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int32))


TopLogprobs = tuple[tuple[float, int], ...]


@dataclass(eq=False, slots=True)
class Sequence:
    """One prompt to continue, int32 [P]. `done` resolves when it has ended, `progress` is set whenever it has grown.

    row: its row while it runs, else -1. computed: how many of its tokens have keys and values in that row.
    is_pure: all of those were computed by the current weights; only then may others reuse them. failure: the defect of
    ours that ended it.
    """

    rid: str
    group_rid: str
    prompt: IdArray
    params: SamplingParams
    logprobs: LogprobParams
    salt: str
    done: asyncio.Future[None]
    progress: asyncio.Event | None = None
    arrived: float = field(default_factory=time.perf_counter)
    ended: float = 0.0
    row: int = -1
    computed: int = 0
    is_pure: bool = True
    cached_tokens: int = -1
    retractions: int = 0
    saved: Generated = field(default_factory=Generated.nothing)
    finish: Finish | None = None
    failure: str = ""
    stop_at: int = -1
    block_hashes: tuple[int, ...] = ()
    input_logprobs: dict[int, float] = field(default_factory=dict)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)

    @property
    def needed(self) -> int:
        """Most tokens that it can come to hold: prompt and response."""
        return len(self.prompt) + self.params.max_new_tokens

    def known_tokens(self) -> IdArray:
        """Prompt and what had been generated when it last left a row, int32 [P + R]."""
        return np.concatenate([self.prompt, self.saved.ids]) if len(self.saved.ids) else self.prompt

    def fail(self, failure: str) -> None:
        """Ends it because of a defect of ours."""
        self.failure = failure
        self.end(Finish("abort", message=failure))

    def end(self, finish: Finish) -> None:
        """Ends it, once; later calls change nothing."""
        if self.finish is None:
            self.finish = finish
            self.ended = time.perf_counter()
            if not self.done.done():
                self.done.set_result(None)
            if self.progress is not None:
                self.progress.set()


def version_ranges(versions: IdArray, labels: Mapping[int, str]) -> tuple[VersionRange, ...]:
    """Run-length form of `versions` int32 [R]; `labels` names each index."""
    if len(versions) == 0:
        return ()
    if versions[0] == versions[-1] and bool((versions == versions[0]).all()):
        return (VersionRange(labels[int(versions[0])], 0, len(versions)),)
    cuts = [0, *(np.flatnonzero(np.diff(versions)) + 1).tolist(), len(versions)]
    return tuple(VersionRange(labels[int(versions[a])], a, b) for a, b in itertools.pairwise(cuts))
