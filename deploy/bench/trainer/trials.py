"""Trials to train on: made up in the paper's shape, or the batches that a run's journal holds.

A made-up group has one task: all its prompts begin with the same rules and board. A turn's prompt adds what its episode
holds so far, a later episode's what was remembered of the ones before, so that most of a prompt stands in the prompts
before it. Lengths are those of the dry run of `paper/sokoban-lamer.yaml`: a first prompt of 460 tokens, 860 on average;
responses are log-normal with median 320 and sigma 0.55, as in the rollout benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from lamer.common.errors import BadInput, Missing
from lamer.common.records import (
    Completion,
    Episode,
    EpisodeStatus,
    FinishReason,
    Purpose,
    Reflection,
    Task,
    TokenIds,
    Trial,
    Turn,
    VersionSpan,
)

_EPISODES = 3
_SOLVED = 0.45
_TURNS = (3, 4, 5, 6, 7, 7, 7)
_FIRST_TOKEN = 3
SHARING = ("paper", "none")


@dataclass(frozen=True, slots=True)
class TrialShape:
    """What made-up trials look like.

    sharing: paper, prompts that begin alike, as said above; none, prompts of the same lengths whose tokens are all
    their own. scale: of every length, 1 for the paper's. Lengths in tokens at scale 1: rules and board of the first
    prompt, what a turn adds to the next prompt and an episode to the next episode's, the median response and the most.
    """

    groups: int = 2
    group_size: int = 8
    sharing: str = "paper"
    scale: float = 1.0
    rules: int = 380
    board: int = 80
    turn: int = 80
    memory: int = 230
    response: int = 320
    longest_response: int = 1024

    def __post_init__(self) -> None:
        if self.sharing not in SHARING:
            raise BadInput(f"--sharing {self.sharing!r} is none of {', '.join(SHARING)}")
        if self.scale <= 0 or min(self.groups, self.group_size) < 1:
            raise BadInput(f"groups, group size and scale must be above 0, got {self}")


class _Author:
    """Makes up tokens and responses."""

    def __init__(self, shape: TrialShape, vocabulary: int, seed: int) -> None:
        self.shape = shape
        self.random = np.random.default_rng(seed)
        self._vocabulary = vocabulary

    def tokens(self, length: float) -> TokenIds:
        """Random tokens, of a length at scale 1."""
        count = max(1, round(length * self.shape.scale))
        return self.random.integers(_FIRST_TOKEN, self._vocabulary, count).astype(np.int32)

    def answer(self, prompt: TokenIds) -> Completion:
        """A response to a prompt."""
        shape = self.shape
        if shape.sharing == "none":
            prompt = self.random.integers(_FIRST_TOKEN, self._vocabulary, len(prompt)).astype(np.int32)
        drawn = float(self.random.lognormal(np.log(shape.response), 0.55))
        ids = self.tokens(min(max(drawn, 20.0), shape.longest_response))
        logprobs = np.full(len(ids), -np.log(self._vocabulary), dtype=np.float32)
        return Completion(prompt, ids, logprobs, (VersionSpan(0, 0, len(ids)),), FinishReason.STOP)

    def trial(self, group: int, slot: int, task: TokenIds) -> Trial:
        """A trial of the task whose prompts begin with `task`."""
        episodes: list[Episode] = []
        reflections: list[Reflection] = []
        memory = np.zeros(0, dtype=np.int32)
        is_solved = False
        while not is_solved and len(episodes) < _EPISODES:
            is_solved = bool(self.random.random() < _SOLVED)
            history = np.zeros(0, dtype=np.int32)
            turns = []
            for number in range(int(self.random.choice(_TURNS))):
                answer = self.answer(np.concatenate((task, memory, history)))
                turns.append(Turn(answer, "a", 0.0, f"{len(episodes)}/{number}" if number else "start"))
                history = np.concatenate((history, self.tokens(self.shape.turn)))
            last = turns[-1]
            turns[-1] = Turn(last.completion, "a", 10.0 if is_solved else 0.0, last.anchor_state)
            status = EpisodeStatus.SOLVED if is_solved else EpisodeStatus.FAILED
            episodes.append(Episode(len(episodes), tuple(turns), status))
            if not is_solved and len(episodes) < _EPISODES:
                reflections.append(Reflection(self.answer(np.concatenate((task, memory, history))), "x", True))
                memory = np.concatenate((memory, self.tokens(self.shape.memory)))
        task_record = Task("doors", "{}", group)
        name = f"bench/train/{group}/{slot}"
        return Trial(name, group, slot, Purpose.TRAIN, task_record, tuple(episodes), tuple(reflections), "bench", 1.0)


def made_up_trials(shape: TrialShape, vocabulary: int, seed: int) -> tuple[Trial, ...]:
    """A batch of the shape, of tokens below `vocabulary`: a function of its arguments."""
    author = _Author(shape, vocabulary, seed)
    found = []
    for group in range(shape.groups):
        task = np.concatenate((author.tokens(shape.rules), author.tokens(shape.board)))
        found += [author.trial(group, slot, task) for slot in range(shape.group_size)]
    return tuple(found)


def recorded_trials(run: Path, count: int) -> tuple[tuple[Trial, ...], ...]:
    """The last `count` batches that a run trained on, or as many as its journal holds.

    Raises:
        Missing: no journal, or no batch in it.
    """
    from lamer.learner.journal.reader import JournalReader, TrialFilter, read_batch

    path = run / "journal.db"
    steps = [row.step for row in JournalReader(path).rows(TrialFilter(limit=1)) if row.step is not None]
    if not steps:
        raise Missing(f"the journal {path} holds no batch: the run has not made its first update")
    last = steps[0]
    return tuple(read_batch(path, step) for step in range(max(1, last - count + 1), last + 1))


def as_fresh(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The same trials as version 0 would have played them, so that any version may be trained on them."""
    return tuple(
        replace(
            trial,
            episodes=tuple(
                replace(
                    episode,
                    turns=tuple(replace(turn, completion=_of_first(turn.completion)) for turn in episode.turns),
                )
                for episode in trial.episodes
            ),
            reflections=tuple(replace(each, completion=_of_first(each.completion)) for each in trial.reflections),
        )
        for trial in trials
    )


def _of_first(completion: Completion) -> Completion:
    return replace(completion, versions=(VersionSpan(0, 0, len(completion.ids)),))
