"""The engine: what the server's routes call, and the loop that steps.

`run` is the only caller of `Scheduler.step`; every other method runs between two steps on the same event loop, so none
of them needs a lock. A pause stops the loop; a weight update without a pause first lets what is in flight finish, while
newer requests are deferred. Stepping in a thread of its own was measured as well: at 128 small requests in flight it
cost the same CPU time a request (0.8 to 0.9 ms, HTTP included), so the loop steps inline and needs no handover.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import itertools
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import BadInput
from lamer.deploy.inference.embedded.model import PackedModel
from lamer.deploy.inference.embedded.scheduler import Scheduler
from lamer.deploy.inference.embedded.sequence import Sequence
from lamer.deploy.inference.embedded.text import TextCodec

_LOOP_TURNS = 3


class PauseMode(enum.StrEnum):
    """What a pause does to requests in flight: ends them, holds them with their cache, or holds them without it."""

    ABORT = "abort"
    IN_PLACE = "in_place"
    RETRACT = "retract"


@dataclass(frozen=True)
class EngineOptions:
    """model_path: a transformers folder. max_total_tokens: of all rows of the cache together."""

    model_path: Path
    dtype: str = "float32"
    max_running: int = 128
    max_total_tokens: int = 65536
    weight_version: str = "default"


MOST_WAITING = 65_536
"""Sequences."""
MOST_WAITING_TOKENS = 64 * 1024 * 1024
"""Of their prompts; each takes four bytes."""


class DuplicateRequest(ValueError):
    """A request id that is still in flight."""


class Overloaded(RuntimeError):
    """So much waits already that nothing more is taken; it may be later."""


class Engine:
    """Requests in, finished sequences out. Made on any thread, then used by one event loop only."""

    def __init__(self, options: EngineOptions) -> None:
        """Loads the model. Raises BadInput when the folder or its architecture can't be served."""
        self.options = options
        self.model = PackedModel(options.model_path, options.dtype, options.max_running, options.max_total_tokens)
        self.text = TextCodec(options.model_path, self.model.vocabulary)
        self.scheduler = Scheduler(self.model, self.text, options.max_running, options.weight_version)
        self.pause_mode: PauseMode | None = None
        self._deferred: list[Sequence] = []
        self._is_draining = False
        self._live: dict[str, Sequence] = {}
        self._work = asyncio.Event()
        self._settled = asyncio.Event()
        self._updating = asyncio.Lock()

    # -- what is going on -------------------------------------------------------------------------------------------
    @property
    def weight_version(self) -> str:
        """The label of the present weights."""
        return self.scheduler.labels[self.scheduler.version]

    @property
    def running_count(self) -> int:
        """Sequences that hold a row."""
        return len(self.scheduler.cache.running)

    @property
    def waiting_count(self) -> int:
        """Sequences that wait for one."""
        return len(self.scheduler.waiting) + len(self._deferred)

    def _is_too_much(self, more: Many[Sequence]) -> bool:
        """Whether `more` would make too much wait."""
        count = self.waiting_count + len(more)
        if count * self.model.context <= MOST_WAITING_TOKENS:  # however long they are
            return count > MOST_WAITING
        waiting = itertools.chain(self.scheduler.waiting, self._deferred, more)
        return count > MOST_WAITING or sum(len(sequence.prompt) for sequence in waiting) > MOST_WAITING_TOKENS

    # -- requests ---------------------------------------------------------------------------------------------------
    def submit(self, sequences: Many[Sequence]) -> None:
        """Queues `sequences`. Raises DuplicateRequest when an id is in flight, Overloaded when too much waits; none is
        queued then.
        """
        if self._is_too_much(sequences):
            raise Overloaded(f"{self.waiting_count} requests wait already: nothing more is taken at present")
        names = [sequence.rid for sequence in sequences]
        taken = sorted(name for name in names if name in self._live)
        if taken or len(set(names)) < len(names):
            raise DuplicateRequest(f"duplicate request id {(taken or names)[0]!r}")
        for sequence in sequences:
            self._live[sequence.rid] = sequence
            sequence.done.add_done_callback(functools.partial(self._forget_live, sequence.rid))
            if self._is_draining:
                self._deferred.append(sequence)
            else:
                self.scheduler.add(sequence)
        self._work.set()

    def _forget_live(self, rid: str, _: asyncio.Future[None]) -> None:
        self._live.pop(rid, None)

    def abort(self, sequences: Many[Sequence], message: str) -> None:
        """Ends `sequences` at once; those that have ended already are left alone."""
        self.scheduler.abort(sequences, message)
        self._deferred = [sequence for sequence in self._deferred if sequence.finish is None]
        self._note_settled()

    def abort_request(self, rid: str) -> int:
        """Ends the request `rid`, or every sequence of the batch of that name; returns how many."""
        chosen = [sequence for sequence in self._live.values() if rid in (sequence.rid, sequence.group_rid)]
        self.abort(chosen, "aborted by request")
        return len(chosen)

    def abort_all(self, message: str = "aborted by request") -> int:
        """Ends everything in flight; returns how many."""
        chosen = [*self._live.values()]
        self.abort(chosen, message)
        return len(chosen)

    # -- pause and weights ------------------------------------------------------------------------------------------
    def pause(self, mode: PauseMode) -> None:
        """Stops stepping; new requests wait until `resume`."""
        self.pause_mode = mode
        if mode is PauseMode.ABORT:
            self.abort_all("generation was paused")
        elif mode is PauseMode.RETRACT:
            self.scheduler.retract_all()
        self._settled.set()

    def resume(self) -> None:
        """Steps again."""
        self.pause_mode = None
        self._work.set()

    def flush_cache(self) -> bool:
        """Forgets every known prefix; False, with nothing done, while sequences hold rows."""
        if self.running_count:
            return False
        self.scheduler.cache.forget()
        return True

    def set_weight_version(self, label: str) -> None:
        """Renames the present weights for the tokens to come."""
        self.scheduler.set_version(label)

    async def update_weights(
        self, folder: Path, label: str | None = None, abort_all: bool = False, keep_pause: bool = False
    ) -> None:
        """Loads `folder`'s weights in place and, when `label` is given, renames them.

        Paused: at once. Otherwise requests in flight finish first (or are aborted), newer ones wait; `keep_pause` then
        leaves the engine paused. Raises BadInput with weights and label unchanged when the folder can't be loaded.
        """
        async with self._updating:
            if abort_all:
                self.abort_all("aborted by a weight update")
            self._is_draining = self.pause_mode is None
            try:
                await self._drain()
                self.model.load_weights(folder)
                self.scheduler.weights_changed()
                if label is not None:
                    self.set_weight_version(label)
                if keep_pause and self.pause_mode is None:
                    self.pause_mode = PauseMode.IN_PLACE
            finally:
                self._release_deferred()

    async def _drain(self) -> None:
        while self.scheduler.has_work and self.pause_mode is None:
            self._settled.clear()
            await self._settled.wait()

    def _release_deferred(self) -> None:
        self._is_draining = False
        deferred, self._deferred = self._deferred, []
        for sequence in deferred:
            self.scheduler.add(sequence)
        self._work.set()

    # -- the loop ---------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Steps while there is work and no pause, until cancelled; an error of a step ends it."""
        while True:
            if self.pause_mode is not None or not self.scheduler.has_work:
                self._work.clear()
                await self._work.wait()
                continue
            self.scheduler.step()
            self._note_settled()
            for _ in range(_LOOP_TURNS):
                await asyncio.sleep(0)

    def _note_settled(self) -> None:
        if not self.scheduler.has_work:
            self._settled.set()

    def check_prompt(self, length: int, max_new_tokens: int) -> None:
        """Raises BadInput when a prompt of `length` tokens and its response can't fit, running or alone."""
        context, total = self.model.context, self.options.max_total_tokens
        if length >= context:
            raise BadInput(f"The input ({length} tokens) is longer than the model's context length ({context} tokens).")
        if length + max_new_tokens > context:
            raise BadInput(
                f"{length} input tokens and max_new_tokens {max_new_tokens} exceed the model's context length "
                f"({context} tokens)."
            )
        if length + max_new_tokens > total:
            raise BadInput(
                f"{length} input tokens and max_new_tokens {max_new_tokens} exceed the server's "
                f"max_total_tokens ({total})."
            )
