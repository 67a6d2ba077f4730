"""Continuous batching: which sequences run, what the next step computes, and what its tokens finish.

Waiting sequences are admitted in order of arrival, each when a row is free and long enough for its prompt and its
longest response, so that a running sequence never lacks room. A sequence whose prompt shares a block or more with a
prompt being computed waits for it and takes the shared part from there.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from lamer.common.text import describe_error
from lamer.deploy.inference.embedded.attention import Chunk
from lamer.deploy.inference.embedded.model import PackedModel, StepInput
from lamer.deploy.inference.embedded.prefix import BLOCK, hash_blocks
from lamer.deploy.inference.embedded.sampling import Sampled, sample
from lamer.deploy.inference.embedded.sequence import Finish, IdArray, Sequence
from lamer.deploy.inference.embedded.table import RowArray, RunningTable
from lamer.deploy.inference.embedded.text import TextCodec

log = logging.getLogger("lamer.engine")

PREFILL_TOKENS = 2048
_SPARE = 1.25


@dataclass(frozen=True)
class Step:
    """One step: the forward's input, the rows that get a token [S], the sequences whose prompt is then computed, and
    those whose prompt log-probabilities are wanted: (sequence, prompt positions), in the order of `input.wanted`.
    """

    input: StepInput
    sampled_rows: RowArray
    completed: list[Sequence]
    prompt_logits: list[tuple[Sequence, RowArray]]


class Scheduler:
    """Owns the waiting queue and the table; drives the model. Every method is for the event loop's thread."""

    def __init__(self, model: PackedModel, text: TextCodec, max_running: int, version: str) -> None:
        self.model = model
        self.cache = model.cache
        self.text = text
        self.max_running = max_running
        self.longest = min(model.context, model.cache.max_tokens)
        self.table = RunningTable(max_running, self.longest)
        self.waiting: deque[Sequence] = deque()
        self.prefilling: list[Sequence] = []
        self.labels: dict[int, str] = {0: version}
        self.version = 0

    # -- state ------------------------------------------------------------------------------------------------------
    @property
    def has_work(self) -> bool:
        """Whether a sequence runs or waits."""
        return bool(self.waiting or self.cache.running)

    def running(self) -> list[Sequence]:
        """The sequences that hold a row."""
        return [sequence for sequence in self.table.sequences if sequence is not None]

    def set_version(self, label: str) -> None:
        """Tokens sampled from here on carry `label`."""
        known = {name: index for index, name in self.labels.items()}
        self.version = known.get(label, len(self.labels))
        self.labels[self.version] = label

    def add(self, sequence: Sequence) -> None:
        """Puts a new sequence at the end of the queue."""
        sequence.block_hashes = hash_blocks(sequence.prompt, sequence.salt)
        self.waiting.append(sequence)

    def abort(self, sequences: Iterable[Sequence], message: str) -> None:
        """Ends those of `sequences` that wait or run; they keep the tokens that they have."""
        gone = [sequence for sequence in sequences if sequence.finish is None]
        for sequence in gone:
            if sequence.row >= 0:
                self._release(sequence, is_finished=False)
            sequence.end(Finish("abort", message=message))
        if gone:
            self.waiting = deque(sequence for sequence in self.waiting if sequence.finish is None)

    def retract_all(self) -> None:
        """Sends every running sequence back to the head of the queue, to be computed anew from all its tokens."""
        running = sorted(self.running(), key=lambda sequence: sequence.arrived)
        for sequence in running:
            self._release(sequence, is_finished=False)
            sequence.retractions += 1
            sequence.computed = 0
            sequence.is_pure = True
            sequence.block_hashes = hash_blocks(sequence.known_tokens(), sequence.salt)
        self.waiting.extendleft(reversed(running))

    def weights_changed(self) -> None:
        """What running rows hold was computed by older weights: it stays theirs and is never offered to others."""
        for sequence in self.running():
            sequence.is_pure = False

    # -- one step ---------------------------------------------------------------------------------------------------
    def step(self) -> None:
        """Admits what fits, computes one step and ends what it finishes."""
        with torch.inference_mode():
            planned = self.plan()
            if planned is not None:
                self.apply(planned, self.model.forward(planned.input))

    def plan(self) -> Step | None:
        """The next step, or None when nothing can be computed."""
        self._admit()
        rows = self.table.decoding_rows()
        places = self.table.length[rows] - 1
        ids, flat_rows, positions = [self.table.tokens[rows, places]], [rows], [places]
        chunks: list[Chunk] = []
        completed: list[Sequence] = []
        wanted = [np.arange(len(rows))]
        prompt_logits: list[tuple[Sequence, RowArray]] = []
        extra: list[RowArray] = []
        first, left = len(rows), PREFILL_TOKENS
        for sequence in self.prefilling:
            start, length = sequence.computed, int(self.table.length[sequence.row])
            end = min(length, start + left)
            if end == start or (end < length and chunks and length - start <= PREFILL_TOKENS):
                break  # a prompt is only cut where it is longer than a whole step's share
            chunks.append(Chunk(sequence.row, start, end))
            ids.append(self.table.tokens[sequence.row, start:end])
            flat_rows.append(np.full(end - start, sequence.row))
            positions.append(np.arange(start, end))
            if end == length:
                completed.append(sequence)
                if sequence.params.max_new_tokens > 0:
                    wanted.append(np.array([first + end - start - 1]))
            if sequence.logprobs.input_start >= 0:
                inputs = np.arange(max(start, sequence.logprobs.input_start), min(end, len(sequence.prompt) - 1))
                prompt_logits.append((sequence, inputs))
                extra.append(first + inputs - start)
            first, left = first + end - start, left - (end - start)
        if first == 0:
            return None
        sampled = [rows, np.array([s.row for s in completed if s.params.max_new_tokens > 0], np.int64)]
        return Step(
            input=StepInput(
                ids=np.concatenate(ids).astype(np.int64),
                rows=np.concatenate(flat_rows),
                positions=np.concatenate(positions),
                decode_count=len(rows),
                chunks=chunks,
                wanted=np.concatenate(wanted + extra),
            ),
            sampled_rows=np.concatenate(sampled),
            completed=completed,
            prompt_logits=prompt_logits,
        )

    def apply(self, step: Step, logits: torch.Tensor) -> None:
        """Takes the logits [S, V] of a step: samples, advances every sequence of it, ends the finished."""
        count = len(step.sampled_rows)
        if step.prompt_logits:
            self._keep_prompt_logprobs(step, logits[count:])
        for chunk in step.input.chunks:
            sequence = self.table.sequences[chunk.row]
            assert sequence is not None
            sequence.computed = chunk.end
        for sequence in step.completed:
            self._prompt_computed(sequence)
        if count == 0:
            return
        rows = step.sampled_rows
        sampled = sample(logits[:count], self.table, rows)
        is_stop, is_long = self.table.append(rows, sampled.ids, sampled.logprobs, self.version)
        ended = is_stop | is_long
        for index in np.flatnonzero(ended | self.table.has_watch[rows]).tolist():
            self._advance(int(rows[index]), index, sampled, bool(is_stop[index]), bool(is_long[index]))

    def _advance(self, row: int, index: int, sampled: Sampled, is_stop: bool, is_long: bool) -> None:
        """Ends the sequence in `row` if its new token does, and tells whoever follows it token by token."""
        sequence = self.table.sequences[row]
        assert sequence is not None
        if sequence.logprobs.top > 0:
            sequence.top_logprobs.append(sampled.top(index, sequence.logprobs.top))
        token = int(sampled.ids[index])
        matched = self._match_string(sequence, row, token)
        if is_stop:
            self._finish(sequence, Finish("stop", matched=token))
        elif matched is not None:
            self._finish(sequence, Finish("stop", matched=matched))
        elif is_long:
            self._finish(sequence, Finish("length", length=sequence.params.max_new_tokens))
        elif sequence.progress is not None:
            sequence.progress.set()

    def _match_string(self, sequence: Sequence, row: int, token: int) -> str | None:
        if not sequence.params.stop:
            return None
        watch = self.text.watch(sequence.params.stop)
        start, end = int(self.table.prompt_length[row]), int(self.table.length[row])
        if not watch.may_complete[token] or end - start < sequence.params.min_new_tokens:
            return None
        return self.text.find_stop(watch, self.table.tokens[row, max(start, end - watch.tail) : end])

    def _keep_prompt_logprobs(self, step: Step, logits: torch.Tensor) -> None:
        """Log-probability of each following prompt token, at the sampling temperature."""
        offset = 0
        for sequence, positions in step.prompt_logits:
            part = logits[offset : offset + len(positions)].float()
            offset += len(positions)
            following = torch.from_numpy(sequence.prompt[positions + 1].astype(np.int64))
            full = torch.log_softmax(part / float(self.table.temperature[sequence.row]), -1)
            values = full.gather(1, following[:, None]).squeeze(1).tolist()
            sequence.input_logprobs.update(zip((positions + 1).tolist(), values, strict=True))

    def _prompt_computed(self, sequence: Sequence) -> None:
        self.prefilling.remove(sequence)
        if sequence.is_pure and sequence.block_hashes:
            tokens = self.table.tokens[sequence.row, : sequence.computed].copy()
            self.cache.index.offer(sequence.row, tokens, sequence.block_hashes)
        if sequence.params.max_new_tokens == 0:
            self._finish(sequence, Finish("length", length=0))
        else:
            self.table.decoding[sequence.row] = True

    # -- rows -------------------------------------------------------------------------------------------------------
    def _finish(self, sequence: Sequence, finish: Finish) -> None:
        if isinstance(finish.matched, str):
            sequence.stop_at = int(self.table.length[sequence.row])
        self._release(sequence, is_finished=True)
        sequence.end(finish)

    def _release(self, sequence: Sequence, is_finished: bool) -> None:
        """Takes the sequence's row. What it computed is remembered when it finished under one version of weights."""
        row = sequence.row
        if sequence in self.prefilling:
            self.prefilling.remove(sequence)
        computed = int(self.table.length[row]) - 1
        remembered = self.table.tokens[row, :computed].copy() if is_finished and sequence.is_pure else None
        hashes = () if remembered is None else hash_blocks(remembered, sequence.salt)
        self.table.leave(row)
        self.cache.leave_row(row, remembered, hashes)

    def _admit(self) -> None:
        """Gives rows to waiting sequences, in order, until rows or this step's share of prompt tokens run out."""
        budget = PREFILL_TOKENS - sum(int(self.table.length[s.row]) - s.computed for s in self.prefilling)
        pending = {block for sequence in self.prefilling for block in sequence.block_hashes}
        postponed: list[Sequence] = []
        while self.waiting and budget > 0 and self._make_fit(self.waiting[0]):
            sequence = self.waiting.popleft()
            if self._waits_for_prefix(sequence, pending):
                postponed.append(sequence)
                continue
            tokens = sequence.known_tokens()
            most_reused = len(tokens) - 1
            if sequence.logprobs.input_start >= 0:
                most_reused = min(most_reused, sequence.logprobs.input_start)
            if not self._enter(sequence, tokens, most_reused):
                continue
            sequence.cached_tokens = max(sequence.cached_tokens, sequence.computed if not sequence.retractions else 0)
            self.prefilling.append(sequence)
            pending.update(sequence.block_hashes)
            budget -= len(tokens) - sequence.computed
        self.waiting.extendleft(reversed(postponed))

    def _enter(self, sequence: Sequence, tokens: IdArray, most_reused: int) -> bool:
        """Give a sequence its row; False if it can't be entered, which ends it alone."""
        row = -1
        try:
            row, sequence.computed = self.cache.take_row(tokens, sequence.block_hashes, most_reused)
            self.table.enter(row, sequence)
        except Exception as error:
            log.exception("request %s can't be entered and is ended", sequence.rid)
            if row >= 0:
                self.table.forget(row)
                self.cache.leave_row(row, None, ())
            sequence.row = -1
            sequence.fail(f"a defect of the engine: {describe_error(error)}")
            return False
        return True

    def _waits_for_prefix(self, sequence: Sequence, pending: set[int]) -> bool:
        """Whether a prompt that is being computed shares a block more with `sequence` than the cache has."""
        hashes = sequence.block_hashes
        depth = next((i + 1 for i in range(len(hashes) - 1, -1, -1) if hashes[i] in pending), 0)
        if depth == 0 or sequence.logprobs.input_start >= 0:
            return False
        _, known = self.cache.index.find(sequence.known_tokens(), hashes)
        return depth * BLOCK >= known + BLOCK

    def _make_fit(self, sequence: Sequence) -> bool:
        """Whether a row is free for `sequence`, after giving the cache another shape where that makes one."""
        cache, needed = self.cache, sequence.needed
        if len(cache.running) >= self.max_running:
            return False
        if needed > cache.capacity:
            return self._reshape(max(needed, min(int(cache.capacity * _SPARE), self.longest))) or self._reshape(needed)
        if len(cache.running) < cache.most_running:
            return True
        longest = max([needed, *(running.needed for running in self.running())])
        return longest * 2 <= cache.capacity and self._reshape(longest)

    def _reshape(self, capacity: int) -> bool:
        if not self.cache.can_reshape(capacity):
            return False
        self.cache.reshape(capacity)
        return len(self.cache.running) < self.cache.most_running
