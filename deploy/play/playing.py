"""What `lamer play` does: one trial in the terminal, prompts as a policy meets them, answered by a person or at random.

Without a model's folder prompts are shown as the message that a chat template wraps, and nothing bounds their length.
With one they are shown as its tokenizer and template make them, bounded and shortened as in training.
"""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lamer.actors.episode import Stage
from lamer.actors.trial import TrialLimits, TrialPlay
from lamer.common.errors import RunFailed
from lamer.common.messages import Lease, Sampling
from lamer.common.records import Purpose, Task, Trial, make_trial_id
from lamer.common.settings import Settings
from lamer.deploy.play.scripted import TRIAL_SECONDS, UNBOUNDED_TOKENS
from lamer.deploy.play.terminal import EndOfInput, Read, Terminal, Voice
from lamer.envs import registry
from lamer.envs.results import closing_env


def play_here(
    settings: Settings,
    seed: int,
    voice: Voice,
    console: Console,
    read: Read | None,
    *,
    counts_tokens: bool = False,
) -> Trial | None:
    """Play task `seed` of the configured environment here; None if the person left before its end.

    Raises:
        BadInput: the environment or its options can't be used. RunFailed: the environment failed, or a prompt grew too
            long.
    """
    task = Task(settings.env.name, registry.canonical_config(settings.env.name, settings.env.options), seed)
    with closing_env(registry.make_env(task)) as env:
        terminal = Terminal(env, voice, console, read, seed, counts_tokens=counts_tokens)
        play = TrialPlay(
            Stage(_lease(settings, task), env, terminal, voice.renderer, _limits(settings, voice), terminal), "play"
        )
        try:
            trial = asyncio.run(play.run())
        except EndOfInput:
            console.print(Text("\nend of input", style="dim"))
            return None
    if play.failure:
        raise RunFailed(f"episode {len(trial.episodes)} could not be played to its end: {play.failure}")
    console.print(Text(outcome(trial), style="bold"), soft_wrap=True)
    console.print(episodes_table(trial))
    return trial


def outcome(trial: Trial) -> str:
    """What became of a trial, in a line."""
    solved, left_out = trial.solved_at, trial.left_out_tokens
    ended = "not solved" if solved is None else f"solved in episode {solved + 1}"
    cut = f", {len(left_out)} prompts shortened by {sum(left_out)} tokens in all" if left_out else ""
    return f"{trial.task.env}, seed {trial.task.seed}: {ended}{cut}"


def episodes_table(trial: Trial) -> Table:
    """How each episode went."""
    table = Table(box=None)
    for title in ("episode", "outcome", "turns", "valid", "reward"):
        table.add_column(title, justify="left" if title == "outcome" else "right")
    for episode in trial.episodes:
        valid = sum(turn.is_valid for turn in episode.turns)
        row = (episode.index + 1, episode.status.value, len(episode.turns), valid, f"{episode.reward:g}")
        table.add_row(*map(str, row))
    return table


def _limits(settings: Settings, voice: Voice) -> TrialLimits:
    trial = settings.trial
    if not voice.has_model:
        return TrialLimits(trial.max_turns, UNBOUNDED_TOKENS, trial.prompting)
    budget = trial.max_prompt_tokens
    return TrialLimits(trial.max_turns, budget, trial.prompting, budget if trial.shorten else 0)


def _lease(settings: Settings, task: Task) -> Lease:
    trial = settings.trial
    sampling = Sampling(1.0, 1.0, 0, trial.max_response_tokens, trial.max_reflection_tokens)
    return Lease(
        trial_id=make_trial_id("play", Purpose.TRAIN, 0, 0),
        group_id=0,
        slot=0,
        purpose=Purpose.TRAIN,
        task=task,
        episodes=trial.episodes,
        memory=trial.memory,
        sampling=sampling,
        seconds=TRIAL_SECONDS,
    )
