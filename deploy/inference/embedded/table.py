"""The running sequences as arrays: one row each, the same row as in the cache.

A step reads and writes these arrays for all its rows at once, so that the work in Python is per step and not per token.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lamer.deploy.inference.embedded.sequence import Generated, IdArray, LogprobArray, Sequence

RowArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
_GREEDY_TEMPERATURE = 1.0


class RunningTable:
    """Arrays over `rows` rows and up to `context` tokens.

    tokens int32 [rows, context]: prompt and response; length: how many are known (the last one not yet computed);
    logprobs, versions [rows, context]: of response tokens, at their place among `tokens`.
    decoding: the prompt is computed, so the row takes one token a step.
    """

    def __init__(self, rows: int, context: int) -> None:
        self.tokens = np.zeros((rows, context), np.int32)
        self.logprobs = np.zeros((rows, context), np.float32)
        self.versions = np.zeros((rows, context), np.int32)
        self.length = np.zeros(rows, np.int64)
        self.prompt_length = np.zeros(rows, np.int64)
        self.longest = np.zeros(rows, np.int64)
        self.min_new = np.zeros(rows, np.int64)
        self.decoding = np.zeros(rows, np.bool_)
        self.temperature = np.ones(rows, np.float32)
        self.is_greedy = np.zeros(rows, np.bool_)
        self.top_p = np.ones(rows, np.float32)
        self.top_k = np.zeros(rows, np.int64)
        self.seed = np.zeros(rows, np.uint64)
        self.stop_ids = np.full((rows, 4), -1, np.int32)
        self.has_watch = np.zeros(rows, np.bool_)
        self.sequences: list[Sequence | None] = [None] * rows

    def enter(self, row: int, sequence: Sequence) -> None:
        """`sequence` takes `row`, with its prompt and what it had generated before a retraction."""
        params, known = sequence.params, sequence.known_tokens()
        start, end = len(sequence.prompt), len(known)
        self.tokens[row, :end] = known
        self.logprobs[row, start:end] = sequence.saved.logprobs
        self.versions[row, start:end] = sequence.saved.versions
        self.length[row], self.prompt_length[row] = end, start
        self.longest[row], self.min_new[row] = sequence.needed, params.min_new_tokens
        self.decoding[row] = False
        self.is_greedy[row] = params.temperature == 0.0
        self.temperature[row] = params.temperature or _GREEDY_TEMPERATURE
        self.top_p[row], self.top_k[row], self.seed[row] = params.top_p, max(params.top_k, 0), params.seed
        self._set_stop_ids(row, params.stop_ids)
        self.has_watch[row] = bool(params.stop) or sequence.logprobs.top > 0 or sequence.progress is not None
        self.sequences[row] = sequence
        sequence.row = row

    def _set_stop_ids(self, row: int, stop_ids: tuple[int, ...]) -> None:
        if len(stop_ids) > self.stop_ids.shape[1]:
            wider = np.full((len(self.stop_ids), len(stop_ids)), -1, np.int32)
            wider[:, : self.stop_ids.shape[1]] = self.stop_ids
            self.stop_ids = wider
        self.stop_ids[row] = -1
        self.stop_ids[row, : len(stop_ids)] = stop_ids

    def leave(self, row: int) -> None:
        """The row's sequence keeps a copy of what it generated, and the row is empty."""
        sequence = self.sequences[row]
        if sequence is not None:
            sequence.saved = self.generated(row)
            sequence.row = -1
        self.forget(row)

    def forget(self, row: int) -> None:
        """The row is empty, whatever was in it."""
        self.sequences[row] = None
        self.decoding[row] = self.has_watch[row] = False

    def generated(self, row: int) -> Generated:
        """A copy of the row's response so far."""
        part = slice(int(self.prompt_length[row]), int(self.length[row]))
        return Generated(
            self.tokens[row, part].copy(), self.logprobs[row, part].copy(), self.versions[row, part].copy()
        )

    def append(self, rows: RowArray, ids: IdArray, logprobs: LogprobArray, version: int) -> tuple[BoolArray, BoolArray]:
        """Adds one token to each of `rows` int64 [S]; returns which hit a stop id and which their length limit, [S]."""
        place = self.length[rows]
        self.tokens[rows, place] = ids
        self.logprobs[rows, place] = logprobs
        self.versions[rows, place] = version
        self.length[rows] = place + 1
        is_stop = (self.stop_ids[rows] == ids[:, None]).any(1)
        return is_stop, place + 1 >= self.longest[rows]

    def decoding_rows(self) -> RowArray:
        """Rows that take one token in the next step, ascending."""
        return np.flatnonzero(self.decoding)
