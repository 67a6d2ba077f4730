"""What may be trained, said once more and otherwise than by the gateway: number by number, in plain Python."""

from __future__ import annotations

import math

from lamer.common.records import Completion, Trial


def objections(trial: Trial, vocabulary: int, newest_version: int, temperature: float, longest: int) -> list[str]:
    """Why a trial must not have been trained."""
    found = []
    for episode in trial.episodes:
        if episode.status.value not in ("solved", "failed", "max_turns"):
            found.append(f"status {episode.status}")
        for turn in episode.turns:
            if (
                math.isnan(turn.reward)
                or math.isinf(turn.reward)
                or turn.reward > 1_000_000
                or turn.reward < -1_000_000
            ):
                found.append(f"reward {turn.reward}")
            found += _objections(turn.completion, vocabulary, newest_version, temperature, longest)
    for reflection in trial.reflections:
        found += _objections(reflection.completion, vocabulary, newest_version, temperature, longest)
    return found


def _objections(
    completion: Completion, vocabulary: int, newest_version: int, temperature: float, longest: int
) -> list[str]:
    ids = (*completion.ids.tolist(), *completion.prompt_ids.tolist())
    found = [f"id {each}" for each in ids if each not in range(vocabulary)]
    for logprob in completion.behaviour_logprobs.tolist():
        if math.isnan(logprob) or logprob > 0.0 or logprob < -1000.0:
            found.append(f"logprob {logprob}")
    covered: list[int] = []
    for span in completion.versions:
        covered += range(span.start, span.end)
        if span.version < 0 or span.version > newest_version:
            found.append(f"version {span.version}")
    if covered != list(range(len(completion.ids))) or len(completion.behaviour_logprobs) != len(completion.ids):
        found.append("lengths")
    if completion.temperature != temperature:
        found.append(f"temperature {completion.temperature}")
    if not 1 <= len(completion.ids) <= longest:
        found.append(f"{len(completion.ids)} tokens")
    return found
