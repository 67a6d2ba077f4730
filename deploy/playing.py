"""What `lamer play` does: one trial in the terminal, prompts as a policy meets them, answered by a person or at random.

    play_here      settings, seed and who answers -> a trial, played by the same code as an actor's
    Terminal       shows prompts and what came of the answers; answers as a person types, or as scripted play does

Without a model's folder prompts are shown as the message that a chat template wraps, and nothing bounds their length.
With one they are shown as its tokenizer and template make them, bounded and shortened as in training.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from actors.episode import Stage
from actors.policy import Request, RequestKind
from actors.rendering import Renderer
from actors.trial import TrialLimits, TrialPlay
from actors.watching import Watcher
from common.errors import RunFailed
from common.messages import Lease, Sampling
from common.records import (
    Completion,
    Episode,
    FinishReason,
    Purpose,
    Task,
    Trial,
    VersionSpan,
    make_trial_id,
)
from common.settings import Settings
from deploy.scripted import TRIAL_SECONDS, UNBOUNDED_TOKENS, Encoder
from envs import registry
from envs.base import Env, StepResult

Read = Callable[[str], str]
"""A line from the keyboard, after a mark that asks for it; EOFError at the end of input."""

_CLOSING_TAG = re.compile(r"</(\w+)>")
_END = "<|end|>"


class EndOfInput(Exception):
    """The person who plays has gone."""


@dataclass(frozen=True, slots=True)
class Voice:
    """How prompts become ids and answers too. has_model: with a model's own tokenizer."""

    renderer: Renderer
    encoder: Encoder
    has_model: bool

    @classmethod
    def load(cls, model: Path | None, use_chat_template: bool) -> Voice:
        """That of a model's folder; ids are bytes where there is none.

        Raises:
            Missing: no such folder or no tokenizer in it. BadInput: a file in it can't be used.
        """
        if model is not None:
            return cls(Renderer.load(model, use_chat_template), Encoder.load(model), has_model=True)
        tokenizer = _byte_tokenizer()
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        return cls(Renderer(tokenizer, None, size), Encoder(tokenizer, size - 1), has_model=False)


class Terminal(Watcher):
    """The policy of one trial, and its watcher.

    read: asks a person for each answer; None: answers are the environment's scripted ones. counts_tokens: show how many
    each prompt and answer has.
    """

    def __init__(
        self, env: Env, voice: Voice, console: Console, read: Read | None, seed: int, *, counts_tokens: bool
    ) -> None:
        self._env = env
        self._voice = voice
        self._console = console
        self._read = read
        self._rng = random.Random(seed)
        self._counts_tokens = counts_tokens
        self._episode = 0
        self._turn = 0
        self._last = ""

    async def complete(self, request: Request) -> Completion:
        """Show a prompt, take the answer.

        Raises:
            EndOfInput: there is none.
        """
        is_play = request.kind is RequestKind.PLAY
        self._turn += is_play
        playing = f"episode {self._episode + 1}, turn {self._turn}"
        title = playing if is_play else f"reflection on episode {self._episode}"
        decode = self._voice.renderer.decode_all if self._voice.has_model else self._voice.renderer.decode
        self._console.print(Rule(title, align="left", style="cyan"))
        self._show(Text(decode(request.prompt_ids).rstrip("\n")))
        answer = self._scripted(is_play) if self._read is None else self._asked(request.stop, is_play)
        ids = self._voice.encoder.encode(answer)
        if self._counts_tokens:
            counts = f"{len(request.prompt_ids)} tokens in the prompt, {len(ids)} in the answer"
            self._console.print(Text(counts, style="dim"))
        if not is_play:
            remark = self._env.parse_reflection(answer)
            self._tell("no valid remark: nothing is kept" if remark is None else f"kept in memory: {remark}")
        return Completion(
            prompt_ids=request.prompt_ids,
            ids=ids,
            behaviour_logprobs=np.zeros(len(ids), dtype=np.float32),
            versions=(VersionSpan(0, 0, len(ids)),),
            finish_reason=FinishReason.STOP,
        )

    def saw_step(self, episode: int, turn: int, result: StepResult) -> None:
        """Show what an answer did."""
        action = "no valid action" if result.action is None else f"action {result.action}"
        self._tell(f"{action}, reward {result.reward:g}")
        self._last = result.observation.text

    def saw_episode(self, episode: Episode) -> None:
        """Show the last observation of an episode and how it ended."""
        self._show(Text(self._last))
        colour = "green" if episode.is_solved else "red"
        said = f"episode {episode.index + 1}: {episode.status.value} after {len(episode.turns)} turns"
        self._console.print(Text(f"{said}, reward {episode.reward:g}", style=f"bold {colour}"))
        self._episode, self._turn = episode.index + 1, 0

    def _scripted(self, is_play: bool) -> str:
        answer = self._env.random_response(self._rng) if is_play else self._env.random_reflection(self._rng)
        self._show(Text(f"> {answer}", style="bold"))
        return answer

    def _asked(self, stop: tuple[str, ...], is_play: bool) -> str:
        """What a person answers: in tags of the environment's where it was typed without, cut after a stop text."""
        assert self._read is not None
        typed = ""
        while not typed.strip():
            try:
                typed = self._read("action> " if is_play else "reflection> ")
            except EOFError as error:
                raise EndOfInput from error
        answer = cut_after(in_tags(typed, stop), stop)
        if answer != typed:
            self._tell(f"sent as {answer}")
        return answer

    def _tell(self, text: str) -> None:
        self._show(Text(text, style="yellow"))

    def _show(self, text: Text) -> None:
        """Lines as they are; those too long for a terminal are broken between words."""
        self._console.print(text, soft_wrap=not self._console.is_terminal)


def in_tags(answer: str, stop: tuple[str, ...]) -> str:
    """An answer with the tags that the environment expects around it, unless it has an opening one.

    "up, left" for stop ("</action>",) becomes "<action>up, left</action>".
    """
    match = next((found for text in stop if (found := _CLOSING_TAG.fullmatch(text))), None)
    if match is None or f"<{match[1]}>" in answer:
        return answer
    return f"<{match[1]}>{answer.strip()}{match[0]}"


def cut_after(answer: str, stop: tuple[str, ...]) -> str:
    """An answer up to the end of the first stop text in it, as a server cuts it."""
    ends = [answer.find(text) + len(text) for text in stop if text in answer]
    return answer[: min(ends)] if ends else answer


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
    with contextlib.closing(registry.make_env(task)) as env:
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


def read_keyboard(mark: str) -> str:
    """A line from the keyboard. Ctrl-C raises KeyboardInterrupt at once, also while an event loop runs.

    Raises:
        EOFError: the input has ended.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input(mark)
    except KeyboardInterrupt:
        print()
        raise
    finally:
        signal.signal(signal.SIGINT, before)


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


def _byte_tokenizer() -> Tokenizer:
    """One id a byte, and an end token, the last: text goes through it and comes back as it was."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(_END, special=True, normalized=False)])
    return tokenizer
