"""Small trials and models for the learner's tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from lamer.common.records import (
    Completion,
    Episode,
    EpisodeStatus,
    FinishReason,
    Purpose,
    Reflection,
    Task,
    Trial,
    Turn,
    VersionSpan,
)
from lamer.learner.credit.samples import Sample, SampleKind

VOCABULARY = 64


def write_model(folder: Path, seed: int = 0, **sizes: object) -> Path:
    """A random Qwen3 of a few thousand parameters, large enough weights that logprobs differ."""
    torch.manual_seed(seed)
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        **sizes,
    }
    Qwen3ForCausalLM(Qwen3Config(**config)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def completion(
    prompt: Sequence[int], ids: Sequence[int], versions: Sequence[VersionSpan] = (), logprob: float = -1.0
) -> Completion:
    return Completion(
        prompt_ids=np.array(prompt, dtype=np.int32),
        ids=np.array(ids, dtype=np.int32),
        behaviour_logprobs=np.full(len(ids), logprob, dtype=np.float32),
        versions=tuple(versions) or (VersionSpan(0, 0, len(ids)),),
        finish_reason=FinishReason.STOP,
    )


def turn(reward: float, anchor: str = "s", response: Completion | None = None, action: str | None = "a") -> Turn:
    return Turn(response or completion([1, 2], [3]), action, reward, anchor)


def reflection(response: Completion | None = None, is_valid: bool = True) -> Reflection:
    return Reflection(response or completion([1, 9], [4]), "remark" if is_valid else "", is_valid)


def trial(
    episodes: Sequence[Sequence[Turn]],
    reflections: Sequence[Reflection] = (),
    *,
    group: int = 0,
    slot: int = 0,
    is_solved: bool = False,
    purpose: Purpose = Purpose.TRAIN,
) -> Trial:
    last = EpisodeStatus.SOLVED if is_solved else EpisodeStatus.FAILED
    statuses = [EpisodeStatus.FAILED] * (len(episodes) - 1) + [last]
    return Trial(
        trial_id=f"run/{purpose.value}/{group}/{slot}",
        group_id=group,
        slot=slot,
        purpose=purpose,
        task=Task("doors", "{}", group),
        episodes=tuple(
            Episode(index, tuple(turns), status)
            for index, (turns, status) in enumerate(zip(episodes, statuses, strict=True))
        ),
        reflections=tuple(reflections),
        actor="actor",
        seconds=1.0,
    )


def play_batch(seed: int, groups: int = 3, size: int = 4, version: int = 0) -> list[Trial]:
    """Random play of a guessing game in three episodes: prompts share beginnings, and responses repeat."""
    rng = np.random.default_rng(seed)
    batch = []
    for group in range(groups):
        for slot in range(size):
            history: list[int] = []
            episodes, reflections, is_solved = [], [], False
            for index in range(3):
                guess = int(rng.integers(4))
                is_solved = guess == group % 4
                response = _response([10, 11, 12, *history, 13], [20, 21, 30 + guess, 22], version, rng)
                episodes.append([turn(10.0 if is_solved else 0.0, str(sorted(history)), response)])
                if is_solved or index == 2:
                    break
                word = 50 + int(rng.integers(3))
                reflections.append(reflection(_response([10, 11, 12, *history, 14], [24, word, 25], version, rng)))
                history += [40 + guess, word]
            batch.append(trial(episodes, reflections, group=group, slot=slot, is_solved=is_solved))
    return batch


def _response(prompt: Sequence[int], ids: Sequence[int], version: int, rng: np.random.Generator) -> Completion:
    return completion(prompt, ids, [VersionSpan(version, 0, len(ids))], float(rng.normal(-2.0, 0.3)))


def sample(
    prompt: Sequence[int], ids: Sequence[int], advantage: float = 1.0, temperature: float = 1.0, age: int = 0
) -> Sample:
    return Sample(
        kind=SampleKind.TURN,
        prompt_ids=np.array(prompt, dtype=np.int32),
        ids=np.array(ids, dtype=np.int32),
        behaviour_logprobs=np.linspace(-2.0, -1.0, len(ids), dtype=np.float32),
        ages=np.full(len(ids), age, dtype=np.int32),
        temperature=temperature,
        is_valid=True,
        advantage=advantage,
    )
