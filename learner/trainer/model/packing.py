"""Samples -> packs: flat runs of tokens in which a shared prefix stands once. numpy only.

A response's logprobs depend on nothing but the tokens before them, so two samples that begin alike (the same prompt,
or two prompts with the same rules and history) can share every position up to the first difference. Samples are
sorted by their tokens; what a sample shares with the one before it in that order is the longest prefix it shares with
any earlier one:

    a b c d          flat tokens   a b c d | x | y z          segment 1: start 0, path 0 1 2 3
    a b x                                                     segment 2: start 2, path 0 1 4
    a b x y z                                                 segment 3: start 3, path 0 1 4 5 6

A segment holds the tokens that a sample adds. Its path names the flat position of each of the sample's tokens, so that
attention is causal along paths (`learner.trainer.model.attention`). The last token of a response predicts nothing and
is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lamer.common.errors import BadInput
from lamer.learner.credit.samples import Sample

Indices = npt.NDArray[np.int64]

ATTENDED_PER_TOKEN = 8
"""Most attended positions, summed over segments, for each token that a pack may hold: bounds what attention gathers."""

TOKENS_PER_ATTENTION = 12_288
"""Pairs of tokens that attend to each other and take the time of one token in all the rest of a layer, about: 6 times
the hidden size, here of 2,048 (12 h^2 + 2 h n operations of a layer's products and of attention, n attended)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens that one sample adds to a pack.

    start: position of the first of them in its sequence. path: flat index of every token of the sequence, int64 [L];
    the segment's own are path[start:], consecutive.
    """

    start: int
    path: Indices


@dataclass(frozen=True, slots=True)
class TokenData:
    """What the loss needs of response tokens, one entry a token, all [N].

    behaviour: logprobs under the policy that sampled them. ages: updates between that policy and the one trained from.
    responses: index into `ResponseData` of the response that a token belongs to.
    """

    behaviour: npt.NDArray[np.float32]
    advantages: npt.NDArray[np.float32]
    ages: npt.NDArray[np.int32]
    responses: Indices


@dataclass(frozen=True, slots=True)
class ResponseData:
    """What the losses need of whole responses, one entry each, all [R].

    samples: places among the samples that were packed. lengths: tokens. prompt_rows: index into the pack's rows of the
    last token of the prompt, where a critic reads its value. values, targets: see `Sample`.
    """

    samples: Indices
    lengths: Indices
    prompt_rows: Indices
    values: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pack:
    """One forward pass over T flat tokens that scores N response tokens of one sampling temperature.

    ids, positions: int64 [T]; positions count from the start of each sequence. rows: int64 [M], flat positions whose
    output predicts a response token, ascending. token_rows: int64 [N], index into rows of each response token,
    ascending. targets: int64 [N], the response tokens.
    """

    ids: Indices
    positions: Indices
    segments: tuple[Segment, ...]
    rows: Indices
    token_rows: Indices
    targets: Indices
    tokens: TokenData
    responses: ResponseData
    temperature: float

    @property
    def cost(self) -> float:
        """What computing it takes, in tokens: its own, and a share for those that its segments attend to."""
        attended = sum((len(segment.path) - segment.start) * len(segment.path) for segment in self.segments)
        return len(self.ids) + attended / TOKENS_PER_ATTENTION


@dataclass(slots=True)
class _Sequence:
    """A sample, its place among the samples, and the tokens that the model is fed for it: its prompt and its response
    less the last token.
    """

    sample: Sample
    place: int
    fed: Indices
    key: bytes


def _sequence(sample: Sample, place: int) -> _Sequence:
    fed = np.concatenate((sample.prompt_ids, sample.ids[:-1]))
    return _Sequence(sample, place, fed.astype(np.int64), fed.astype(">i4").tobytes())


def _shared_prefix(one: Indices, other: Indices) -> int:
    """How many tokens two sequences have in common at their start."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


class _PackBuilder:
    """Collects sequences in sorted order until the pack is full."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.tokens = 0
        self.attended = 0
        self._sequences: list[_Sequence] = []
        self._segments: list[Segment] = []
        self._paths: list[Indices] = []
        self._added: list[Indices] = []

    def shared(self, sequence: _Sequence) -> int:
        """Length of the prefix of `sequence` that the pack holds."""
        return _shared_prefix(self._sequences[-1].fed, sequence.fed) if self._sequences else 0

    def add(self, sequence: _Sequence, shared: int) -> None:
        """Append what `sequence` adds after its first `shared` tokens."""
        added = len(sequence.fed) - shared
        new = np.arange(self.tokens, self.tokens + added, dtype=np.int64)
        path = np.concatenate((self._paths[-1][:shared], new)) if shared else new
        if added:
            self._segments.append(Segment(shared, path))
            self._added.append(sequence.fed[shared:])
            self.attended += len(path)
        self._sequences.append(sequence)
        self._paths.append(path)
        self.tokens += added

    def build(self) -> Pack:
        """The pack of what was added."""
        samples = [sequence.sample for sequence in self._sequences]
        lengths = [len(sample.ids) for sample in samples]
        flat = np.concatenate([path[len(path) - count :] for path, count in zip(self._paths, lengths, strict=True)])
        rows, token_rows = np.unique(flat, return_inverse=True)
        order = np.argsort(token_rows, kind="stable")
        data = TokenData(
            behaviour=np.concatenate([sample.behaviour_logprobs for sample in samples])[order],
            advantages=np.repeat(np.array([sample.advantage for sample in samples], dtype=np.float32), lengths)[order],
            ages=np.concatenate([sample.ages for sample in samples])[order],
            responses=np.repeat(np.arange(len(samples)), lengths)[order],
        )
        starts = np.cumsum([0, *lengths[:-1]])
        responses = ResponseData(
            samples=np.array([sequence.place for sequence in self._sequences], dtype=np.int64),
            lengths=np.array(lengths, dtype=np.int64),
            prompt_rows=token_rows[starts],
            values=np.array([sample.value for sample in samples], dtype=np.float32),
            targets=np.array([sample.value_target for sample in samples], dtype=np.float32),
        )
        return Pack(
            ids=np.concatenate(self._added),
            positions=np.concatenate([np.arange(segment.start, len(segment.path)) for segment in self._segments]),
            segments=tuple(self._segments),
            rows=rows,
            token_rows=token_rows[order],
            targets=np.concatenate([sample.ids for sample in samples])[order].astype(np.int64),
            tokens=data,
            responses=responses,
            temperature=self.temperature,
        )


def _check(sample: Sample, pack_tokens: int) -> None:
    length = len(sample.prompt_ids) + len(sample.ids) - 1
    if length > pack_tokens:
        raise BadInput(
            f"a prompt and response of {length} tokens do not fit optimizer.pack_tokens {pack_tokens}; raise it"
        )


def pack(samples: Iterable[Sample], pack_tokens: int) -> tuple[Pack, ...]:
    """Packs of at most `pack_tokens` tokens that hold every sample once; a function of the samples and their order.

    Raises:
        BadInput: one sample alone is longer than `pack_tokens`.
    """
    sequences: Sequence[_Sequence] = [_sequence(sample, place) for place, sample in enumerate(samples)]
    builders: list[_PackBuilder] = []
    for sequence in sorted(sequences, key=lambda item: (item.sample.temperature, item.key)):
        _check(sequence.sample, pack_tokens)
        temperature = sequence.sample.temperature
        builder = builders[-1] if builders else None
        shared = builder.shared(sequence) if builder is not None else 0
        added = len(sequence.fed) - shared
        if (
            builder is None
            or builder.temperature != temperature
            or builder.tokens + added > pack_tokens
            or builder.attended + len(sequence.fed) > ATTENDED_PER_TOKEN * pack_tokens
        ):
            builder, shared = _PackBuilder(temperature), 0
            builders.append(builder)
        builder.add(sequence, shared)
    return tuple(builder.build() for builder in builders)
